"""Losses, gradients, outer losses and policies of all seeds, as pure functions of the state tree.

A loss is written for one seed. ``torch.func.vmap`` maps its *forward* over the leading axis of the stacked state and
ordinary automatic differentiation takes the gradient of the sum over seeds: seeds do not touch each other, so that is
each seed's own gradient. At one seed the function is called as it is.

Nothing here changes anything; stepping is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Draw, Params, Stage, Terms, Update
from adaptive_constraints.core.view import Inputs, StateView
from adaptive_constraints.engine import over_seeds
from adaptive_constraints.engine.functions import MissingDraw
from adaptive_constraints.errors import AnswerError, StackError

Scalars = dict[str, Tensor]


class StageGradients(NamedTuple):
    """What the updates of one stage come to."""

    by_group: dict[str, Params]
    """Gradients [S, ...] by group of parameters."""
    terms: tuple[Tensor, ...]
    """The constrained group's terms [S, B], where it is among the groups."""
    mixed: Params
    """Where the trade-off is learned: d(gradient of the constrained group)/d(trade-off) [S, ...]."""
    scalars: Scalars
    """To be logged; [S] each."""
    kept: dict[str, Params]
    """New values [S, ...] of buffers of Modules, by group of parameters."""

    def keep(self, update: Update, kept: Mapping[str, Params]) -> None:
        """Add what one update leaves in buffers; `StackError` where another one of the stage leaves some too."""
        for group, values in kept.items():
            if values and group in self.kept:
                raise StackError(
                    f"two updates of one stage, the last of them {update.group!r}, call nets.{group} in training mode, "
                    "so that its buffers would have two new values: call it by eval in one of them, or make two stages"
                )
            if values:
                self.kept[group] = values


