"""Losses, gradients, outer losses and policies of all seeds, as pure functions of the state tree.

A loss is written for one seed. ``torch.func.vmap`` maps its *forward* over the leading axis of the stacked state and
ordinary automatic differentiation takes the gradient of the sum over seeds: seeds do not touch each other, so that is
each seed's own gradient. At one seed the function is called as it is.

Nothing here changes anything; stepping is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints.composition.bound_view import BoundView, Inputs
from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.types import Params, Spec, Stage, Terms, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.engine import meta_step as meta
from adaptive_constraints.engine import over_seeds as stacked

Draw = tuple[str, str, tuple[int, ...]]
"""(kind, site, shape) of one draw of noise."""
Gradients = dict[str, Params]
Scalars = dict[str, Tensor]
Found = tuple[Gradients, tuple[Tensor, ...], Scalars]
"""Gradients [S, ...] of a stage's updates by group, the constrained group's terms, and scalars to log."""

MIXED = "d/dk"
"""Where the gradients of a meta tick hold d(gradient of the constrained group)/d(trade-off)."""


class MissingDraw(Exception):
    """A function asked for noise that it had not asked for before: it is run again with it."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.draw = draw


class Losses:
    """What a resolved stack computes from a state tree."""

    def __init__(self, resolved: Resolved, spec: Spec, seeds: int) -> None:
        self.resolved = resolved
        self._spec, self._seeds = spec, seeds

    def view(self, inputs: Inputs) -> BoundView:
        """One seed's state as its losses see it; `MissingDraw` for noise that is not in ``inputs``."""

        def draw(*wanted: Any) -> Tensor:
            found: Tensor | None = inputs["noise"].get(wanted)
            if found is None:
                raise MissingDraw(wanted)
            return found

        return BoundView(self.resolved, self._spec, inputs, draw)

    def map(self, function: Callable[..., Any], *trees: Any) -> Any:
        """``function`` of one seed, mapped over all of them."""
        return stacked.over_seeds(self._seeds, function, *trees)

    def answers(self, answer: Callable[[View], Mapping[str, Tensor]], inputs: Inputs) -> Scalars:
        """What ``answer`` of one seed's view says, for all seeds."""
        return self.map(lambda x: dict(answer(self.view(x))), inputs)

    def actions(self, way: str, inputs: Inputs, observations: Tensor) -> Tensor:
        """The learner's actions [S, N, A], by its method ``way``, at observations [S, N, D]."""
        choose = getattr(self.resolved.learner, way)
        return self.map(lambda x, observation: choose(self.view(x), observation), inputs, observations)

    # -- gradients of a stage -------------------------------------------------------------------------------------

    @torch.enable_grad()
    def gradients(self, stage: Stage, inputs: Inputs, meta_tick: bool = False) -> Found:
        """Of all updates of a stage, at the state as it stands."""
        gradients: Gradients = {}
        terms: tuple[Tensor, ...] = ()
        scalars: Scalars = {}
        for update in stage.updates:
            leaves = stacked.leaves(inputs["params"][update.group])
            if update.group == self.resolved.facts.constrained:
                k = self.map(self.tradeoff, inputs).detach().requires_grad_(meta_tick)
                loss, terms, found = self.map(self._constrained_loss(update), leaves, k, inputs)
                value, _, constraint = terms
                found = {
                    f"{update.group}/value": value.mean(-1),
                    f"{update.group}/constraint": constraint.mean(-1),
                    **found,
                }
                if meta_tick:
                    # h = d(dL/dk)/dtheta, wherever in the loss the trade-off stands.
                    (by_k,) = torch.autograd.grad(loss.sum(), k, create_graph=True, materialize_grads=True)
                    gradients[MIXED] = stacked.gradient(by_k, leaves, retain_graph=True)
            else:
                loss, found = self.map(self._loss(update), leaves, inputs)
            gradients[update.group] = stacked.gradient(loss, leaves)
            scalars |= {f"{update.group}/loss": loss.detach(), **found}
        return gradients, terms, scalars

    def tradeoff(self, inputs: Inputs) -> Tensor:
        """The trade-off [] of one seed."""
        return self.view(inputs).tradeoff()

    def _loss(self, update: Update) -> Callable[[Params, Inputs], tuple[Tensor, Scalars]]:
        def loss(p: Params, inputs: Inputs) -> tuple[Tensor, Scalars]:
            v = self.view(inputs)
            return update.loss(p, v), v.metrics

        return loss

    def _constrained_loss(
        self, update: Update
    ) -> Callable[[Params, Tensor, Inputs], tuple[Tensor, tuple[Tensor, ...], Scalars]]:
        def loss(p: Params, k: Tensor, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...], Scalars]:
            v = self.view(inputs)
            value, terms = update.loss(p, v, k)
            return value, tuple(term.detach() for term in terms), v.metrics

        return loss

    # -- the meta step --------------------------------------------------------------------------------------------

    @torch.enable_grad()
    def outer_gradient(
        self, after: Params, before: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Params, Params, Scalars]:
        """The outer loss's gradient by the parameters ``after`` [S, ...] the constrained step, and what else it gives.

        That is the adapter's new buffers and scalars to log. ``before`` are the terms before the step, ``inputs`` the
        state then.
        """
        theta = stacked.leaves(after)
        loss, buffers, scalars = self.map(self._outer_loss, theta, before, inputs)
        return stacked.gradient(loss, theta), buffers, scalars

    def _outer_loss(self, p: Params, before: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, Params, Scalars]:
        assert self.resolved.meta is not None
        v = self.view(inputs)
        after = self.resolved.learner.terms(p, v)
        result = self.resolved.meta[0].meta_loss(v, v.tradeoff(), Terms(*before), after)
        scalars = {"loss": result.loss, **result.metrics}
        return result.loss, dict(result.buffers), {name: value.detach() for name, value in scalars.items()}

    @torch.enable_grad()
    def through_tradeoff(self, group: str, derivative: Tensor, inputs: Inputs) -> Params:
        """Chain rule from d/d(trade-off) [S] to the adapter's parameters that the trade-off is a function of."""
        leaves = stacked.leaves(inputs["params"][group])

        def tradeoff(p: Params, x: Inputs) -> Tensor:
            return self.tradeoff(x | {"params": x["params"] | {group: p}})

        return stacked.gradient(self.map(tradeoff, leaves, inputs) * derivative, leaves)

    def by_oracle(
        self,
        backend: str,
        update: Update,
        moments: Mapping[str, Params],
        adam: meta.Adam,
        before: tuple[Tensor, ...],
        inputs: Inputs,
    ) -> Tensor:
        """dL_outer/dk [S] through a differentiable Adam, one seed after the other; ``moments`` before the step."""
        names = list(inputs["params"][update.group])
        constrained_loss = self._constrained_loss(update)

        def derivative(seed: int) -> Tensor:
            x, terms = stacked.one_seed(inputs, seed), stacked.one_seed(before, seed)
            theta_before = list(x["params"][update.group].values())

            def gradient(theta: Sequence[Tensor], k: Tensor) -> list[Tensor]:
                loss, _, _ = constrained_loss(dict(zip(names, theta, strict=True)), k, x)
                found = torch.autograd.grad(loss, list(theta), create_graph=True, materialize_grads=True)
                factor = stacked.clip_factor([each.detach()[None] for each in found], update.clip)
                return [each * factor[0] for each in found]

            return meta.differentiate(
                backend,
                meta.InnerStep(
                    gradient=gradient,
                    outer=lambda theta: self._outer_loss(dict(zip(names, theta, strict=True)), terms, x)[0],
                    theta=theta_before,
                    first=[moments["first"][name][seed] for name in names],
                    second=[moments["second"][name][seed] for name in names],
                    adam=adam,
                    k=self.tradeoff(x),
                ),
            )

        return torch.stack([derivative(seed) for seed in range(self._seeds)])
