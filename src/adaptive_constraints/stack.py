"""Composition: a learner and its adapters, resolved once into who answers where, with checks and explanations."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor

from adaptive_constraints import registry, settings
from adaptive_constraints.adapter import SEAMS, Adapter, AdapterStage, MetaStep
from adaptive_constraints.errors import StackError
from adaptive_constraints.learner import Facts, Learner, Params, Phase, Stage
from adaptive_constraints.shared_value import SharedValue


@dataclass(frozen=True)
class Resolved:
    """A stack resolved for one phase: everything that is static while it trains."""

    learner: Learner
    adapters: tuple[Adapter, ...]
    phase: Phase
    facts: Facts
    answering: Mapping[str, tuple[Adapter, ...]]
    """Who answers each seam, in the order in which answers are folded."""
    stages: tuple[Stage, ...]
    """All stages of a tick, the adapters' among them."""
    meta: tuple[Adapter, MetaStep] | None
    """The adapter that learns the trade-off, if one does."""
    shared_value: SharedValue | None
    """The toolkit's state value, where adapters need one and the learner has none."""
    warnings: tuple[str, ...]

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """The state value [N] that adapters read, at states [N, D]."""
        if self.shared_value is not None:
            return self.shared_value.value(p, observation)
        own = self.learner.value(p, observation)
        if own is None:
            raise StackError(
                f"v.value was read, but {_label(self.learner)} has no value and no adapter asked for one: "
                "let the adapter's expectile() return a number"
            )
        return own


@dataclass(frozen=True)
class Stack:
    """An immutable description: a learner and adapters, all of them settings only."""

    learner: Learner
    adapters: tuple[Adapter, ...] = ()

    def __post_init__(self) -> None:
        _check_kinds(self.learner, self.adapters)
        self.resolve()

    @property
    def name(self) -> str:
        """Such as ``TD3BC + aspc``."""
        return " + ".join([type(self.learner).__name__, *(adapter.name for adapter in self.adapters)])

    def without(self, *names: str) -> Stack:
        """The same stack less the adapters of these names."""
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
            f"{adapter.name}: {text}"
            for adapter in self.adapters
            for text in adapter.check(_facts_for(adapter, self.adapters, facts, phase))
        ]
        shared = _shared_value(self.learner, self.adapters, facts)
        if shared is not None:
            facts = replace(facts, seams=facts.seams | shared.seams)
        answering = _answering(self.learner, self.adapters, facts, phase)
        warnings += _unheard(answering, facts) + _without_effect(self.learner, answering, facts)
        warnings += [
            f"{each.name}: {text}" for each in self.adapters for text in _idle(each, facts, phase) + _misspelled(each)
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
        adapters = (registry.from_spec(each, registry.adapter) for each in spec["adapters"])
        return Stack(registry.from_spec(spec["learner"], registry.learner), tuple(adapters))

    def explain(self, phase: Phase = "offline") -> str:
        """What one tick does, stage by stage, and who answers at each seam, as text."""
        resolved = self.resolve(phase)
        return "\n".join(
            [
                self.name,
                *_explain_preparations(resolved),
                "",
                "Stages of one tick",
                *_explain_stages(resolved),
                "",
                "Seams",
                *_explain_seams(resolved),
                *_explain_pairs(resolved),
                *(["", "Warnings", *(f"  {text}" for text in resolved.warnings)] if resolved.warnings else []),
            ]
        )


# -- resolution ---------------------------------------------------------------------------------------------------


def _label(part: Learner | Adapter) -> str:
    """How errors name a part."""
    kind = type(part).__name__
    return f"{kind} (name {part.name!r})" if isinstance(part, Adapter) else kind


def _check_kinds(learner: object, adapters: Sequence[object]) -> None:
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
                f"{_label(seen[adapter.name])} and {_label(adapter)} share one name: "
                f"give one of them another, such as {type(adapter).__name__}(name='{adapter.name}_2')"
            )
        seen[adapter.name] = adapter
    settings.check(learner)
    for each in seen.values():
        settings.check(each)


def _answering(
    learner: Learner, adapters: Sequence[Adapter], facts: Facts, phase: Phase
) -> dict[str, tuple[Adapter, ...]]:
    answering: dict[str, list[Adapter]] = {seam: [] for seam in SEAMS}
    for adapter in adapters:
        for seam in sorted(adapter.answers(facts, phase)):
            _check_asked(learner, adapter, seam, facts)
            answering[seam].append(adapter)
    for seam, answers in answering.items():
        replacing = [adapter for adapter in answers if seam in adapter.replaces or SEAMS[seam].fold == "single"]
        if len(replacing) > 1:
            first, second = replacing[:2]
            raise StackError(
                f"{_label(first)} and {_label(second)} both decide {seam!r}, which has one answer: remove one of them"
            )
        # The one that replaces goes first, so that it cannot swallow what the others add.
        answers.sort(key=lambda adapter: adapter not in replacing)
    return {seam: tuple(answers) for seam, answers in answering.items()}


