"""The derivative of one real Adam step with respect to a scalar that entered its gradient.

With g the gradient of the inner loss at trade-off k and h = dg/dk, Adam's step gives

    m' = b1 m + (1 - b1) g          v' = b2 v + (1 - b2) g^2
    theta' = theta - lr mhat / (sqrt(vhat) + eps),    mhat = m' / (1 - b1^t),  vhat = v' / (1 - b2^t)
    dtheta'/dk = -lr [ (1 - b1)/(1 - b1^t) h / (sqrt(vhat) + eps)
                       - mhat (1 - b2)/(1 - b2^t) g h / (sqrt(vhat) (sqrt(vhat) + eps)^2) ]

exactly, because theta, m and v before the step do not depend on k. Where vhat is 0 (a weight that never had a
gradient) the step is 0 whatever k is, and so is its derivative; plain automatic differentiation gives NaN there.

The closed form is what training uses. The other back-ends differentiate through a functional Adam instead, one
seed at a time, and exist to check it: ``autograd`` (guarded at vhat = 0), ``torchopt`` and ``higher`` (whose Adam
places eps elsewhere, so it agrees to about 1e-4 only).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from adaptive_constraints.errors import DependencyError, StackError

Backend = Literal["closed_form", "autograd", "torchopt", "higher"]
BACKENDS: tuple[str, ...] = get_args(Backend)


@dataclass(frozen=True)
class Adam:
    """The settings of an Adam step and its count after the step, as numbers or as float64 tensors []."""

    learning_rate: float | Tensor
    step: float | Tensor
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def correction1(self) -> float | Tensor:
        """1 - beta1^step."""
        return 1 - self.beta1**self.step

    @property
    def correction2(self) -> float | Tensor:
        """1 - beta2^step."""
        return 1 - self.beta2**self.step


def check_backend(name: str) -> None:
    """Refuse an unknown back-end, or one whose package is missing, before training starts."""
    if name not in BACKENDS:
        raise StackError(f"unknown back-end {name!r} of the meta step; choose from {', '.join(BACKENDS)}")
    if name in ("torchopt", "higher"):
        _require(name)


def tangent(adam: Adam, first: Tensor, second: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """dtheta'/dk from the moments *after* the step, the gradient g and its derivative h; all of theta's shape."""
    root = (second / adam.correction2).sqrt()
    denominator = root + adam.eps
    through_first = (1 - adam.beta1) / adam.correction1 * h / denominator
    mean = first / adam.correction1
    through_second = mean * ((1 - adam.beta2) / adam.correction2) * g * h / (root * denominator.square())
    return torch.where(root > 0, -adam.learning_rate * (through_first - through_second), 0.0)


@dataclass(frozen=True)
class InnerStep:
    """One constrained step of one seed, as the back-ends that differentiate through it need it."""

    gradient: Callable[[Sequence[Tensor], Tensor], list[Tensor]]
    """(theta, k) -> g with a graph, clipped as the real step was."""
    outer: Callable[[Sequence[Tensor]], Tensor]
    """theta' -> outer loss []."""
    theta: Sequence[Tensor]
    """Parameters before the step."""
    first: Sequence[Tensor]
    """First moments before the step."""
    second: Sequence[Tensor]
    """Second moments before the step."""
    adam: Adam
    k: Tensor
    """[]"""


def differentiate(backend: str, inner: InnerStep) -> Tensor:
    """dL_outer/dk [] through a differentiable Adam of the named back-end."""
    step = {"autograd": _autograd_step, "torchopt": _torchopt_step, "higher": _higher_step}[backend]
    with torch.enable_grad():
        k = inner.k.detach().requires_grad_()
        theta = [tensor.detach().requires_grad_() for tensor in inner.theta]
        after = step(inner, theta, inner.gradient(theta, k))
        (derivative,) = torch.autograd.grad(inner.outer(after), k)
    return derivative


def _autograd_step(inner: InnerStep, theta: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """A plain functional Adam, with the square root guarded where the second moment is 0."""
    adam, after = inner.adam, []
    for parameter, g, m, v in zip(theta, gradients, inner.first, inner.second, strict=True):
        mean = (adam.beta1 * m + (1 - adam.beta1) * g) / adam.correction1
        square = (adam.beta2 * v + (1 - adam.beta2) * g.square()) / adam.correction2
        positive = square > 0
        root = torch.where(positive, square, 1.0).sqrt()
        step = torch.where(positive, mean / (root + adam.eps), 0.0)
        after.append(parameter - adam.learning_rate * step)
    return after


def _torchopt_step(inner: InnerStep, theta: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """TorchOpt's functional Adam, started from the carried moments.

    Its plain operator: the fused one holds the betas in float32. Weights that never had a gradient are left out.
    """
    torchopt, adam = _require("torchopt"), inner.adam
    optimizer = torchopt.adam(
        lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.eps, use_accelerated_op=False
    )
    moved = [(v > 0) | (g.detach() != 0) for v, g in zip(inner.second, gradients, strict=True)]
    second = tuple(torch.where(some, v, 1.0) for some, v in zip(moved, inner.second, strict=True))
    parameters = tuple(theta)
    state = _carry(optimizer.init(parameters), tuple(inner.first), second, int(adam.step) - 1)
    updates, _ = optimizer.update(tuple(gradients), state, params=parameters, inplace=False)
    return [p + torch.where(some, u, 0.0) for p, some, u in zip(parameters, moved, updates, strict=True)]


def _carry(state: Any, first: tuple[Tensor, ...], second: tuple[Tensor, ...], steps: int) -> Any:
    """TorchOpt's state tree with Adam's moments and counts replaced; counts in float64, as are corrections then."""
    if hasattr(state, "mu"):
        counts = tuple(torch.full_like(each, steps, dtype=torch.float64) for each in state.count)
        return state._replace(mu=first, nu=second, count=counts)
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return type(state)(_carry(each, first, second, steps) for each in state)
    return state


def _higher_step(inner: InnerStep, theta: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """higher's differentiable Adam, started from the carried moments."""
    higher, adam = _require("higher"), inner.adam
    parameters = list(theta)
    optimizer = torch.optim.Adam(parameters, lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.eps)
    for parameter, m, v in zip(parameters, inner.first, inner.second, strict=True):
        optimizer.state[parameter] = {"step": adam.step - 1, "exp_avg": m, "exp_avg_sq": v}
    differentiable = higher.optim.DifferentiableAdam(optimizer, parameters)
    loss = sum((parameter.sum() for parameter in parameters), torch.zeros(()))  # its gradients are replaced by ours
    after = differentiable.step(loss, params=parameters, grad_callback=lambda _: list(gradients))
    return list(after)


def _require(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise DependencyError(
            f"the meta step's back-end {package!r} needs the package {package}: "
            'pip install "adaptive-constraints[oracles]", or use the default closed_form'
        ) from error
