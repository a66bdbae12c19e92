"""AWAC: advantage-weighted actor-critic (Nair et al., 2020, arXiv 2006.09359).

The critics are those of any off-policy method, at the policy's own next action; the policy imitates the data with
weights exp(beta * advantage), the advantage being that over an action of its own.

One step, in the order of CORL's implementation: an update of the critics, one of the actor, then the Polyak average of
the critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from adaptive_constraints import (
    CONSTRAINT_SEAMS,
    IMITATION_SEAMS,
    TD_SEAMS,
    Above,
    AtLeast,
    Average,
    Between,
    Facts,
    Gaussian,
    Learner,
    Params,
    Phase,
    Spec,
    Stage,
    Terms,
    Update,
    View,
)
from adaptive_constraints.networks import init_mlp, mlp

LOG_STD = (-20.0, 2.0)
"""Bounds of the policy's log-std."""
HIDDEN_LAYERS = 3
"""Hidden layers of the actor and the critics."""


@dataclass(frozen=True, kw_only=True)
class AWAC(Learner):
    """AWAC; the defaults are those of CORL's reference implementation on Gym."""

    beta: Annotated[float, Above(0)] = 3.0
    """Inverse temperature of the imitation weights (1 / lambda in the paper; CORL's lambda is 0.3333 on Gym, 0.1
    elsewhere); larger trusts the advantages more. The trade-off."""
    largest_weight: Annotated[float, Above(0)] = 100.0
    """Bound of those weights."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of the three hidden layers of every network."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the actor."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""
    normalize_observations: bool = True

    paper: ClassVar[str] = "arXiv 2006.09359"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "maze2d": {"beta": 10.0},
        "antmaze": {"beta": 10.0, "reward_shift": -1.0},
        "adroit": {"beta": 10.0},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=self.beta,
            scales="exponent",
            distribution="gaussian",
            exponential_weights=True,
            # Advantage-weighted imitation is improvement and constraint in one: there is no other to put in its place.
            seams=(TD_SEAMS | IMITATION_SEAMS | CONSTRAINT_SEAMS) - {"constraint"},
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        states, actions, hidden = spec.observation_dim, spec.action_dim, [self.hidden] * HIDDEN_LAYERS
        actor = init_mlp((states, *hidden, actions), generator)
        critic = init_mlp((states + actions, *hidden, 1), generator, ensemble=(2,))
        return {"actor": actor | {"log_std": torch.zeros(actions)}, "critic": critic}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (
            Stage("critic", (Update("critic", self.regression, self.critic_learning_rate),)),
            Stage(
                "actor",
                (Update("actor", self.constrained_loss, self.actor_learning_rate),),
                averages=(Average("critic", self.polyak),),
            ),
        )

    # -- networks -------------------------------------------------------------------------------------------------

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N]."""
        return mlp(p, torch.cat([observation, action], -1)).squeeze(-1)

    def mean(self, p: Params, observation: Tensor) -> Tensor:
        """The normal policy's mean, which may leave the action bounds: [N, D] -> [N, A]."""
        return mlp(p, observation)

    def log_std(self, p: Params) -> Tensor:
        """Logarithm of the standard deviation, the same at all states; [A]."""
        return p["log_std"].clamp(*LOG_STD)

    def log_density(self, p: Params, mean: Tensor, action: Tensor) -> Tensor:
        """log N(a; mean, std^2) per dimension: [N, A]."""
        log_std = self.log_std(p)
        return -((action - mean) / log_std.exp()).square() / 2 - log_std - math.log(2 * math.pi) / 2

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian:
        mean = self.mean(p, observation)
        return Gaussian(mean, self.log_std(p).exp().expand_as(mean), partial(self.log_density, p, mean))

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """An action of the policy, clipped to the action bounds."""
        mean = self.mean(p, observation)
        return (mean + self.log_std(p).exp() * v.normal(site, mean.shape)).clamp(-1, 1)

    def act(self, v: View, observation: Tensor) -> Tensor:
        """The mean, clipped to the action bounds."""
        return self.mean(v.p["actor"], observation).clamp(-1, 1)

    def explore(self, v: View, observation: Tensor) -> Tensor:
        return self.sample(v, v.p["actor"], observation, "explore")

    # -- equations ------------------------------------------------------------------------------------------------

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', a'), a' ~ pi(.|s')."""
        return self.q(v.target["critic"], observation, self.sample(v, v.p["actor"], observation, site)).amin(0)

    def advantage(self, v: View) -> Tensor:
        """min_j Q_j(s, a) - min_j Q_j(s, a'), a' ~ pi(.|s); [B]."""
        critic, own = v.p["critic"], self.sample(v, v.p["actor"], v.s, "policy")
        return self.q(critic, v.s, v.behavior_action()).amin(0) - self.q(critic, v.s, own).amin(0)

    def terms(self, p: Params, v: View) -> Terms:
        """min_j Q_j at the policy's clipped mean; its negative over sg[mean |min_j Q_j|]; -log pi(a|s)."""
        mean = self.mean(p, v.s)
        q = self.q(v.p["critic"], v.s, mean.clamp(-1, 1)).amin(0)
        return Terms(q, -q / q.detach().abs().mean(), -self.log_density(p, mean, v.behavior_action()).sum(-1))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """-log pi(a|s), each row weighted by min(exp(k A), largest_weight)."""
        terms = self.terms(p, v)
        exponent, largest = v.tempered(k * self.advantage(v)), math.log(self.largest_weight)
        v.log("actor/weight_bounded", (exponent >= largest).to(exponent.dtype).mean())
        weight = exponent.clamp(max=largest).exp()
        return (v.sample_weight() * weight * terms.constraint).mean(), terms
