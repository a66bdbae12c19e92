"""Derivatives of a step through a functional Adam, one seed at a time: slow, and there to check the closed form.

``autograd`` is guarded where the second moment is 0; ``torchopt`` and ``higher`` are packages of their own, and
higher's Adam places eps elsewhere, so that it agrees to about 1e-4 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adaptive_constraints.core.types import Draw, Params, Update
from adaptive_constraints.engine.functions import WithNoise, with_draws
from adaptive_constraints.engine.gradients import Losses, StageGradients
from adaptive_constraints.engine.meta_step import AfterStep, ClosedForm, Derivative
from adaptive_constraints.engine.optimizers import AdamStep, Optimizers
from adaptive_constraints.engine.over_seeds import clip_factor, one_seed
from adaptive_constraints.errors import DependencyError, StackError

Backend = Literal["closed_form", "autograd", "torchopt", "higher"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def derivative_by(backend: str, losses: Losses, optimizers: Optimizers, group: str) -> Derivative:
    """The named way to differentiate the steps of a group.

    Raises `StackError` for an unknown back-end and `DependencyError` where its package is missing.
    """
    if backend not in BACKENDS:
        raise StackError(f"unknown back-end {backend!r} of the meta step; choose from {', '.join(BACKENDS)}")
    if backend == "closed_form":
        return ClosedForm(optimizers)
    if backend in ("torchopt", "higher"):
        _require(backend)
    return Oracle(backend, losses, optimizers, group)


class Oracle:
    """Automatic differentiation through the constrained step."""

    recordable = False

    def __init__(self, backend: str, losses: Losses, optimizers: Optimizers, group: str) -> None:
        self._backend, self._losses, self._optimizers, self._group = backend, losses, optimizers, group
        self._draws: dict[Draw, None] = {}
        self._moments: dict[str, Params] = {}

    def before_step(self) -> None:
        """Keep Adam's moments."""
        self._moments = pytree.tree_map(torch.clone, self._optimizers.moments(self._group))

    def __call__(
        self, update: Update, gradients: StageGradients, by_theta: Params, after: WithNoise[AfterStep]
    ) -> Tensor:
        adam = self._optimizers.last_step(self._group)
        counted = AdamStep(float(adam.learning_rate), float(adam.step))
        return with_draws(self._draws, lambda x: self._by_seeds(update, counted, x[1], x[2]), after)

    def _by_seeds(self, update: Update, adam: AdamStep, before: tuple[Tensor, ...], inputs: Any) -> Tensor:
        """dL_outer/dk [S], one seed after the other."""
        names, losses = list(inputs["params"][update.group]), self._losses
        constrained_loss = losses.constrained_loss(update)

        def derivative(seed: int) -> Tensor:
            x, terms = one_seed(inputs, seed), one_seed(before, seed)

            def gradient(theta: Sequence[Tensor], k: Tensor) -> list[Tensor]:
                loss, *_ = constrained_loss(dict(zip(names, theta, strict=True)), k, x)
                gradients = torch.autograd.grad(loss, list(theta), create_graph=True, materialize_grads=True)
                factor = clip_factor([g.detach()[None] for g in gradients], update.clip)
                return [g * factor[0] for g in gradients]

            return differentiate(
                self._backend,
                InnerStep(
                    gradient=gradient,
                    outer=lambda theta: losses.outer_loss(dict(zip(names, theta, strict=True)), terms, x)[0],
                    theta=list(x["params"][update.group].values()),
                    first=[self._moments["first"][name][seed] for name in names],
                    second=[self._moments["second"][name][seed] for name in names],
                    adam=adam,
                    k=losses.tradeoff(x),
                ),
            )

        return torch.stack(
            [derivative(seed) for seed in range(len(next(iter(inputs["params"][update.group].values()))))]
        )


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
    adam: AdamStep
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
        counts = tuple(torch.full_like(count, steps, dtype=torch.float64) for count in state.count)
        return state._replace(mu=first, nu=second, count=counts)
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return type(state)(_carry(part, first, second, steps) for part in state)
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
