"""The read-only view ``v`` that losses and answers receive: one seed's state, the learner's services, folded seams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from adaptive_constraints.adapter import SEAMS, Adapter
from adaptive_constraints.errors import StackError
from adaptive_constraints.learner import Gaussian, Params, Point, Row, Spec, Terms

if TYPE_CHECKING:
    from adaptive_constraints.stack import Resolved

Inputs = dict[str, Any]
"""The tree a view is made of: params, targets, buffers, frozen, batch, clock (and noise tables, where drawn ahead)."""


class Services:
    """The learner's pure functions that adapters may use; see the methods of `Learner` for shapes."""

    def __init__(self, v: View) -> None:
        learner = v.resolved.learner
        self.facts = v.resolved.facts
        self.discount = learner.discount
        self.q = learner.q
        self.aggregate = learner.aggregate
        self.td_error = learner.td_error
        self._learner, self._v = learner, v

    def sample(self, p: Params, observation: Tensor, site: str) -> Tensor:
        """Actions [N, A] of the policy with parameters ``p`` as it explores Q."""
        return self._learner.sample(self._v, p, observation, site)

    def distribution(self, p: Params, observation: Tensor) -> Gaussian | Point | None:
        """The policy at states [N, D] in closed form, or None."""
        return self._learner.distribution(self._v, p, observation)

    def terms(self, p: Params) -> Terms:
        """Value, improvement and constraint [B] at parameters ``p`` of the constrained group, on the batch."""
        return self._learner.terms(p, self._v)

    def sample_behavior(self, observation: Tensor, site: str, count: int) -> Tensor | None:
        """Draws [count, N, A] from the learner's own behaviour model, or None."""
        return self._learner.sample_behavior(self._v, observation, site, count)


