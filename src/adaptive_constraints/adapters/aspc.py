"""ASPC: adaptive scaling of policy constraints (arXiv 2508.19900).

The learner's trade-off becomes a learned scalar. Every few steps of the constrained group an outer loss asks whether
that step, had the scalar been a little different, would have led to a policy that is better, whose value changes
steadily, and whose distance to the data changes little; its gradient flows through the optimizer's step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Facts, MetaLoss, MetaStep, Params, Spec, Terms
from adaptive_constraints.core.view import View
from adaptive_constraints.support.bounds import Above, AtLeast, Between

PUBLISHED_RATE = 2e-3
"""The paper's learning rate of the raw scalar at an interval of 10."""
LARGEST_SCALED_RATE = 0.05
"""Adam moves rho by about its rate per outer step, whatever the gradient."""
PUBLISHED_STEPS = 500_000
"""Updates of the constrained group in the paper's runs: one in two of 10^6 training steps."""


@dataclass(frozen=True, kw_only=True)
class ASPC(Adapter):
    """Learn the trade-off, softplus(rho), by descending L1 + L2 + L3 through the constrained step.

    >>> from adaptive_constraints import ASPC, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> agent = wrap(TD3BC(critic="robust"), ASPC(interval=5))
    >>> print(agent.explain().splitlines()[-1])
      aspc on TD3BC: tested by its paper (arXiv 2508.19900)
    """

    initial: Annotated[float, Above(0)] | None = None
    """Trade-off at the start, > 0; None: the learner's own (2.5 in TD3+BC, as in the paper)."""
    orientation: Literal["auto", "value", "learner"] = "auto"
    """The term that softplus(rho) multiplies where the learner's trade-off weighs its constraint. value: the value, as
    in TD3+BC, so that the trade-off is 1 / softplus(rho). learner: the constraint. auto: value where the policy is what
    is constrained, learner where the critics are (appendix D). Inferred: the paper's words leave FQL's open. Everything
    that is logged is the learner's own trade-off."""
    interval: Annotated[int, AtLeast(1)] = 10
    """Steps of the constrained group per outer step (k_alpha)."""
    rate: Literal["scaled", "published"] | Annotated[float, AtLeast(0)] = "scaled"
    """Learning rate of rho. published: 2e-3 * interval / 10, meant for 10^6 steps. scaled: that times the paper's
    run length over this run's, so that the scale can travel as far in a short run, but at most 0.05 (reached below
    20,000 constrained steps), so that it does not run away while the critics know nothing. A number: that rate. All
    three decay exponentially to 1 % over the run. In a run of 500,000 constrained steps scaled is published, in one of
    10^6 half of it."""
    loss: Literal["auto", "L1", "L1+L2", "L1+L3", "L1+L2+L3"] = "auto"
    """Parts of the outer loss; auto: all on a deterministic policy (the paper's method), L1+L2 otherwise (its
    appendix D names no L3 there). A deterministic IQL counts as the former, which appendix D does not say."""
    l3: Literal["D", "U*D", "W*D", "W*U*D", "mean"] = "W*U*D"
    """Form of L3 (the paper's table 13): D the largest change of the constraint over the batch, U its largest value
    before the step, W = L2; "mean" takes averages instead of largest values, times W."""
    delta_q: Literal["auto", "ema", "step"] = "auto"
    """Change of the mean value in L2. ema: of its moving average between outer steps (the released code). step: caused
    by this step (the paper's text). auto: ema on a deterministic policy, step otherwise."""
    ema: Annotated[float, Between(0, 1, "[)")] = 0.995
    """Decay of that moving average (mu)."""
    meta_step: Literal["closed_form", "autograd", "torchopt", "higher"] = "closed_form"
    """Passage of the gradient through the optimizer; the last three are slow and exist to check the first."""

    paper: ClassVar[str] = "arXiv 2508.19900"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC", "IQL", "CQL", "DiffusionQL", "FQL"})

    def check(self, facts: Facts) -> Sequence[str]:
        doubts = []
        if not facts.normalized_critic:
            doubts.append(
                "the paper reports instability without LayerNorm in the critics; use the learner's robust critic"
            )
        if not facts.normalizes_improvement:
            doubts.append(
                "its outer loss, and how far its scale can travel (about 20 in all), are meant for a value divided by "
                "its mean size; normalise the learner's value (normalize_q=True)"
            )
        if facts.constrained == "critic" and self.loss == "L1":
            doubts.append("L1 alone rewards critics that inflate Q: keep L2 (loss='auto')")
        if facts.constrained == "critic":
            doubts.append(
                "it raises CQL's weight of conservatism six to nine times whatever the data, which helped on narrow "
                "data and hurt on mixed (docs/results.md): compare without it"
            )
        if facts.exponential_weights:
            doubts.append(
                "its outer loss reads Q at the policy's actions, where this learner trains no Q: a noisy signal, "
                "unless another adapter trains Q there; on mixed data IQL lost more than half of its score "
                "(docs/results.md)"
            )
        return doubts

    def _weighs_value(self, facts: Facts) -> bool:
        """softplus(rho) weighs the value although the learner's trade-off, its inverse then, weighs the constraint."""
        wanted = self.orientation == "value" or (self.orientation == "auto" and facts.constrained == facts.policy)
        return facts.scales == "constraint" and wanted

    # -- the scale ------------------------------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        """rho = ln(exp(scale) - 1), so that softplus(rho) = scale."""
        initial = self.initial if self.initial is not None else facts.tradeoff
        assert initial is not None  # a learner without a trade-off is refused
        scale = 1 / initial if self._weighs_value(facts) else initial
        return {"scale": {"rho": torch.tensor(scale + math.log(-math.expm1(-scale)))}}

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        scale = softplus(v.p[self.group("scale")]["rho"])
        return 1 / scale if self._weighs_value(v.services.facts) else scale

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"scale": v.tradeoff()}

    # -- learning it ----------------------------------------------------------------------------------------------

    def meta(self, facts: Facts) -> MetaStep:
        return MetaStep(self.group("scale"), self._learning_rate, self.interval, self.meta_step)

    def _learning_rate(self, done: int, total: int) -> float:
        decay: float = 0.01 ** (done / total)
        published = PUBLISHED_RATE * self.interval / 10
        if self.rate == "published":
            return published * decay
        if self.rate == "scaled":
            longer = PUBLISHED_STEPS / (self.interval * total)
            return min(published * longer, LARGEST_SCALED_RATE) * decay
        return self.rate * decay

    def buffers(self, spec: Spec, facts: Facts) -> Params:
        return {"mean_value": torch.zeros(())}

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        """L1 + L2 + L3 at the terms before and after the step (equations of section 4.2; B.5 of their code)."""
        facts = v.services.facts
        point = facts.distribution == "point"
        parts = ("L1+L2+L3" if point else "L1+L2") if self.loss == "auto" else self.loss
        l1 = self._l1(v, k, after, facts)
        average = (1 - self.ema) * after.value.mean() + self.ema * v.buffers[self.name]["mean_value"]
        if self.delta_q == "ema" or (self.delta_q == "auto" and point):
            l2 = (average - v.buffers[self.name]["mean_value"]).square()
        else:
            l2 = (after.value.mean() - before.value.mean()).square()
        l3 = self._l3(before.constraint, after.constraint, l2.detach())
        loss = l1 + (l2 if "L2" in parts else 0.0) + (l3 if "L3" in parts else 0.0)
        return MetaLoss(loss, {"mean_value": average.detach()}, {"l1": l1, "l2": l2, "l3": l3})

    def _l1(self, v: View, k: Tensor, after: Terms, facts: Facts) -> Tensor:
        """The learner's own trade-off at the stepped policy: sg[scale] improvement + constraint."""
        constraint = v.weighted(after.constraint)
        if self._weighs_value(facts):
            return (after.improvement / k + constraint).mean()
        if facts.scales == "constraint":
            return (after.improvement + k * constraint).mean()
        return (k * after.improvement + constraint).mean()

    def _l3(self, before: Tensor, after: Tensor, w: Tensor) -> Tensor:
        """Largest change of the constraint of any row by the step, weighted; ``before`` and ``w`` carry no gradient."""
        change = (before - after).abs()
        if self.l3 == "mean":
            return w * before.mean() * change.mean()
        largest = change.max()
        if "U" in self.l3:
            largest = before.max() * largest
        return w * largest if "W" in self.l3 else largest
