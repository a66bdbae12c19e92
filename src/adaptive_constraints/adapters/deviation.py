"""Deviation of the imitated action from a policy's trust interval, for every kind of policy.

The imitated action is the data's action unless another adapter refines it: what the coefficient weighs is the pull
towards it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adaptive_constraints.core.types import Facts, Gaussian, Point
from adaptive_constraints.core.view import View

Kind = Literal["density", "pre_tanh", "fixed_sigma", "surrogate", "model"]
LARGEST_EDGE = 0.99999
"""Edges of the interval in a squashed policy's action space are clipped to +-this."""
FLOOR_N = 10.0
"""Actions further out than this many standard deviations count as that far."""
POLICIES: dict[Kind, tuple[str, ...]] = {
    "density": ("gaussian", "tanh-gaussian"),
    "pre_tanh": ("tanh-gaussian",),
    "fixed_sigma": ("point", "gaussian", "tanh-gaussian"),
    "surrogate": ("gaussian", "tanh-gaussian", "generative"),
}
"""Which policies each kind is defined on; "model" asks for a model instead."""


def natural_kind(facts: Facts) -> Kind:
    """The kind that measures best on a learner with these properties."""
    if facts.distribution == "point":
        return "fixed_sigma"
    if facts.distribution == "generative":
        return "model" if _is_held_to_its_model(facts) else "surrogate"
    return "density"


def _is_held_to_its_model(facts: Facts) -> bool:
    """The policy's constraint is its distance to the learner's own model of the behaviour."""
    return facts.owns_behavior and not facts.imitation_is_constraint and facts.constrained == facts.policy


@dataclass(frozen=True)
class TrustInterval:
    """n standard deviations around a policy's mean action."""

    kind: Kind
    sigma: float
    """Standard deviation in action space, where it is fixed; n times this bounds the interval of a squashed policy."""
    samples: int
    """Draws of a policy that can only be sampled."""
    site: str
    """Name of the noise of those draws."""

    def fits(self, facts: Facts) -> bool:
        """Tell whether it is defined on such a learner."""
        return _is_held_to_its_model(facts) if self.kind == "model" else facts.distribution in POLICIES[self.kind]

    def margin(self, v: View, n: Tensor) -> Tensor:
        """w_n(s, a) [B]: positive where the data's action lies inside."""
        if self.kind == "density":
            return self._density_margin(v, n)
        if self.kind == "pre_tanh":
            return self._pre_tanh_margin(v, n)
        return (n * self.sigma).square() - self._squared_distance(v)

    # -- by density -----------------------------------------------------------------------------------------------

    def _density_margin(self, v: View, n: Tensor) -> Tensor:
        """Mean over dimensions of max(log pi(a), C_10) - C_n, where C_n is the smaller log-density of two edges."""
        policy, squashed = _gaussian(v), v.services.facts.distribution == "tanh-gaussian"

        def at_edges(n: Tensor | float) -> Tensor:
            lower, upper = self._edge(policy, n, -1, squashed), self._edge(policy, n, 1, squashed)
            return torch.minimum(policy.log_density(lower), policy.log_density(upper))

        return (torch.maximum(policy.log_density(v.behavior_action()), at_edges(FLOOR_N)) - at_edges(n)).mean(-1)

    def _edge(self, policy: Gaussian, n: Tensor | float, side: int, squashed: bool) -> Tensor:
        """The action n standard deviations to one side of the mean; squashed, at most n sigma away from it."""
        edge = policy.mean + side * n * policy.std
        if not squashed:
            return edge
        center, furthest = torch.tanh(policy.mean), n * self.sigma
        edge = torch.tanh(edge).clamp(-LARGEST_EDGE, LARGEST_EDGE)
        return edge.clamp(center - furthest, center + furthest)

    def _pre_tanh_margin(self, v: View, n: Tensor) -> Tensor:
        """Mean over dimensions of (n^2 - min(z, 10)^2) / 2, z the standardised action before the tanh.

        The same difference of log-densities without the tanh's derivative, and without a bound in action space.
        """
        policy = _gaussian(v)
        z = (torch.atanh(v.behavior_action().clamp(-LARGEST_EDGE, LARGEST_EDGE)) - policy.mean) / policy.std
        return (n.square() - z.square().clamp(max=FLOOR_N**2)).mean(-1) / 2

    # -- by distance ----------------------------------------------------------------------------------------------

    def _squared_distance(self, v: View) -> Tensor:
        """Squared distance [B] of the policy's action to the data's or, for "model", to the behaviour model's.

        The latter, at the same noise, is the learner's own constraint, a mean over dimensions, so that 1 bounds the
        mean and not each term.
        """
        if self.kind == "model":
            return v.services.terms(v.p[v.services.facts.policy]).constraint.clamp(max=1)
        if self.kind == "surrogate":
            return _distance(self._draws(v), v.behavior_action()).amin(0)
        return _distance(_mean_action(v), v.behavior_action())

    def _draws(self, v: View) -> Tensor:
        """A few actions of the policy at each state; [M, B, A]."""
        policy = v.p[v.services.facts.policy]
        actions = v.services.sample(policy, v.s.repeat(self.samples, 1), self.site)
        return actions.view(self.samples, *v.a.shape)


def _distance(action: Tensor, data: Tensor) -> Tensor:
    """Mean over dimensions of min((a - b)^2, 1); [..., B]."""
    return (action - data).square().clamp(max=1).mean(-1)


def _gaussian(v: View) -> Gaussian:
    policy = v.services.distribution(v.p[v.services.facts.policy], v.s)
    assert isinstance(policy, Gaussian), f"the learner's facts say {v.services.facts.distribution!r}"
    return policy


def _mean_action(v: View) -> Tensor:
    policy = v.services.distribution(v.p[v.services.facts.policy], v.s)
    if isinstance(policy, Point):
        return policy.action
    mean = _gaussian(v).mean
    return torch.tanh(mean) if v.services.facts.distribution == "tanh-gaussian" else mean
