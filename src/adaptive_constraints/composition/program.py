"""A resolved stack as the program that the engine runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from adaptive_constraints.composition.bound_view import BoundView
from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.program import Advance, OuterStep, Program
from adaptive_constraints.core.types import Spec


@dataclass(frozen=True)
class StackProgram(Program):
    """The program of a stack, which still knows the stack."""

    resolved: Resolved = field(kw_only=True)


def program_of(resolved: Resolved, spec: Spec, horizon: int) -> StackProgram:
    """The program of a resolved stack on data of these dimensions, in a run of ``horizon`` steps."""
    learner, adapters = resolved.learner, resolved.adapters
    outer = None
    if resolved.meta is not None:
        owner, step = resolved.meta
        outer = OuterStep(owner.name, step, learner.terms, owner.meta_loss)
    return StackProgram(
        stages=resolved.stages,
        batch_size=learner.batch_size,
        view=partial(BoundView, resolved, spec),
        reads_data=learner.reads_data or any(adapter.reads_data for adapter in adapters),
        constrained=resolved.facts.constrained,
        outer=outer,
        tradeoff=BoundView.tradeoff,
        advancing={
            adapter.name: Advance(adapter.advance_every(resolved.facts, horizon), adapter.advance)
            for adapter in adapters
            if type(adapter).advance is not Adapter.advance
        },
        diagnostics={adapter.name: adapter.diagnostics for adapter in adapters},
        policies={"act": learner.act, "explore": learner.explore},
        resolved=resolved,
    )


__all__ = ["StackProgram", "program_of"]