class View:
    """One seed's state as losses and answers see it. Nothing here carries gradient."""

    def __init__(
        self, resolved: Resolved, spec: Spec, inputs: Inputs, draw: Callable[[str, str, tuple[int, ...]], Tensor]
    ) -> None:
        self.resolved = resolved
        self.phase = resolved.phase
        """offline or online."""
        self.spec = spec
        """Dimensions of the data."""
        self.p: Mapping[str, Params] = inputs["params"]
        """Parameters of every group, as they stood when the stage began."""
        self.target: Mapping[str, Params] = inputs["targets"]
        """Polyak averages of the groups that have one."""
        self.buffers: Mapping[str, Params] = inputs["buffers"]
        """Adapters' non-gradient state, by adapter name."""
        self.frozen: Mapping[str, Params] = inputs["frozen"]
        """Models prepared before tick 1, by adapter name."""
        self.batch: Mapping[str, Tensor] = inputs["batch"]
        """Columns of the minibatch, in learner space."""
        clock = inputs["clock"]
        self.tick: Tensor = clock["tick"]
        """This tick, from 1; [] int64."""
        self.phase_tick: Tensor = clock["phase_tick"]
        """This tick counted from the start of the phase; [] int64."""
        self.horizon: Tensor = clock["horizon"]
        """The planned number of ticks; [] int64."""
        self.metrics: dict[str, Tensor] = {}
        self._draw = draw
        self.services = Services(self)

    # -- the minibatch --------------------------------------------------------------------------------------------

    @property
    def s(self) -> Tensor:
        """Observations [B, D]."""
        return self.batch["observation"]

    @property
    def a(self) -> Tensor:
        """Actions of the data [B, A]."""
        return self.batch["action"]

    @property
    def r(self) -> Tensor:
        """Rewards [B]."""
        return self.batch["reward"]

    @property
    def s2(self) -> Tensor:
        """Next observations [B, D]."""
        return self.batch["next_observation"]

    @property
    def d(self) -> Tensor:
        """1 where the episode truly ended, never at a time limit; [B]."""
        return self.batch["terminal"]

    # -- noise and records ----------------------------------------------------------------------------------------

    def normal(self, site: str, shape: Sequence[int]) -> Tensor:
        """Standard normal draws, a pure function of (seed, site, tick, index): the same site draws the same.

        An adapter begins its sites with its name, lest it share draws with somebody else's site.
        """
        return self._draw("normal", site, tuple(shape))

    def uniform(self, site: str, shape: Sequence[int]) -> Tensor:
        """Uniform draws in [0, 1); otherwise as `normal`."""
        return self._draw("uniform", site, tuple(shape))

    def log(self, name: str, value: Tensor) -> None:
        """Record a scalar under ``name``, averaged over the ticks between two log points; losses need no call."""
        if value.dim():
            raise StackError(f"what is logged under {name!r} must be one number, not of the shape {list(value.shape)}")
        self.metrics[name] = value.detach()

    # -- seams ----------------------------------------------------------------------------------------------------

    def bootstrap(self, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The value [N] inside a TD target at states [N, D]."""
        learner = self.resolved.learner
        return self._compose(
            "bootstrap",
            lambda: learner.bootstrap(self, observation, site, batch),
            lambda a, so_far: a.bootstrap(self, observation, site, batch, so_far),
            observation.shape[:-1],
        )

    def td_weight(self) -> Tensor | float:
        """Weight of the in-data TD term; scalar."""
        return self._product("td_weight", torch.Size())

    def critic_rows(self) -> list[Row]:
        """Extra rows of the critics' regression."""
        return [row for adapter in self._answering("critic_rows") for row in adapter.critic_rows(self)]

    def value_action(self) -> Tensor:
        """The action [B, A] at which V regresses on the target critics."""
        answer: _Answer = lambda a, so_far: a.value_action(self, so_far)  # noqa: E731
        return self._compose("value_action", lambda: self.a, answer, self.a.shape)

    def behavior_action(self) -> Tensor:
        """The action [B, A] that imitation takes for the data's."""
        answer: _Answer = lambda a, so_far: a.behavior_action(self, so_far)  # noqa: E731
        return self._compose("behavior_action", lambda: self.a, answer, self.a.shape)

    def sample_weight(self) -> Tensor | float:
        """Weight of each row in the imitation term; [B] or 1."""
        return self._product("sample_weight", self.r.shape)

    def query_action(self) -> list[Tensor]:
        """Off-data actions [B, A] at which adapters read Q."""
        return [action for adapter in self._answering("query_action") for action in adapter.query_action(self)]

    def constraint(self, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """The constraint term [B] at ``action`` [B, A]: an adapter's, or the learner's ``default()``."""
        answer: _Answer = lambda a, so_far: a.constraint(self, action, so_far)  # noqa: E731
        return self._compose("constraint", default, answer, action.shape[:-1])

    def constraint_weight(self) -> Tensor | float:
        """Weight of the constraint at each state; [B] or 1.

        Gauge: while an adapter learns the trade-off, the weights say where and not how much, so they are divided by
        their mean over the rows with a positive weight.
        """
        weight = self._product("constraint_weight", self.r.shape)
        if self.resolved.meta is None:
            return weight
        if not isinstance(weight, Tensor):
            return 1.0 if weight > 0 else 0.0
        positive = weight > 0
        return weight * positive.sum().clamp(min=1) / weight.sum().clamp(min=1e-12)

    def constraint_scale(self) -> Tensor | float:
        """Annealing of the whole constraint; scalar."""
        return self._product("constraint_scale", torch.Size())

    def weighted(self, constraint: Tensor) -> Tensor:
        """The constraint [B] under the weights of all seams; the rows' weights only where it imitates the data."""
        weight = self.constraint_scale() * self.constraint_weight()
        replaced = any("constraint" in adapter.replaces for adapter in self._answering("constraint"))
        if self.resolved.facts.imitation_is_constraint and not replaced:
            weight = self.sample_weight() * weight
        return weight * constraint

    def tempered(self, exponent: Tensor) -> Tensor:
        """The exponent [B] of imitation weights exp(exponent): a larger weight of the constraint flattens it.

        The weight, floored at 1e-3, divides the exponent: what `weighted` is to constraints that are multiplied.
        """
        weight = self.constraint_scale() * self.constraint_weight()
        return exponent / (weight.clamp(min=1e-3) if isinstance(weight, Tensor) else max(weight, 1e-3))

    def tradeoff(self) -> Tensor:
        """The learner's one scalar; []."""
        learned = self.resolved.facts.tradeoff
        return self._compose(
            "tradeoff",
            lambda: self.r.new_full((), float("nan") if learned is None else learned),
            lambda a, so_far: a.tradeoff(self, so_far),
            torch.Size(),
        )

    def value(self, observation: Tensor) -> Tensor:
        """The state value [N] that the stack shares: the learner's own or the toolkit's."""
        return self.resolved.value(self.p.get("value", {}), observation)

    # -- folds ----------------------------------------------------------------------------------------------------

    def _answering(self, seam: str) -> tuple[Adapter, ...]:
        return self.resolved.answering[seam]

    def _product(self, seam: str, shape: torch.Size) -> Tensor | float:
        found: Tensor | float = 1.0
        for adapter in self._answering(seam):
            factor: Tensor | float = getattr(adapter, seam)(self)
            if isinstance(factor, Tensor) and factor.dim():
                _check_shape(adapter, seam, factor, shape)
            found = found * factor
        return found

    def _compose(self, seam: str, default: Callable[[], Tensor], answer: _Answer, shape: torch.Size) -> Tensor:
        so_far = default
        for adapter in self._answering(seam):
            so_far = _bind(seam, answer, adapter, so_far, shape)
        return so_far()


_Answer: TypeAlias = "Callable[[Adapter, Callable[[], Tensor]], Tensor]"
"""Of an adapter, given what the seam says without it."""


def _bind(
    seam: str, answer: _Answer, adapter: Adapter, so_far: Callable[[], Tensor], shape: torch.Size
) -> Callable[[], Tensor]:
    def bound() -> Tensor:
        asked = seam in adapter.replaces or SEAMS[seam].may_swallow

        def default() -> Tensor:
            nonlocal asked
            asked = True
            return so_far()

        found = answer(adapter, default)
        _check_shape(adapter, seam, found, shape)
        if not asked:
            raise StackError(
                f"{adapter.name}: it answers {seam!r} without calling default(), which loses the answers of others: "
                f"call it, or declare replaces = frozenset({{{seam!r}}})"
            )
        return found

    return bound


def _check_shape(adapter: Adapter, seam: str, answer: Tensor, shape: torch.Size) -> None:
    """Refuse what would broadcast: a weight [B, 1] makes a mean over [B, B] without a word."""
    if answer.shape != shape:
        raise StackError(
            f"{adapter.name}: its answer to {seam!r} has the shape {list(answer.shape)}, where {list(shape)} is asked"
        )


__all__ = ["Inputs", "Services", "View"]
