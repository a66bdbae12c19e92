"""An adapter that was tried and not kept: a trade-off learned from a lower bound of the gain over the data.

    adaptive-constraints bench benchmarks/tried.toml --imports benchmarks.tried

On pendulums it is nowhere worse than TD3+BC, and 37 points better; on hopper and halfcheetah it ruins the policy.
docs/results.md has the figures.

How far should a policy leave the data? As far as critics can vouch for it. Where the data shows many actions, critics
that began differently agree on what another action would gain; where it shows few, they disagree as soon as the policy
leaves them. So every few steps the trade-off descends, through the learner's own step, the negative of a lower
confidence bound: with A_j = Q_j(s, pi(s)) - Q_j(s, a), the gain over the data's action by critic j,

    bound = mean over states of (mean_j A_j - caution * std_j A_j).

What critics disagree on at the data's action already, such as a value of the state that is off by some constant, drops
out of A_j. Three things differ from ASPC (arXiv 2508.19900), whose outer step this is. L1 there is the inner objective
itself, so that its gradient vanishes in expectation wherever the inner problem is solved; the disagreement of the
critics is something that the inner step does not know. States are drawn anew, so that chance in the minibatch that made
the step does not count twice. And the trade-off travels on a logarithmic scale, up as easily as down.

Lower bounds of ensembles serve as targets or as objectives of the
policy in PBRL (arXiv 2202.11566), EDAC (arXiv 2110.01548) and MSG (arXiv 2205.13703); here one moves the trade-off
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from adaptive_constraints import Above, Adapter, AtLeast, Facts, MetaLoss, MetaStep, Params, Point, Spec, Terms, View


@dataclass(frozen=True, kw_only=True)
class LowerBoundTradeoff(Adapter):
    """Learn the trade-off by raising a lower bound of the stepped policy's gain over the data, by the critics.

    >>> from adaptive_constraints import wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> from benchmarks.tried import LowerBoundTradeoff
    >>> agent = wrap(TD3BC(critic="layernorm"), LowerBoundTradeoff())
    >>> print(agent.explain().splitlines()[0])
    TD3BC + lowerboundtradeoff
    """

    caution: Annotated[float, AtLeast(0)] = 5.0
    """Standard deviations over critics that are taken off their mean; larger stays closer to the data."""
    initial: Annotated[float, Above(0)] | None = None
    """Trade-off at the start, > 0; None: the learner's own."""
    reach: Annotated[float, Above(1)] = 1000.0
    """Largest factor by which the trade-off can change over a run, up or down, if every outer step agrees."""
    interval: Annotated[int, AtLeast(1)] = 10
    """Steps of the constrained group per outer step."""
    rows: Annotated[int, AtLeast(1)] = 1024
    """States of the data, drawn anew, at which an outer step reads the bound."""

    reads_data: ClassVar[bool] = True

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            facts.owns_critic and facts.tradeoff is not None and facts.constrained == facts.policy,
            "the learner's trade-off does not hold a policy, of which critics could say what it is worth: use TD3BC, "
            "FQL, ReBRAC or DiffusionQL, or remove the adapter",
        )
        doubts = []
        if not facts.normalized_critic:
            doubts.append("without LayerNorm, critics may agree on values that are far too high; use those with it")
        if facts.exponential_weights:
            doubts.append("its outer loss reads Q at the policy's actions, where this learner trains no Q")
        return doubts

    # -- the trade-off --------------------------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        initial = self.initial if self.initial is not None else facts.tradeoff
        assert initial is not None  # refused by `check`
        return {"scale": {"log": torch.tensor(math.log(initial))}}

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return v.p[self.group("scale")]["log"].exp()

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"tradeoff": v.tradeoff()}

    # -- learning it ----------------------------------------------------------------------------------------------

    def meta(self, facts: Facts) -> MetaStep:
        return MetaStep(self.group("scale"), self._learning_rate, self.interval)

    def _learning_rate(self, done: int, total: int) -> float:
        """Adam moves log(trade-off) by at most about its rate, so that a run moves it by at most log(reach)."""
        return math.log(self.reach) / max(total, 1)

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        """The negative bound at states drawn anew, over the mean size of Q there."""
        assert v.stepped is not None
        rows = (v.uniform(f"{self.name}.rows", (self.rows,)) * len(v.data["observation"])).long()
        s, a, p = v.data["observation"][rows], v.data["action"][rows], v.stepped[1]
        policy = v.services.distribution(p, s)
        action = policy.action if isinstance(policy, Point) else v.services.sample(p, s, f"{self.name}.action")
        q = v.services.q(v.p["critic"], s, action)
        if len(q) < 2:
            self.require(False, "there is one critic, which cannot disagree with another: give the learner two or more")
        gain = q - v.services.q(v.p["critic"], s, a)
        mean, spread = gain.mean(0), gain.std(0, correction=0)
        bound = (mean - self.caution * spread).mean()
        metrics = {"bound": bound, "gain": mean.mean(), "spread": spread.mean()}
        return MetaLoss(-bound / q.detach().mean(0).abs().mean(), {}, metrics)
