"""A trade-off in units of the behaviour's own noise.

Published settings of one method differ a hundredfold between data sets, mostly because of one thing: how far the data's
actions lie from their own mean. Where the behaviour was nearly deterministic, a small step leaves everything that the
critics know; where it was random, the same step stays well inside. So the constraint is measured in units of the
behaviour's variance sigma^2, as sum_i (a_i - mu_i)^2 / (2 sigma^2) over the dimensions i of an action: the KL
divergence between two Gaussians of that variance, around the policy's action and around the behaviour's mean.

This is this project's own adapter, not of a paper. Related are SPOT (arXiv 2202.06239), whose constraint is the density
of the behaviour, FamO2O (arXiv 2310.17966), which learns a policy for every trade-off and chooses by state, LION (arXiv
2205.10629), which learns such a family too and lets the user choose, and confidence-conditioned value functions (arXiv
2212.04607), which learn values for every degree of caution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Facts, Params, Prepared, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks import init_mlp, mlp
from adaptive_constraints.support.bounds import Above, AtLeast

if TYPE_CHECKING:
    from adaptive_constraints.core.preparation import Preparation, Pretraining

LEAST_NOISE = 1e-4
"""Variance that is taken of a behaviour without any noise: one hundredth of the action bound, squared."""
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class NoiseTradeoff(Adapter):
    """Set the trade-off to ``factor`` times the variance of the data's actions around the behaviour's mean.

    The mean is a network of the state, trained once per data set before step 1; the variance is the mean of
    (a - mu(s))^2 over rows and action dimensions. ``factor`` weighs the value against the sum of squares over
    dimensions. TD3+BC's constraint is their mean, so that with A dimensions alpha = factor / A * variance. A learner
    whose trade-off weighs its constraint takes the inverse.

    >>> from adaptive_constraints import NoiseTradeoff, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> agent = wrap(TD3BC(critic="layernorm"), NoiseTradeoff())
    >>> print(agent.explain().splitlines()[0])
    TD3BC + noisetradeoff
    """

    factor: Annotated[float, Above(0)] = 75.0
    """Weight of the value, divided by its mean size, against the squared distance in units of the noise, summed over
    dimensions; larger trusts Q more. The default was chosen on pendulums (`scripted:pendulum/...`, draw 100, one
    dimension), where 60 to 100 do as well. On four sets of hopper and walker2d, 15 to 50 would have
    come nearest to the best fixed values."""
    steps: Annotated[int, AtLeast(1)] = 10_000
    """Minibatches that the behaviour's mean is trained on."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of its two hidden layers."""
    learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam's learning rate of it at the start; it falls to 0 on a straight line."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Rows per minibatch of its training."""

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            facts.tradeoff is not None and facts.scales != "exponent" and facts.constrained == facts.policy,
            "the learner's trade-off does not weigh a distance between the policy's actions and the data's: "
            "use TD3BC, FQL or ReBRAC, or remove the adapter",
        )
        doubts = [
            "its factor was chosen on pendulums; on robots' data the best fixed trade-offs were 1.5 to 5 times smaller "
            "than what it asks for (docs/results.md): compare with factor=25 and without it"
        ]
        if facts.distribution == "generative" and not facts.exponential_weights:
            doubts.append("the learner's constraint may be no squared distance of actions; its unit is then another")
        if not facts.normalizes_improvement:
            doubts.append("its factor is meant for a value divided by its mean size; here it needs tuning")
        return doubts

    # -- the noise of the behaviour -------------------------------------------------------------------------------

    def preparations(self, facts: Facts) -> Sequence[str]:
        return (f"the mean of the data's actions, {self.steps:,} minibatches, one for all seeds",)

    def prepare(self, preparation: Preparation) -> Prepared:
        """The noise [S], the same for all seeds."""
        name, spec = f"{self.name}.mean", preparation.spec
        settings = {kept: getattr(self, kept) for kept in ("steps", "hidden", "learning_rate", "batch_size")}

        def init(generator: torch.Generator) -> dict[str, Params]:
            return {"mean": init_mlp((spec.observation_dim, self.hidden, self.hidden, spec.action_dim), generator)}

        def loss(p: Params, v: View) -> Tensor:
            return (mlp(p, v.s) - v.a).square().mean()

        def rate(step: int, horizon: int) -> float:
            return self.learning_rate * (1 - (step - 1) / horizon)

        def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
            stage = Stage("mean", (Update("mean", loss, rate),))
            fit = preparation.model(name, init, (stage,), steps=self.steps, batch_size=self.batch_size, seeds=seeds)
            pretraining.run(fit, self.steps)
            return {"noise": variance_around(fit.params["mean"], preparation.table)}

        return Prepared(models=preparation.trained(name, settings, train, steps=self.steps, shared=True))

    # -- the trade-off --------------------------------------------------------------------------------------------

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        facts = v.services.facts
        factor = self.factor if facts.sums_dimensions else self.factor / v.a.shape[-1]
        value = factor * v.frozen[self.name]["noise"].clamp(min=LEAST_NOISE)
        return 1 / value if facts.scales == "constraint" else value

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"noise": v.frozen[self.name]["noise"], "tradeoff": v.tradeoff()}


@torch.no_grad()
def variance_around(mean: Params, table: Mapping[str, Tensor]) -> Tensor:
    """Mean squared distance [S] of the data's actions from the mean of the behaviour, per dimension.

    mean: parameters [S, ...] of the network.
    table: observations [N, D] and actions [N, A] in learner space.
    """
    device = mean["weight0"].device
    total, count = 0.0, table["action"].numel()
    columns = (torch.split(table[name], ROWS_AT_ONCE) for name in ("observation", "action"))
    for observation, action in zip(*columns, strict=True):
        s = observation.to(device).expand(len(mean["weight0"]), -1, -1)
        total = total + (mlp(mean, s) - action.to(device)).square().double().sum((-2, -1))
    return (torch.as_tensor(total) / count).to(table["action"].dtype)


__all__ = ["NoiseTradeoff", "variance_around"]
