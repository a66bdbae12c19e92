"""The outer step that learns the trade-off, through the derivative of one real Adam step.

With g the gradient of the inner loss at trade-off k and h = dg/dk, Adam's step gives

    m' = b1 m + (1 - b1) g          v' = b2 v + (1 - b2) g^2
    theta' = theta - lr mhat / (sqrt(vhat) + eps),    mhat = m' / (1 - b1^t),  vhat = v' / (1 - b2^t)
    dtheta'/dk = -lr [ (1 - b1)/(1 - b1^t) h / (sqrt(vhat) + eps)
                       - mhat (1 - b2)/(1 - b2^t) g h / (sqrt(vhat) (sqrt(vhat) + eps)^2) ]

exactly, because theta, m and v before the step do not depend on k. Where vhat is 0 (a weight that never had a
gradient) the step is 0 whatever k is, and so is its derivative; plain automatic differentiation gives NaN there.

Training uses this closed form; `oracles` differentiates through a functional Adam instead, to check it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from adaptive_constraints.core.program import OuterStep
from adaptive_constraints.core.types import Draw, Params, Update
from adaptive_constraints.core.view import Inputs
from adaptive_constraints.engine.functions import Repeated, WithNoise
from adaptive_constraints.engine.gradients import Losses, Scalars, StageGradients
from adaptive_constraints.engine.optimizers import AdamStep, Optimizers

AfterStep = tuple[Params, tuple[Tensor, ...], Inputs]
"""The constrained group's parameters after its step, its terms before the step, and the state before it."""


class Derivative(Protocol):
    """One way to differentiate the outer loss by the trade-off [S], through the constrained step."""

    recordable: bool
    """Whether it is a list of tensor operations, so that a step with it can be recorded."""

    def before_step(self) -> None:
        """Keep what the step is about to change."""

    def __call__(
        self, update: Update, gradients: StageGradients, by_theta: Params, after: WithNoise[AfterStep]
    ) -> Tensor:
        """dL/dk [S], from the gradient ``by_theta`` of the outer loss by the parameters after the step."""


class ClosedForm:
    """The outer gradient along the derivative of the real step."""

    recordable = True

    def __init__(self, optimizers: Optimizers) -> None:
        self._optimizers = optimizers

    def before_step(self) -> None:
        """Nothing: the moments after the step are what it needs."""

    def __call__(
        self, update: Update, gradients: StageGradients, by_theta: Params, after: WithNoise[AfterStep]
    ) -> Tensor:
        group = update.group
        adam, moments = self._optimizers.last_step(group), self._optimizers.moments(group)
        g, h = gradients.by_group[group], gradients.mixed
        products = [
            by_theta[name] * tangent(adam, moments["first"][name], moments["second"][name], g[name], h[name])
            for name in g
        ]
        return torch.stack([product.reshape(len(product), -1).sum(1) for product in products]).sum(0)


class OuterResult(NamedTuple):
    """What an outer step leaves to be kept."""

    buffers: Params
    """New values of the adapter's buffers [S, ...]."""
    scalars: Scalars
    """To be logged, by "adapter/quantity"."""


class OuterStepper:
    """Takes the real constrained step, then the outer step of the trade-off through it."""

    def __init__(
        self,
        outer: OuterStep,
        losses: Losses,
        params: Mapping[str, Params],
        optimizers: Optimizers,
        derivative: Derivative,
        traced: bool,
    ) -> None:
        self.owner = outer.owner
        """The adapter whose buffers it moves."""
        self._outer, self._params, self._optimizers, self._derivative = outer, params, optimizers, derivative
        group = outer.step.group
        self.loss: Repeated[AfterStep, tuple[Params, Params, Scalars]] = Repeated(
            lambda x: losses.outer_gradient(*x), traced=traced
        )
        """The outer loss's gradient by the parameters after the step."""
        self.through: Repeated[tuple[Tensor, Inputs], Params] = Repeated(
            lambda x: losses.through_tradeoff(group, *x), traced=traced
        )
        """From the trade-off to the parameters that it is a function of."""

    def take(self, update: Update, gradients: StageGradients, inputs: WithNoise[Inputs]) -> OuterResult:
        """Step the constrained group and then the trade-off; every other group still holds its old value."""
        group, outer = update.group, self._outer
        before = {name: tensor.clone() for name, tensor in self._params[group].items()}
        self._derivative.before_step()
        self._optimizers.step(group, gradients.by_group[group])

        def after(draws: Mapping[Draw, None]) -> AfterStep:
            state = inputs(draws)
            return self._params[group], gradients.terms, state | {"params": state["params"] | {group: before}}

        by_theta, buffers, scalars = self.loss(after)
        derivative = self._derivative(update, gradients, by_theta, after)
        self._optimizers.step(outer.step.group, self.through(lambda draws: (derivative, inputs(draws))))
        logged = {**scalars, "gradient": derivative}
        return OuterResult(buffers, {f"{outer.owner}/{name}": value for name, value in logged.items()})


def tangent(adam: AdamStep, first: Tensor, second: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """dtheta'/dk from the moments *after* the step, the gradient g and its derivative h; all of theta's shape."""
    root = (second / adam.correction2).sqrt()
    denominator = root + adam.eps
    through_first = (1 - adam.beta1) / adam.correction1 * h / denominator
    mean = first / adam.correction1
    through_second = mean * ((1 - adam.beta2) / adam.correction2) * g * h / (root * denominator.square())
    return torch.where(root > 0, -adam.learning_rate * (through_first - through_second), 0.0)
