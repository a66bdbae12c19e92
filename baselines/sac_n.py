"""SAC-N: soft actor-critic with an ensemble of N critics (An et al., 2021, arXiv 2110.01548).

The policy climbs, and the target bootstraps from, the smallest of many critics: where the data says little they
disagree, and the smallest is low. Nothing else keeps the policy near the data, and no behaviour is modelled.

One step, in the released order: an update of the temperature, one of the actor, one of the critics, then the Polyak
average of the critics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from adaptive_constraints import (
    TD_SEAMS,
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
from adaptive_constraints.networks import TanhGaussian, init_mlp, mlp, small_output

LOG_STD = (-5.0, 2.0)
"""Bounds of the policy's log-std."""
HIDDEN_LAYERS = 3
"""Hidden layers of the actor and the critics."""


@dataclass(frozen=True, kw_only=True)
class SACN(Learner):
    """SAC-N; the defaults are those of CORL's reference implementation, whose number of critics suits halfcheetah.

    The published runs have 3,000,000 steps. Densities here are exact, where the released code adds 1e-6 inside a
    logarithm.

    >>> from adaptive_constraints.baselines import SACN
    >>> SACN.preset("hopper-medium").critics
    500
    """

    critics: Annotated[int, AtLeast(1)] = 10
    """Number of critics; more are more cautious off the data. Tuned per data set: see the presets."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of the three hidden layers of every network."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the actor and of the temperature."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""

    paper: ClassVar[str] = "arXiv 2110.01548"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah": {"critics": 10},
        "hopper-medium": {"critics": 500},
        "hopper-medium-replay": {"critics": 200},
        "hopper-medium-expert": {"critics": 200},
        "walker2d": {"critics": 20},
        "maze2d": {"critics": 25},
        "antmaze": {"critics": 25},
        "adroit": {"critics": 100},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="critic",
            seams=TD_SEAMS,
            tradeoff=None,
            scales="constraint",
            policy="actor",
            distribution="tanh-gaussian",
            imitation_is_constraint=False,
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        states, actions, hidden = spec.observation_dim, spec.action_dim, [self.hidden] * HIDDEN_LAYERS
        sizes = (states, *hidden, 2 * actions)
        actor = init_mlp(sizes, generator, initializers=small_output(sizes, 1e-3))
        sizes = (states + actions, *hidden, 1)
        critic = init_mlp(sizes, generator, ensemble=(self.critics,), initializers=small_output(sizes, 3e-3))
        return {"actor": actor, "critic": critic, "temperature": {"log": torch.zeros(())}}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (
            Stage("temperature", (Update("temperature", self.temperature_loss, self.actor_learning_rate),)),
            Stage("actor", (Update("actor", self.actor_loss, self.actor_learning_rate),)),
            Stage(
                "critic",
                (Update("critic", self.constrained_loss, self.critic_learning_rate),),
                averages=(Average("critic", self.polyak),),
            ),
        )

    # -- networks -------------------------------------------------------------------------------------------------

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1 .. Q_N at (s, a): [N, B]."""
        return mlp(p, torch.cat([observation, action], -1)).squeeze(-1)

    def policy(self, p: Params, observation: Tensor) -> TanhGaussian:
        """pi(.|s) at [N, D]."""
        mean, log_std = mlp(p, observation).chunk(2, -1)
        return TanhGaussian(mean, log_std.clamp(*LOG_STD))

    def draw(self, v: View, p: Params, observation: Tensor, site: str) -> tuple[Tensor, Tensor]:
        """Actions [N, A] of the policy at [N, D], and their log-densities [N]."""
        policy = self.policy(p, observation)
        actions, log_density = policy.sample(v.normal(site, policy.mean.shape))
        return actions, log_density.sum(-1)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        return self.draw(v, p, observation, site)[0]

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian:
        policy = self.policy(p, observation)
        return Gaussian(policy.mean, policy.std, policy.log_density)

    def act(self, v: View, observation: Tensor) -> Tensor:
        return torch.tanh(self.policy(v.p["actor"], observation).mean)

    def explore(self, v: View, observation: Tensor) -> Tensor:
        return self.sample(v, v.p["actor"], observation, "explore")

    # -- equations ------------------------------------------------------------------------------------------------

    def temperature(self, v: View) -> Tensor:
        """The weight of the entropy bonus; []."""
        return v.p["temperature"]["log"].exp()

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', a') - temperature * log pi(a'|s'), a' ~ pi(.|s')."""
        action, log_density = self.draw(v, v.p["actor"], observation, site)
        return self.q(v.target["critic"], observation, action).amin(0) - self.temperature(v) * log_density

    def temperature_loss(self, p: Params, v: View) -> Tensor:
        """-log(temperature) (log pi - A): it rises while the entropy, -log pi, is below -A."""
        _, log_density = self.draw(v, v.p["actor"], v.s, "temperature")
        return -(p["log"] * (log_density - v.spec.action_dim)).mean()

    def actor_loss(self, p: Params, v: View) -> Tensor:
        """temperature * log pi - min_j Q_j(s, a), a ~ pi(.|s)."""
        action, log_density = self.draw(v, p, v.s, "policy")
        return (self.temperature(v) * log_density - self.q(v.p["critic"], v.s, action).amin(0)).mean()

    def terms(self, p: Params, v: View) -> Terms:
        """min_j Q_j at one action of the policy; its negative over sg[mean |min_j Q_j|]; no constraint."""
        q = self.q(p, v.s, self.sample(v, v.p["actor"], v.s, "policy")).amin(0)
        return Terms(q, -q / q.detach().abs().mean(), torch.zeros_like(q))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """sum_j (Q_j(s, a) - target)^2, adapters' rows with it."""
        return self.regression(p, v), self.terms(p, v)