def _facts(learner: Learner, phase: Phase) -> Facts:
    """What the learner says of itself, and how often it steps its constrained group."""
    facts = learner.facts()
    groups = {update.group: stage.every for stage in learner.stages(phase) for update in stage.updates}
    return replace(facts, constrained_every=groups.get(facts.constrained, 1))


def _facts_for(adapter: Adapter, adapters: Sequence[Adapter], facts: Facts, phase: Phase) -> Facts:
    """The learner's facts, with what the other adapters of the stack add to them."""
    others = [other for other in adapters if other is not adapter]
    reads = any(other.meta(facts) or "query_action" in other.answers(facts, phase) for other in others)
    replaced = frozenset(seam for other in others for seam in other.answers(facts, phase) & other.replaces)
    return replace(facts, reads_policy_action=facts.reads_policy_action or reads, replaced=replaced)


def _idle(adapter: Adapter, facts: Facts, phase: Phase) -> list[str]:
    """That an adapter does nothing at all."""
    overridden = {name for name in vars(Adapter) if getattr(type(adapter), name) is not getattr(Adapter, name)}
    acts = overridden & {"answers", "stages", "advance", "meta", "diagnostics"}
    if acts or adapter.answers(facts, phase):
        return []
    return ["it answers no seam and has no stage, so it changes nothing"]


def _misspelled(adapter: Adapter) -> list[str]:
    """Methods that nobody calls, but for a letter or two."""
    known = [name for name in vars(Adapter) if not name.startswith("_")]
    own = {name for name, value in vars(type(adapter)).items() if callable(value) and not name.startswith("_")}
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.85) for name in sorted(own - set(known))}
    return [f"nobody calls its method {name}(): is {close[0]}() meant?" for name, close in near.items() if close]


def _unheard(answering: Mapping[str, tuple[Adapter, ...]], facts: Facts) -> list[str]:
    """Answers that nobody hears because the term that asks for them was replaced."""
    if not facts.imitation_is_constraint:
        return []
    return [
        f"{unheard.name}: its answer to {seam!r} is not heard by the constraint, which {by.name} replaces"
        for by in answering["constraint"]
        if "constraint" in by.replaces
        for seam in ("behavior_action", "sample_weight")
        for unheard in answering[seam]
    ]


def _without_effect(learner: Learner, answering: Mapping[str, tuple[Adapter, ...]], facts: Facts) -> list[str]:
    """Settings of the learner's own bootstrap, where it is replaced."""
    return [
        f"{by.name}: it replaces the bootstrap, so that {name}={getattr(learner, name)} of the learner has no effect"
        for by in answering["bootstrap"]
        if "bootstrap" in by.replaces
        for name in facts.bootstrap_settings
    ]


def _check_asked(learner: Learner, adapter: Adapter, seam: str, facts: Facts) -> None:
    if seam not in SEAMS:
        raise StackError(f"{_label(adapter)} answers {seam!r}, which is no seam; the seams are {', '.join(SEAMS)}")
    if seam == "tradeoff" and facts.tradeoff is None:
        raise StackError(
            f"{_label(adapter)} sets the trade-off, but {_label(learner)} as configured has none to set: "
            "configure the learner with a constraint, or remove the adapter"
        )
    if seam not in facts.seams and not SEAMS[seam].asked_by_adapters:
        raise StackError(
            f"{_label(adapter)} answers {seam!r}, which {_label(learner)} never asks (it asks "
            f"{', '.join(sorted(facts.seams))}): let answers() leave it out on such learners, or use another learner"
        )
    if seam == "tradeoff" and facts.learns_tradeoff:
        raise StackError(
            f"{_label(adapter)} sets the trade-off, but {_label(learner)} as configured adapts it itself: "
            "switch that off in the learner, or remove the adapter"
        )


