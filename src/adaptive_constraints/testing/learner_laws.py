"""The laws of a learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.core.types import SEAMS, Facts, Gaussian, MetaLoss, MetaStep, Params, Point, Spec, Terms
from adaptive_constraints.core.view import View
from adaptive_constraints.testing.case import PHASES, Case, different
from adaptive_constraints.testing.probe import Probe

BESIDE = 0.1
"""How far an action is moved, to see how a constraint measures that."""


def facts_fit_the_parameters(case: Case) -> None:
    """`init` draws from its generator alone, and makes every group that the facts and the stages name."""
    learner, facts = case.learner, case.learner.facts()
    spec = Spec(case.data.observation_dim, case.data.action_dim)
    params = learner.init(spec, generator(0, "learner"))
    again = learner.init(spec, generator(0, "learner"))
    same = all(torch.equal(t, again[group][name]) for group, p in params.items() for name, t in p.items())
    assert same, f"{case.name}: init draws from elsewhere than its generator"
    needed = {"constrained": facts.constrained, "policy": facts.policy}
    needed |= {"critic": "critic"} if facts.owns_critic else {}
    needed |= {"value": "value"} if facts.owns_value else {}
    for what, group in needed.items():
        assert group in params, f"{case.name}: no group {group!r} in init, which its facts call the {what}"
    for phase in PHASES:
        stepped = {update.group for stage in learner.stages(phase) for update in stage.updates}
        averaged = {average.group for stage in learner.stages(phase) for average in stage.averages}
        unknown = (stepped | averaged) - params.keys()
        assert not unknown, f"{case.name}: its {phase} stages name {sorted(unknown)}, which init does not make"
        assert facts.constrained in stepped, f"{case.name}: its {phase} stages do not step its constrained group"
    strange = facts.seams - SEAMS.keys()
    assert not strange, f"{case.name}: it says it asks {sorted(strange)}, which are no seams"


def functions_have_their_shapes(case: Case) -> None:
    """Values and actions have one row per state and are finite; actions keep the bounds, far off the data too."""
    engine = case.engine(seeds=(0, 1))
    engine.run(1)
    facts, rows, actions = case.learner.facts(), case.learner.batch_size, case.data.action_dim

    def everything(v: View) -> Mapping[str, Tensor]:
        policy = v.p[facts.policy]
        answers = {
            "sample": v.services.sample(policy, v.s, "conformance/sample"),
            "act": case.learner.act(v, v.s),
            "explore": case.learner.explore(v, v.s),
            "act far off the data": case.learner.act(v, 1e3 * v.s),
            "explore far off the data": case.learner.explore(v, 1e3 * v.s),
            **{f"terms.{name}": term for name, term in v.services.terms(v.p[facts.constrained])._asdict().items()},
        }
        kind = type(v.services.distribution(policy, v.s))
        wanted = {"point": Point, "generative": type(None)}.get(facts.distribution, Gaussian)
        assert kind is wanted, f"{case.name}: its facts say {facts.distribution!r}, but distribution() gives {kind}"
        if facts.owns_critic:
            answers["q"] = v.services.q(v.p["critic"], v.s, v.a)[0]
            answers["bootstrap"] = v.bootstrap(v.s2, "conformance/bootstrap", v.batch)
            answers["bootstrap off the data"] = v.bootstrap(v.s2 + 0.1, "conformance/elsewhere")
        if facts.owns_value:
            answers["value"] = v.value(v.s)
        if facts.owns_behavior:
            drawn = v.services.sample_behavior(v.s, "conformance/behavior", 3)
            assert drawn is not None, f"{case.name}: its facts say it owns a behaviour model, but it gives no samples"
            answers["sample_behavior"] = drawn[2]
        return answers

    for name, tensor in engine.ask("conformance", everything).items():
        acting = name.startswith(("act", "explore"))
        wanted = (rows, actions) if acting or name.startswith("sample") else (rows,)
        assert tensor.shape[1:] == wanted, f"{case.name}: {name} gives {tuple(tensor.shape[1:])}, not {wanted}"
        assert tensor.isfinite().all(), f"{case.name}: {name} is not finite after one step"
        bounded = not acting or bool((tensor.abs() <= 1 + 1e-6).all())
        assert bounded, f"{case.name}: {name} leaves the action bounds"


def seam_is_heard(case: Case, seam: str) -> None:
    """Another answer to a seam that it says it asks changes what is learned."""
    if seam == "tradeoff" and (case.learner.facts().learns_tradeoff or case.learner.facts().tradeoff is None):
        return
    bare, probed = case.after(), case.plus(Probe(seam=seam, by=0.5)).after()
    assert different(bare, probed), f"{case.name}: its facts say it asks {seam!r}, but another answer changes nothing"


def neutral_answer_changes_nothing(case: Case, seam: str) -> None:
    """An answer that equals the default changes no bit of what is learned."""
    if seam in ("tradeoff", "critic_rows"):  # no neutral answer: one has no own value everywhere, the other adds rows
        return
    changed = different(case.after(), case.plus(Probe(seam=seam)).after())
    assert not changed, f"{case.name}: answering {seam!r} with its default changes {changed[:3]}"


def tradeoff_scales_what_it_says(case: Case) -> None:
    """The trade-off multiplies the term that the facts name."""
    learner, facts = case.learner, case.learner.facts()
    if facts.tradeoff is None or facts.learns_tradeoff or facts.scales == "exponent":
        return

    def doubled(v: View) -> Mapping[str, Tensor]:
        p, k = v.p[facts.constrained], v.tradeoff()
        (one, terms), (two, _) = learner.constrained_loss(p, v, k), learner.constrained_loss(p, v, 2 * k)
        return {"added": two - one, "expected": (k * getattr(terms, facts.scales)).mean()}

    both = case.ran(dtype=torch.float64).ask("conformance", doubled)
    assert torch.allclose(both["added"], both["expected"], rtol=1e-6, atol=1e-9), (
        f"{case.name}: its facts say that the trade-off multiplies the {facts.scales}, but doubling it adds "
        f"{both['added'].tolist()} to the loss, not {both['expected'].tolist()}"
    )


def dimensions_are_summed_as_said(case: Case) -> None:
    """A squared distance of actions is summed over their dimensions, or averaged, as the facts say.

    Told on three dimensions and more: on two, their mean is half of their sum, which is a usual form of it.
    """
    learner, facts = case.learner, case.learner.facts()
    told = facts.distribution == "point" and facts.constrained == facts.policy and "behavior_action" in facts.seams
    if not told or facts.tradeoff is None or case.data.action_dim < 3:
        return

    def distance(v: View) -> Mapping[str, Tensor]:
        return {"constraint": learner.terms(v.p[facts.constrained], v).constraint}

    # One dimension differs: d^2 is then the sum, d^2 / A the mean, and what is neither is no squared distance.
    found = case.plus(_Beside()).ran(1, dtype=torch.float64).ask("conformance", distance)["constraint"]
    said = "adds up" if facts.sums_dimensions else "averages"
    wrong, does = (BESIDE**2 / case.data.action_dim, "averages") if facts.sums_dimensions else (BESIDE**2, "adds up")
    assert not torch.allclose(found, found.new_tensor(wrong)), (
        f"{case.name}: its constraint {does} the dimensions of an action, but its facts say that it {said} them "
        f"(sums_dimensions={facts.sums_dimensions})"
    )


@dataclass(frozen=True)
class _Beside(Adapter):
    """Answers that the behaviour acts as the policy does, but for the first dimension."""

    replaces: ClassVar[frozenset[str]] = frozenset({"behavior_action"})

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        policy = v.services.distribution(v.p[v.services.facts.policy], v.s)
        assert isinstance(policy, Point)  # the only kind that the law asks
        action = policy.action
        return action + BESIDE * (torch.arange(action.shape[-1]) == 0)


def meta_gradient_agrees_with_automatic_differentiation(case: Case) -> None:
    """The derivative of a step with respect to the trade-off is that of automatic differentiation."""
    facts = case.learner.facts()
    if facts.tradeoff is None or facts.learns_tradeoff:
        return

    def second(backend: str) -> Tensor:
        engine = case.plus(_Learned(backend=backend)).engine(seeds=(0,), dtype=torch.float64)
        engine.run(case.steps // 2)
        engine.metrics.flush()
        engine.run(case.steps // 2)
        return torch.tensor(engine.metrics.flush()["learned/gradient"])

    ours, automatic = second("closed_form"), second("autograd")
    assert ours.isfinite().all(), f"{case.name}: the derivative of a step with respect to the trade-off is not finite"
    assert torch.allclose(ours, automatic, rtol=1e-6, atol=1e-12), (
        f"{case.name}: the derivative of a step with respect to the trade-off is {ours.tolist()}, automatic "
        f"differentiation says {automatic.tolist()}: does its loss use anything but p, v and k?"
    )


@dataclass(frozen=True)
class _Learned(Adapter):
    """Learns the trade-off by the plainest outer loss, through the named back-end."""

    name: str = "learned"
    backend: str = "closed_form"

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        return {"scale": {"log": torch.tensor(math.log(facts.tradeoff or 1.0))}}

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return v.p["learned.scale"]["log"].exp()

    def meta(self, facts: Facts) -> MetaStep:
        return MetaStep("learned.scale", lambda done, total: 1e-3, interval=1, backend=self.backend)

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        return MetaLoss(after.improvement.mean() + after.constraint.mean())


__all__ = [
    "dimensions_are_summed_as_said",
    "facts_fit_the_parameters",
    "functions_have_their_shapes",
    "meta_gradient_agrees_with_automatic_differentiation",
    "neutral_answer_changes_nothing",
    "seam_is_heard",
    "tradeoff_scales_what_it_says",
]