class Losses:
    """What a program computes from a state tree, for all seeds."""

    def __init__(self, program: Program, seeds: int, choices: Mapping[str, Mapping[str, str]]) -> None:
        self._program, self._seeds, self._choices = program, seeds, choices
        self.unpack: Callable[[Tensor], Mapping[str, Tensor]] | None = None
        """Columns of the packed table that stands in ``inputs["data"]``; None where there is none."""

    def view(self, inputs: Inputs) -> StateView:
        """One seed's state as its losses see it; `MissingDraw` for noise that is not in ``inputs``."""

        def noise(wanted: Draw) -> Tensor:
            drawn: Tensor | None = inputs["noise"].get(wanted)
            if drawn is None:
                raise MissingDraw(wanted)
            return drawn

        view = self._program.view(inputs, noise)
        view.choices = self._choices  # text, which is no part of a tree of tensors
        if self.unpack is not None:
            view.all_rows = self.unpack(inputs["data"])
        return view

    def map(self, function: Callable[..., Any], *trees: Any) -> Any:
        """``function`` of one seed, mapped over all of them."""
        return over_seeds.over_seeds(self._seeds, function, *trees)

    def answers(self, answer: Callable[[Any], Mapping[str, Tensor]], inputs: Inputs) -> Scalars:
        """What ``answer`` of one seed's view says, for all seeds."""
        return self.map(lambda x: dict(answer(self.view(x))), inputs)

    def actions(self, way: str, inputs: Inputs, observations: Tensor) -> Tensor:
        """Actions [S, N, A] by the policy called ``way`` at observations [S, N, D]."""
        choose = self._program.policies[way]

        def act(x: Inputs, observation: Tensor) -> Tensor:
            view = self.view(x)
            actions, shape = choose(view, observation), (*observation.shape[:-1], view.spec.action_dim)
            if actions.shape != shape:
                raise AnswerError(f"{way}() gives actions of the shape {list(actions.shape)}, not {list(shape)}")
            return actions

        return self.map(act, inputs, observations)

    # -- gradients of a stage -------------------------------------------------------------------------------------

    @torch.enable_grad()
    def gradients(self, stage: Stage, inputs: Inputs, outer: bool = False) -> StageGradients:
        """Gradients of all updates of a stage, at the state as it stands; ``outer``: the outer step follows."""
        result = StageGradients({}, (), {}, {}, {})
        for update in stage.updates:
            leaves = over_seeds.leaves(inputs["params"][update.group])
            if update.group == self._program.constrained:
                k = self.map(self.tradeoff, inputs).detach().requires_grad_(outer)
                loss, terms, logged, kept = self.map(self.constrained_loss(update), leaves, k, inputs)
                value, _, constraint = terms
                means = {f"{update.group}/value": value.mean(-1), f"{update.group}/constraint": constraint.mean(-1)}
                logged, result = means | logged, result._replace(terms=terms)
                if outer:
                    # h = d(dL/dk)/dtheta, wherever in the loss the trade-off stands.
                    (by_k,) = torch.autograd.grad(loss.sum(), k, create_graph=True, materialize_grads=True)
                    result = result._replace(mixed=over_seeds.gradient(by_k, leaves, retain_graph=True))
            else:
                loss, logged, kept = self.map(self._loss(update), leaves, inputs)
            try:
                result.by_group[update.group] = over_seeds.gradient(loss, leaves, reached=True)
            except over_seeds.Unreached:
                raise AnswerError(
                    f"{_said(update)} has no gradient by them, so that they would never change: compute it from p, "
                    f"which the loss is given (not from v.p[{update.group!r}]), without detach() or no_grad()"
                ) from None
            result.scalars.update({f"{update.group}/loss": loss.detach(), **logged})
            result.keep(update, kept)
        return result

    def tradeoff(self, inputs: Inputs) -> Tensor:
        """The trade-off [] of one seed."""
        assert self._program.tradeoff is not None
        return self._program.tradeoff(self.view(inputs))

    def _loss(self, update: Update) -> Callable[[Params, Inputs], tuple[Tensor, Scalars, dict[str, Params]]]:
        def loss(p: Params, inputs: Inputs) -> tuple[Tensor, Scalars, dict[str, Params]]:
            v = self.view(inputs)
            v.stepped = update.group, p
            return _one_number(update, update.loss(p, v)), v.metrics, v.kept

        return loss

    def constrained_loss(
        self, update: Update
    ) -> Callable[[Params, Tensor, Inputs], tuple[Tensor, tuple[Tensor, ...], Scalars, dict[str, Params]]]:
        """Loss [], terms, logged scalars and new buffers of one seed's constrained group, by a trade-off []."""

        def loss(p: Params, k: Tensor, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...], Scalars, dict[str, Params]]:
            v = self.view(inputs)
            v.stepped = update.group, p
            value, terms = update.loss(p, v, k)
            for name, term in zip(Terms._fields, terms, strict=True):
                if term.shape != v.r.shape:
                    raise AnswerError(
                        f"{_said(update)} comes with {name} of the shape {list(term.shape)}, where one number per row, "
                        f"{list(v.r.shape)}, is asked: terms() must not sum or average over rows"
                    )
            return _one_number(update, value), tuple(term.detach() for term in terms), v.metrics, v.kept

        return loss

    # -- the meta step --------------------------------------------------------------------------------------------

    @torch.enable_grad()
    def outer_gradient(
        self, after: Params, before: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Params, Params, Scalars]:
        """The outer loss's gradient by the parameters ``after`` [S, ...] the constrained step, new buffers, scalars.

        ``before`` are the terms before the step, ``inputs`` the state then.
        """
        theta = over_seeds.leaves(after)
        loss, buffers, scalars = self.map(self.outer_loss, theta, before, inputs)
        return over_seeds.gradient(loss, theta), buffers, scalars

    def outer_loss(self, p: Params, before: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, Params, Scalars]:
        """The outer loss [] of one seed at parameters after the constrained step, new buffers, scalars to log."""
        outer = self._program.outer
        assert outer is not None and self._program.tradeoff is not None
        v = self.view(inputs)
        v.stepped = str(self._program.constrained), p
        after = outer.terms(p, v)
        result = outer.loss(v, self._program.tradeoff(v), Terms(*before), after)
        scalars = {"loss": result.loss, **result.metrics}
        return result.loss, dict(result.buffers), {name: value.detach() for name, value in scalars.items()}

    @torch.enable_grad()
    def through_tradeoff(self, group: str, derivative: Tensor, inputs: Inputs) -> Params:
        """Chain rule from d/d(trade-off) [S] to the adapter's parameters that the trade-off is a function of."""
        leaves = over_seeds.leaves(inputs["params"][group])

        def tradeoff(p: Params, x: Inputs) -> Tensor:
            return self.tradeoff(x | {"params": x["params"] | {group: p}})

        return over_seeds.gradient(self.map(tradeoff, leaves, inputs) * derivative, leaves)


def _said(update: Update) -> str:
    """Such as ``TD3BC.regression, the loss of the group 'critic',``."""
    owner, name = getattr(update.loss, "__self__", None), getattr(update.loss, "__name__", "a function")
    whose = name if owner is None else f"{type(owner).__name__}.{name}"
    return f"{whose}, the loss of the group {update.group!r},"


def _one_number(update: Update, loss: Tensor) -> Tensor:
    if loss.dim():
        raise AnswerError(f"{_said(update)} has the shape {list(loss.shape)}, where one number is asked: take its mean")
    return loss