def _shared_value(learner: Learner, adapters: Sequence[Adapter], facts: Facts) -> SharedValue | None:
    wanted = [(adapter, wish) for adapter in adapters if (wish := adapter.expectile(facts)) is not None]
    if not wanted or facts.owns_value:
        return None
    (first, expectile), *others = wanted
    for other, another in others:
        if another != expectile:
            raise StackError(
                f"{_label(first)} and {_label(other)} share one value on {_label(learner)} but ask for the "
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
    _only(own, facts.constrained, learner)
    added: list[AdapterStage] = [AdapterStage("start", shared.stage())] if shared else []
    for adapter in adapters:
        for entry in adapter.stages(facts, phase):
            _check_slot(learner, adapter, entry, own)
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
    _check_groups(stages)
    return tuple(stages)


def _only(stages: Sequence[Stage], constrained: str, learner: Learner) -> None:
    count = sum(update.group == constrained for stage in stages for update in stage.updates)
    if count != 1:
        raise StackError(
            f"{_label(learner)} must step its constrained group {constrained!r} in exactly one update, not {count}"
        )


def _check_slot(learner: Learner, adapter: Adapter, entry: AdapterStage, own: Sequence[Stage]) -> None:
    if entry.slot == "critic" and not any(update.group == "critic" for stage in own for update in stage.updates):
        raise StackError(
            f"{_label(adapter)} has a stage {entry.stage.name!r} in the slot 'critic', but {_label(learner)} steps no "
            "group of that name: let stages() use another slot on such learners"
        )
    if entry.slot == "with" and entry.stage.every != 1:
        raise StackError(
            f"{_label(adapter)} has a stage {entry.stage.name!r} in the slot 'with' every {entry.stage.every} ticks, "
            f"but that slot runs with the constrained stage of {_label(learner)}: leave the interval at 1, or use "
            "another slot"
        )


def _check_groups(stages: Sequence[Stage]) -> None:
    seen: dict[str, str] = {}
    for stage in stages:
        for update in stage.updates:
            if update.group in seen:
                raise StackError(
                    f"stages {seen[update.group]!r} and {stage.name!r} both step the group {update.group!r}: "
                    "give each group one update"
                )
            seen[update.group] = stage.name


# -- explanations -------------------------------------------------------------------------------------------------


def _explain_preparations(resolved: Resolved) -> list[str]:
    said = [(each.name, text) for each in resolved.adapters for text in each.preparations(resolved.facts)]
    if resolved.phase == "online" or not said:
        return []
    return ["", "Before tick 1 (kept in the cache)", *(f"  {name}: {text}" for name, text in said)]


def _explain_stages(resolved: Resolved) -> list[str]:
    lines = []
    for number, stage in enumerate(resolved.stages, start=1):
        when = "every tick" if stage.every == 1 else f"every {stage.every} ticks"
        steps = []
        for update in stage.updates:
            text = f"step {update.group}"
            if update.group == resolved.facts.constrained:
                text += " (constrained)"
                if resolved.meta is not None:
                    adapter, step = resolved.meta
                    text += f", and every {stage.every * step.interval} ticks the trade-off by {adapter.name}"
            steps.append(text)
        steps += [f"average {average.group} at {average.rate:g}" for average in stage.averages]
        lines.append(f"  {number}. {stage.name:<12}{when:<16}{'; '.join(steps)}")
    return lines


def _explain_seams(resolved: Resolved) -> list[str]:
    lines = []
    for seam, how in SEAMS.items():
        names = [adapter.name for adapter in resolved.answering[seam]]
        if seam not in resolved.facts.seams and not (how.asked_by_adapters and names):
            lines.append(f"  {seam:<19}not asked")
        elif not names:
            lines.append(f"  {seam:<19}{_default(resolved, seam, how.default)}")
        else:
            link = {"product": " x ", "concatenated": " and ", "composed": ", then ", "single": ""}[how.fold]
            note = " (divided by its mean: the trade-off is learned)" if _gauged(resolved, seam) else ""
            lines.append(f"  {seam:<19}{link.join(names)}{note}")
    return lines


def _default(resolved: Resolved, seam: str, default: str) -> str:
    facts = resolved.facts
    if seam != "tradeoff":
        return default
    if facts.learns_tradeoff:
        return "learned by the learner itself"
    return f"{default}: {facts.tradeoff:g}, on the {facts.scales}" if facts.tradeoff is not None else "nothing to scale"


def _gauged(resolved: Resolved, seam: str) -> bool:
    return seam == "constraint_weight" and resolved.meta is not None


def _explain_pairs(resolved: Resolved) -> list[str]:
    if not resolved.adapters:
        return []
    learner = type(resolved.learner).__name__
    lines = ["", "Evidence"]
    for adapter in resolved.adapters:
        lines.append(f"  {adapter.name} on {learner}: {_evidence(adapter, learner, resolved)}")
    return lines


def _evidence(adapter: Adapter, learner: str, resolved: Resolved) -> str:
    if not adapter.paper:
        return "no paper"
    if adapter.was_tested_on(learner, resolved.facts):
        return f"tested by its paper ({adapter.paper})"
    if any(text.startswith(f"{adapter.name}: ") for text in resolved.warnings):
        return f"an extension with caveats, see the warnings; not tested by its paper ({adapter.paper})"
    return f"a natural extension, not tested by its paper ({adapter.paper})"
