"""The laws of an adapter."""

from __future__ import annotations

from dataclasses import replace

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import SEAMS
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing.case import PHASES, Case


def answers_seams_that_exist(case: Case) -> None:
    """Every seam that it answers exists, in either phase."""
    (adapter,) = case.adapters
    for phase in PHASES:
        unknown = adapter.answers(case.learner.facts(), phase) - SEAMS.keys()
        assert not unknown, f"{adapter.name}: it answers {sorted(unknown)}, which are no seams"
        Stack(case.learner, case.adapters).resolve(phase)


def diagnoses_numbers(case: Case) -> None:
    """Its diagnostics are finite."""
    for name, values in case.ran().diagnose().items():
        assert values.isfinite().all(), f"{case.name}: the diagnostic {name!r} is not finite"


def draws_under_its_own_name(case: Case) -> None:
    """The sites of its noise begin with its name."""
    (adapter,) = case.adapters
    bare, whole = Case(case.learner, (), case.data), case
    more = whole.ran().draws - bare.ran(whole.steps).draws
    strangers = {draw.site for draw in more if not draw.site.startswith(adapter.name)}
    assert not strangers, f"{adapter.name}: its noise at {sorted(strangers)} does not begin with its name"


def two_of_a_kind_stay_apart(case: Case) -> None:
    """Two of it in one stack, under two names, share no parameters."""
    (adapter,) = case.adapters
    try:
        engine = case.plus(replace(adapter, name=f"{adapter.name}_twin")).engine()
    except StackError:  # it decides something that only one can
        return
    engine.run(case.steps)
    own = {name for name in engine.params if name.startswith(f"{adapter.name}.")}
    twins = {name for name in engine.params if name.startswith(f"{adapter.name}_twin.")}
    assert len(own) == len(twins), f"{adapter.name}: two of it share a group; make names by self.group(...)"


__all__ = ["answers_seams_that_exist", "diagnoses_numbers", "draws_under_its_own_name", "two_of_a_kind_stay_apart"]
