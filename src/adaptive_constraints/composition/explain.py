"""A resolved stack in words."""

from __future__ import annotations

from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import SEAMS


def explain_preparations(resolved: Resolved) -> list[str]:
    """Lines on the models that are trained before step 1."""
    said = [(adapter.name, text) for adapter in resolved.adapters for text in adapter.preparations(resolved.facts)]
    if resolved.phase == "online" or not said:
        return []
    return ["", "Before step 1 (kept in the cache)", *(f"  {name}: {text}" for name, text in said)]


def explain_stages(resolved: Resolved) -> list[str]:
    """Lines on the work of one step, stage by stage."""
    lines = []
    for number, stage in enumerate(resolved.stages, start=1):
        when = "every step" if stage.every == 1 else f"every {stage.every} steps"
        work = []
        for update in stage.updates:
            text = f"update {update.group}"
            if update.group == resolved.facts.constrained:
                text += " (constrained)"
                if resolved.meta is not None:
                    adapter, step = resolved.meta
                    text += f", and every {stage.every * step.interval} steps the trade-off by {adapter.name}"
            work.append(text)
        work += [f"average {average.group} at {average.rate:g}" for average in stage.averages]
        lines.append(f"  {number}. {stage.name:<12}{when:<16}{'; '.join(work)}")
    return lines


def explain_seams(resolved: Resolved) -> list[str]:
    """Lines on who answers at each seam."""
    lines = []
    for seam, how in SEAMS.items():
        names = [adapter.name for adapter in resolved.answering[seam]]
        if seam not in resolved.facts.seams and not (how.asked_by_adapters and names):
            lines.append(f"  {seam:<19}not asked")
        elif not names:
            lines.append(f"  {seam:<19}{_default(resolved, seam, how.default)}")
        else:
            link = {"product": " x ", "concatenated": " and ", "composed": ", then ", "single": ""}[how.combine]
            note = " (divided by its mean: the trade-off is learned)" if _is_mean_normalised(resolved, seam) else ""
            lines.append(f"  {seam:<19}{link.join(names)}{note}")
    return lines


def _default(resolved: Resolved, seam: str, default: str) -> str:
    facts = resolved.facts
    if seam != "tradeoff":
        return default
    if facts.learns_tradeoff:
        return "learned by the learner itself"
    return f"{default}: {facts.tradeoff:g}, on the {facts.scales}" if facts.tradeoff is not None else "nothing to scale"


def _is_mean_normalised(resolved: Resolved, seam: str) -> bool:
    return seam == "constraint_weight" and resolved.meta is not None


def explain_evidence(resolved: Resolved) -> list[str]:
    """Lines on the evidence for each adapter on this learner."""
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
    if any(warning.adapter == adapter.name for warning in resolved.warnings):
        return f"an extension with caveats, see the warnings; not tested by its paper ({adapter.paper})"
    return f"a natural extension, not tested by its paper ({adapter.paper})"
