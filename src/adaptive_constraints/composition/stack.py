"""Composition: a learner and its adapters, resolved once into who answers where, with checks and explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from adaptive_constraints.composition import registry
from adaptive_constraints.composition.checks import (
    StackWarning,
    check_asked,
    check_constrained,
    check_critic,
    check_groups,
    check_kinds,
    check_slot,
    idle,
    label,
    misspelled,
    unheard_answers,
    without_effect,
)
from adaptive_constraints.composition.explain import (
    explain_evidence,
    explain_preparations,
    explain_seams,
    explain_stages,
)
from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.composition.shared_value import SharedValue
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import SEAMS, AdapterStage, Facts, MetaStep, Phase, Stage
from adaptive_constraints.errors import StackError


@dataclass(frozen=True)
class Stack:
    """An immutable description: a learner and adapters, all of them settings only."""

    learner: Learner
    adapters: tuple[Adapter, ...] = ()

    def __post_init__(self) -> None:
        check_kinds(self.learner, self.adapters)
        self.resolve()

    @property
    def name(self) -> str:
        """Names of the learner and its adapters, such as ``TD3BC + aspc``."""
        return " + ".join([type(self.learner).__name__, *(adapter.name for adapter in self.adapters)])

    def without(self, *names: str) -> Stack:
        """Make the same stack less the adapters of these names."""
        known = [adapter.name for adapter in self.adapters]
        for name in names:
            if name not in known:
                raise StackError(f"no adapter named {name!r} in {self.name}; its adapters are {known or 'none'}")
        return Stack(self.learner, tuple(adapter for adapter in self.adapters if adapter.name not in names))

    def resolve(self, phase: Phase = "offline") -> Resolved:
        """Work out who answers where; raises `StackError` where parts do not fit."""
        if phase not in get_args(Phase):
            raise StackError(f"phase must be 'offline' or 'online', not {phase!r}")
        facts = _facts(self.learner, phase)
        warnings = [
            StackWarning(adapter.name, text)
            for adapter in self.adapters
            for text in adapter.check(_facts_for(adapter, self.adapters, facts, phase))
        ]
        for adapter in self.adapters:
            check_critic(self.learner, adapter, facts, phase)
        shared = _shared_value(self.learner, self.adapters, facts)
        if shared is not None:
            facts = replace(facts, seams=facts.seams | shared.seams)
        answering = _answering(self.learner, self.adapters, facts, phase)
        warnings += unheard_answers(answering, facts) + without_effect(self.learner, answering, facts)
        warnings += [
            StackWarning(adapter.name, text)
            for adapter in self.adapters
            for text in idle(adapter, facts, phase) + misspelled(adapter)
        ]
        return Resolved(
            learner=self.learner,
            adapters=self.adapters,
            phase=phase,
            facts=facts,
            answering=answering,
            stages=_stages(self.learner, self.adapters, facts, phase, shared),
            meta=_meta(self.adapters, facts),
            shared_value=shared,
            warnings=tuple(warnings),
        )

    def to_spec(self) -> dict[str, Any]:
        """A plain tree of names and settings that `from_spec` rebuilds the stack from."""
        return {
            "learner": registry.to_spec(self.learner),
            "adapters": [registry.to_spec(adapter) for adapter in self.adapters],
        }

    @staticmethod
    def from_spec(spec: Mapping[str, Any]) -> Stack:
        """The stack that `to_spec` described."""
        adapters = (registry.from_spec(entry, registry.adapter) for entry in spec["adapters"])
        return Stack(registry.from_spec(spec["learner"], registry.learner), tuple(adapters))

    def explain(self, phase: Phase = "offline") -> str:
        """Describe one step, stage by stage, and who answers at each seam, as text."""
        resolved = self.resolve(phase)
        return "\n".join(
            [
                self.name,
                *explain_preparations(resolved),
                "",
                "Stages of one step",
                *explain_stages(resolved),
                "",
                "Seams",
                *explain_seams(resolved),
                *explain_evidence(resolved),
                *(["", "Warnings", *(f"  {text}" for text in resolved.warnings)] if resolved.warnings else []),
            ]
        )


# -- resolution ---------------------------------------------------------------------------------------------------


def _answering(
    learner: Learner, adapters: Sequence[Adapter], facts: Facts, phase: Phase
) -> dict[str, tuple[Adapter, ...]]:
    answering: dict[str, list[Adapter]] = {seam: [] for seam in SEAMS}
    for adapter in adapters:
        for seam in sorted(adapter.answers(facts, phase)):
            check_asked(learner, adapter, seam, facts)
            answering[seam].append(adapter)
    for seam, answers in answering.items():
        replacing = [adapter for adapter in answers if seam in adapter.replaces or SEAMS[seam].combine == "single"]
        if len(replacing) > 1:
            first, second = replacing[:2]
            raise StackError(
                f"{label(first)} and {label(second)} both decide {seam!r}, which has one answer: remove one of them"
            )
        # The one that replaces goes first, so that it cannot swallow what the others add.
        answers.sort(key=lambda adapter: adapter not in replacing)
    return {seam: tuple(answers) for seam, answers in answering.items()}


def _facts(learner: Learner, phase: Phase) -> Facts:
    """The learner's own facts, and how often it steps its constrained group."""
    facts = learner.facts()
    groups = {update.group: stage.every for stage in learner.stages(phase) for update in stage.updates}
    return replace(facts, constrained_every=groups.get(facts.constrained, 1))


