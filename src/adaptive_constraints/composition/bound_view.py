"""The view of one resolved stack: how the answers of several adapters at one seam become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import SEAMS, ExtraRows, Gaussian, Params, Point, Spec, Terms
from adaptive_constraints.core.view import DrawNoise, Inputs, Services, View
from adaptive_constraints.errors import AnswerError, StackError


class BoundServices(Services):
    """The services of one stack's learner."""

    def __init__(self, v: BoundView) -> None:
        self._learner, self._v = v.resolved.learner, v
        self.facts, self.discount = v.resolved.facts, self._learner.discount

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        return self._learner.answered("q", self._learner.q(p, observation, action), (-1, *action.shape[:-1]))

    def aggregate(self, q: Tensor) -> Tensor:
        return self._learner.answered("aggregate", self._learner.aggregate(q), q.shape[1:])

    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        return self._learner.td_error(q, target)

    def sample(self, p: Params, observation: Tensor, site: str) -> Tensor:
        actions = self._learner.sample(self._v, p, observation, site)
        return self._learner.answered("sample", actions, (*observation.shape[:-1], self._v.spec.action_dim))

    def distribution(self, p: Params, observation: Tensor) -> Gaussian | Point | None:
        policy = self._learner.distribution(self._v, p, observation)
        check_policy(self._learner, policy, self.facts.distribution)
        if policy is None:
            return None
        shape = (*observation.shape[:-1], self._v.spec.action_dim)
        for name, part in zip(policy._fields, policy, strict=True):
            if isinstance(part, Tensor):
                self._learner.answered(f"distribution, {name}", part, shape)
        return policy if isinstance(policy, Point) else policy._replace(log_density=self._checked(policy.log_density))

    def _checked(self, log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A log-density that is one number per action dimension: a sum over them would pass for one of each row."""
        return lambda action: self._learner.answered("distribution, log_density", log_density(action), action.shape)

    def terms(self, p: Params) -> Terms:
        terms = self._learner.terms(p, self._v)
        for name, term in zip(terms._fields, terms, strict=True):
            self._learner.answered(f"terms, {name}", term, self._v.r.shape)
        return terms

    def sample_behavior(self, observation: Tensor, site: str, count: int) -> Tensor | None:
        return self._learner.sample_behavior(self._v, observation, site, count)


class BoundView(View):
    """One seed's state, with every seam answered by the adapters of a resolved stack."""

    def __init__(self, resolved: Resolved, spec: Spec, inputs: Inputs, draw: DrawNoise) -> None:
        super().__init__(spec, inputs, draw)
        self.resolved, self.phase = resolved, resolved.phase
        self.services = BoundServices(self)

    # -- seams ----------------------------------------------------------------------------------------------------

    def bootstrap(self, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None = None) -> Tensor:
        learner = self.resolved.learner

        def own() -> Tensor:
            return learner.answered(
                "bootstrap", learner.bootstrap(self, observation, site, batch), observation.shape[:-1]
            )

        return self._compose(
            "bootstrap",
            own,
            lambda a, so_far: a.bootstrap(self, observation, site, batch, so_far),
            observation.shape[:-1],
        )

    def td_weight(self) -> Tensor | float:
        return self._product("td_weight", torch.Size())

    def critic_rows(self) -> list[ExtraRows]:
        return [row for adapter in self._answering("critic_rows") for row in adapter.critic_rows(self)]

    def value_action(self) -> Tensor:
        answer: _Answer = lambda a, so_far: a.value_action(self, so_far)  # noqa: E731
        return self._compose("value_action", lambda: self.a, answer, self.a.shape)

    def behavior_action(self) -> Tensor:
        answer: _Answer = lambda a, so_far: a.behavior_action(self, so_far)  # noqa: E731
        return self._compose("behavior_action", lambda: self.a, answer, self.a.shape)

    def sample_weight(self) -> Tensor | float:
        return self._product("sample_weight", self.r.shape)

    def query_action(self) -> list[Tensor]:
        return [action for adapter in self._answering("query_action") for action in adapter.query_action(self)]

    def constraint(self, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        answer: _Answer = lambda a, so_far: a.constraint(self, action, so_far)  # noqa: E731
        own = lambda: self.resolved.learner.answered("constraint", default(), action.shape[:-1])  # noqa: E731
        return self._compose("constraint", own, answer, action.shape[:-1])

    def conservative_value(self, q: Tensor, action: Tensor) -> Tensor:
        answer: _Answer = lambda a, so_far: a.conservative_value(self, action, so_far)  # noqa: E731
        return self._compose("conservative_value", lambda: q, answer, q.shape)

    def constraint_weight(self) -> Tensor | float:
        weight = self._product("constraint_weight", self.r.shape)
        if self.resolved.meta is None:
            return weight
        if not isinstance(weight, Tensor):
            return 1.0 if weight > 0 else 0.0
        positive = weight > 0
        return weight * positive.sum().clamp(min=1) / weight.sum().clamp(min=1e-12)

    def constraint_scale(self) -> Tensor | float:
        return self._product("constraint_scale", torch.Size())

    def tradeoff(self) -> Tensor:
        learned = self.resolved.facts.tradeoff
        return self._compose(
            "tradeoff",
            lambda: self.r.new_full((), float("nan") if learned is None else learned),
            lambda a, so_far: a.tradeoff(self, so_far),
            torch.Size(),
        )

    # -- what seams amount to -------------------------------------------------------------------------------------

    def weighted(self, constraint: Tensor) -> Tensor:
        weight = self.constraint_scale() * self.constraint_weight()
        replaced = any("constraint" in adapter.replaces for adapter in self._answering("constraint"))
        if self.resolved.facts.imitation_is_constraint and not replaced:
            weight = self.sample_weight() * weight
        return weight * constraint

    def tempered(self, exponent: Tensor) -> Tensor:
        weight = self.constraint_scale() * self.constraint_weight()
        return exponent / (weight.clamp(min=1e-3) if isinstance(weight, Tensor) else max(weight, 1e-3))

    def value(self, observation: Tensor) -> Tensor:
        return self.resolved.value(self.p.get("value", {}), observation)

    # -- combining ------------------------------------------------------------------------------------------------

    def _answering(self, seam: str) -> tuple[Adapter, ...]:
        return self.resolved.answering[seam]

    def _product(self, seam: str, shape: torch.Size) -> Tensor | float:
        product: Tensor | float = 1.0
        for adapter in self._answering(seam):
            factor: Tensor | float = getattr(adapter, seam)(self)
            if isinstance(factor, Tensor) and factor.dim():
                adapter.answered(seam, factor, shape)
            product = product * factor
        return product

    def _compose(self, seam: str, default: Callable[[], Tensor], answer: _Answer, shape: torch.Size) -> Tensor:
        so_far = default
        for adapter in self._answering(seam):
            so_far = _bind(seam, answer, adapter, so_far, shape)
        return so_far()


_Answer: TypeAlias = Callable[[Adapter, Callable[[], Tensor]], Tensor]
"""An adapter's answer, given what the seam says without it."""


def _bind(
    seam: str, answer: _Answer, adapter: Adapter, so_far: Callable[[], Tensor], shape: torch.Size
) -> Callable[[], Tensor]:
    def bound() -> Tensor:
        asked = seam in adapter.replaces or SEAMS[seam].may_swallow

        def default() -> Tensor:
            nonlocal asked
            asked = True
            return so_far()

        tensor = answer(adapter, default)
        adapter.answered(seam, tensor, shape)
        if not asked:
            raise StackError(
                f"{adapter.name}: it answers {seam!r} without calling default(), which loses the answers of others: "
                f"call it, or declare replaces = frozenset({{{seam!r}}})"
            )
        return tensor

    return bound


KINDS: dict[str, type[Gaussian] | type[Point] | None] = {
    "point": Point,
    "gaussian": Gaussian,
    "tanh-gaussian": Gaussian,
    "generative": None,
}
"""By what a learner's facts say of its policy, what `Learner.distribution` gives."""


def check_policy(learner: Learner, policy: Gaussian | Point | None, said: str) -> None:
    """Refuse a policy of another kind than the learner's facts say; raises `AnswerError`."""
    wanted, given = KINDS[said], None if policy is None else type(policy)
    if policy is not None and given is not wanted:
        kind = "None" if wanted is None else f"a {wanted.__name__}"
        raise AnswerError(
            f"{learner.title}: its facts say distribution={said!r}, so distribution() must give {kind}, not a "
            f"{type(policy).__name__}: correct one of them"
        )


__all__ = ["BoundServices", "BoundView"]
