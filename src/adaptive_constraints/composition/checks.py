"""Checks of a stack: parts that do not fit, and settings or answers without effect."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import SEAMS, TD_SEAMS, AdapterStage, Facts, Phase, Stage
from adaptive_constraints.errors import StackError


class StackWarning(NamedTuple):
    """A doubt about a stack; ``str()`` puts the adapter's name before the text."""

    adapter: str | None
    """The name of the adapter it is about; None: the stack as a whole."""
    text: str

    def __str__(self) -> str:
        return self.text if self.adapter is None else f"{self.adapter}: {self.text}"


def label(part: Learner | Adapter) -> str:
    """The name under which errors speak of a part."""
    kind = type(part).__name__
    return f"{kind} (name {part.name!r})" if isinstance(part, Adapter) else kind


def check_kinds(learner: object, adapters: Sequence[object]) -> None:
    """Refuse what is no learner or adapter, misnamed adapters, and two of one name."""
    if not isinstance(learner, Learner):
        what = f"the class {learner.__name__}; write {learner.__name__}()" if isinstance(learner, type) else learner
        raise StackError(f"the first argument of wrap must be a learner such as TD3BC(), not {what}")
    seen: dict[str, Adapter] = {}
    for adapter in adapters:
        if not isinstance(adapter, Adapter):
            what = f"the class {adapter.__name__}; write {adapter.__name__}()" if isinstance(adapter, type) else adapter
            raise StackError(f"every further argument of wrap must be an adapter such as ASPC(), not {what}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", adapter.name):
            raise StackError(f"adapter name {adapter.name!r}: use lower-case letters, digits and underscores")
        if adapter.name in seen:
            raise StackError(
                f"{label(seen[adapter.name])} and {label(adapter)} share one name: "
                f"give one of them another, such as {type(adapter).__name__}(name='{adapter.name}_2')"
            )
        seen[adapter.name] = adapter
    for part in (learner, *seen.values()):
        part.check_settings()


def idle(adapter: Adapter, facts: Facts, phase: Phase) -> list[str]:
    """Warn of an adapter that does nothing at all."""
    overridden = {name for name in vars(Adapter) if getattr(type(adapter), name) is not getattr(Adapter, name)}
    acts = overridden & {"answers", "stages", "advance", "meta", "diagnostics"}
    if acts or adapter.answers(facts, phase):
        return []
    return ["it answers no seam and has no stage, so it changes nothing"]


def misspelled(adapter: Adapter) -> list[str]:
    """Methods that nobody calls, but for a letter or two."""
    known = [name for name in vars(Adapter) if not name.startswith("_")]
    own = {name for name, value in vars(type(adapter)).items() if callable(value) and not name.startswith("_")}
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.85) for name in sorted(own - set(known))}
    return [f"nobody calls its method {name}(): is {close[0]}() meant?" for name, close in near.items() if close]


def unheard_answers(answering: Mapping[str, tuple[Adapter, ...]], facts: Facts) -> list[StackWarning]:
    """Answers that nobody hears because the term that asks for them was replaced."""
    if not facts.imitation_is_constraint:
        return []
    return [
        StackWarning(unheard.name, f"its answer to {seam!r} is not heard by the constraint, which {by.name} replaces")
        for by in answering["constraint"]
        if "constraint" in by.replaces
        for seam in ("behavior_action", "sample_weight")
        for unheard in answering[seam]
    ]


def without_effect(learner: Learner, answering: Mapping[str, tuple[Adapter, ...]], facts: Facts) -> list[StackWarning]:
    """Settings of the learner's own bootstrap, where it is replaced."""
    return [
        StackWarning(
            by.name, f"it replaces the bootstrap, so that {name}={getattr(learner, name)} of the learner has no effect"
        )
        for by in answering["bootstrap"]
        if "bootstrap" in by.replaces
        for name in facts.bootstrap_settings
    ]


def check_asked(learner: Learner, adapter: Adapter, seam: str, facts: Facts) -> None:
    """Refuse an answer at a seam that the learner does not ask, and a trade-off that it does not have."""
    if seam not in SEAMS:
        raise StackError(f"{label(adapter)} answers {seam!r}, which is no seam; the seams are {', '.join(SEAMS)}")
    if seam == "tradeoff" and facts.tradeoff is None:
        raise StackError(
            f"{label(adapter)} sets the trade-off, but {label(learner)} as configured has none to set: "
            "configure the learner with a constraint, or remove the adapter"
        )
    if seam not in facts.seams and not SEAMS[seam].asked_by_adapters:
        raise StackError(
            f"{label(adapter)} answers {seam!r}, which {label(learner)} never asks (it asks "
            f"{', '.join(sorted(facts.seams))}): let answers() leave it out on such learners, or use another learner"
        )
    if seam == "tradeoff" and facts.learns_tradeoff:
        raise StackError(
            f"{label(adapter)} sets the trade-off, but {label(learner)} as configured adapts it itself: "
            "switch that off in the learner, or remove the adapter"
        )


def check_critic(learner: Learner, adapter: Adapter, facts: Facts, phase: Phase) -> None:
    """Refuse an adapter that reads or trains values on a learner without critics."""
    trains = adapter.answers(facts, phase) & (TD_SEAMS | {"query_action"})
    if not facts.owns_critic and (trains or adapter.expectile(facts) is not None):
        raise StackError(
            f"{label(adapter)} needs Q, but {label(learner)} has no critics: use one that has, or remove the adapter"
        )


def check_constrained(stages: Sequence[Stage], constrained: str, learner: Learner) -> None:
    """Refuse a learner that does not step its constrained group in exactly one update."""
    count = sum(update.group == constrained for stage in stages for update in stage.updates)
    if count != 1:
        raise StackError(
            f"{label(learner)} must step its constrained group {constrained!r} in exactly one update, not {count}"
        )


def check_slot(learner: Learner, adapter: Adapter, entry: AdapterStage, own: Sequence[Stage]) -> None:
    """Refuse a stage whose slot this learner does not have, or whose interval the slot does not allow."""
    if entry.slot == "critic" and not any(update.group == "critic" for stage in own for update in stage.updates):
        raise StackError(
            f"{label(adapter)} has a stage {entry.stage.name!r} in the slot 'critic', but {label(learner)} steps no "
            "group of that name: let stages() use another slot on such learners"
        )
    if entry.slot == "with" and entry.stage.every != 1:
        raise StackError(
            f"{label(adapter)} has a stage {entry.stage.name!r} in the slot 'with' every {entry.stage.every} steps, "
            f"but that slot runs with the constrained stage of {label(learner)}: leave the interval at 1, or use "
            "another slot"
        )


def check_groups(stages: Sequence[Stage]) -> None:
    """Refuse two updates of one group."""
    seen: dict[str, str] = {}
    for stage in stages:
        for update in stage.updates:
            if update.group in seen:
                raise StackError(
                    f"stages {seen[update.group]!r} and {stage.name!r} both step the group {update.group!r}: "
                    "give each group one update"
                )
            seen[update.group] = stage.name