def _facts_for(adapter: Adapter, adapters: Sequence[Adapter], facts: Facts, phase: Phase) -> Facts:
    """The learner's facts, with what the other adapters of the stack add to them."""
    others = [other for other in adapters if other is not adapter]
    reads = any(other.meta(facts) or "query_action" in other.answers(facts, phase) for other in others)
    replaced = frozenset(seam for other in others for seam in other.answers(facts, phase) & other.replaces)
    return replace(facts, reads_policy_action=facts.reads_policy_action or reads, replaced=replaced)


def _shared_value(learner: Learner, adapters: Sequence[Adapter], facts: Facts) -> SharedValue | None:
    wanted = [(adapter, wish) for adapter in adapters if (wish := adapter.expectile(facts)) is not None]
    if not wanted or facts.owns_value:
        return None
    (first, expectile), *others = wanted
    for other, another in others:
        if another != expectile:
            raise StackError(
                f"{label(first)} and {label(other)} share one value on {label(learner)} but ask for the "
                f"expectiles {expectile} and {another}: set both the same"
            )
    return SharedValue(expectile)


def _meta(adapters: Sequence[Adapter], facts: Facts) -> tuple[Adapter, MetaStep] | None:
    learning = [(adapter, step) for adapter in adapters if (step := adapter.meta(facts)) is not None]
    return learning[0] if learning else None


def _stages(
    learner: Learner, adapters: Sequence[Adapter], facts: Facts, phase: Phase, shared: SharedValue | None
) -> tuple[Stage, ...]:
    own = learner.stages(phase)
    check_constrained(own, facts.constrained, learner)
    added: list[AdapterStage] = [AdapterStage("start", shared.stage())] if shared else []
    for adapter in adapters:
        for entry in adapter.stages(facts, phase):
            check_slot(learner, adapter, entry, own)
            added.append(entry)
    in_slot: Callable[[str], list[Stage]] = lambda slot: [entry.stage for entry in added if entry.slot == slot]  # noqa: E731
    stages = in_slot("start")
    for stage in own:
        groups = [update.group for update in stage.updates]
        if facts.constrained in groups:
            joined = in_slot("with")
            stage = stage._replace(
                updates=stage.updates + tuple(update for extra in joined for update in extra.updates),
                averages=stage.averages + tuple(average for extra in joined for average in extra.averages),
            )
        stages.append(stage)
        if "critic" in groups:
            stages += in_slot("critic")
    stages += in_slot("end")
    check_groups(stages)
    return tuple(stages)
