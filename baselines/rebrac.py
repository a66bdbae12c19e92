"""ReBRAC: TD3+BC with deeper networks, LayerNorm, and a penalty on the critic too (arXiv 2305.09836).

Both the actor and the value inside the critics' target pay for leaving the data: the one beta1 times its squared
distance to the data's action, the other beta2 times that of the next action to the data's next.

One step, in the paper's order: an update of the twin critics; at every second step one of the actor, then the Polyak
averages of all three networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    Learner,
    Params,
    Phase,
    Point,
    Spec,
    Stage,
    Terms,
    Update,
    View,
)
from adaptive_constraints.networks import init_mlp, mlp, small_output

_EPSILON = 1e-6
"""LayerNorm's, as in flax, which the authors use."""


@dataclass(frozen=True, kw_only=True)
class ReBRAC(Learner):
    """ReBRAC; apart from the two penalties, which its authors tune per data set, the defaults are theirs for Gym.

    Three details of their code differ. Their target actor averages the actor as it stood
    before its step, so it lags ours by one update. They step the actor at the first minibatch of every
    ``policy_every``, we at the last. They drop rows that a time limit cut; here such rows stay, bootstrap, and bear no
    penalty on the next action, which the data does not have.
    """

    batch_size: int = 1024
    """Rows per minibatch and seed."""
    beta1: Annotated[float, Above(0)] = 0.1
    """Weight of the actor's squared distance to the data's action against the normalised value; larger stays closer to
    the data. The trade-off. Inferred: 1 / (alpha * 4) of TD3+BC's alpha = 2.5, at four action dimensions."""
    beta2: Annotated[float, AtLeast(0)] = 0.01
    """Weight, in units of reward, of the next action's squared distance to the data's next action; 0: no penalty on
    the critic. Inferred: the middle of what the authors search."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of the three hidden layers of every network."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 1e-3
    """Adam's learning rate of the actor."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 1e-3
    """Adam's learning rate of the critics."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target networks."""
    policy_noise: Annotated[float, AtLeast(0)] = 0.2
    """Standard deviation of the target policy's smoothing noise, in units of the action bound."""
    noise_clip: Annotated[float, AtLeast(0)] = 0.5
    """Largest smoothing noise, in units of the action bound."""
    policy_every: Annotated[int, AtLeast(1)] = 2
    """Training steps per update of the actor and of the target networks."""

    paper: ClassVar[str] = "arXiv 2305.09836"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "antmaze": {
            "batch_size": 256,
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 5e-5,
            "discount": 0.999,
            "reward_scale": 100.0,
        },
        "maze2d": {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4},
        "adroit": {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4},
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {"hidden": 64, "batch_size": 64, "discount": 0.97, "polyak": 0.05},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=self.beta1,
            scales="constraint",
            sums_dimensions=True,
            distribution="point",
            normalized_critic=True,
            bootstrap_settings=("beta2",) if self.beta2 else (),
            seams=TD_SEAMS | IMITATION_SEAMS | CONSTRAINT_SEAMS,
        )

    def columns(self) -> tuple[str, ...]:
        return ("next_action", "next_action_mask")

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        hidden = (self.hidden,) * 3
        sizes = (spec.observation_dim, *hidden, spec.action_dim)
        actor = init_mlp(sizes, generator, initializers=small_output(sizes, 1e-3))
        sizes = (spec.observation_dim + spec.action_dim, *hidden, 1)
        critic = init_mlp(sizes, generator, ensemble=(2,), initializers=small_output(sizes, 3e-3), norm="after")
        return {"actor": actor, "critic": critic}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (
            Stage("critic", (Update("critic", self.regression, self.critic_learning_rate),)),
            Stage(
                "actor",
                (Update("actor", self.constrained_loss, self.actor_learning_rate),),
                every=self.policy_every,
                averages=(Average("critic", self.polyak), Average("actor", self.polyak)),
            ),
        )

    # -- networks -------------------------------------------------------------------------------------------------

    def policy(self, p: Params, observation: Tensor) -> Tensor:
        """pi(s): [N, D] -> [N, A]."""
        return torch.tanh(mlp(p, observation))

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N]; LayerNorm follows the ReLU, as in the authors' code."""
        return mlp(p, torch.cat([observation, action], -1), norm="after", epsilon=_EPSILON).squeeze(-1)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """pi(s) + clipped noise, within the action bounds (target policy smoothing)."""
        action = self.policy(p, observation)
        noise = (self.policy_noise * v.normal(site, action.shape)).clamp(-self.noise_clip, self.noise_clip)
        return (action + noise).clamp(-1, 1)

    def distribution(self, v: View, p: Params, observation: Tensor) -> Point:
        return Point(self.policy(p, observation))

    def act(self, v: View, observation: Tensor) -> Tensor:
        return self.policy(v.p["actor"], observation)

    # -- equations ------------------------------------------------------------------------------------------------

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', a') - beta2 |a' - the data's|^2 at a' = pi'(s') + noise.

        Without the penalty where the data has no next action: at an episode's end, and at states outside the data.
        """
        action = self.sample(v, v.target["actor"], observation, site)
        value = self.q(v.target["critic"], observation, action).amin(0)
        if batch is None:
            return value
        distance = (action - batch["next_action"]).square().sum(-1)
        return value - self.beta2 * batch["next_action_mask"] * distance

    def terms(self, p: Params, v: View) -> Terms:
        """min_j Q_j(s, pi(s)); its negative over sg[mean |min_j Q_j|]; the squared distance of pi(s) to the data's."""
        action = self.policy(p, v.s)
        q = self.q(v.p["critic"], v.s, action).amin(0)
        constraint = v.constraint(action, lambda: (action - v.behavior_action()).square().sum(-1))
        return Terms(q, -q / q.detach().abs().mean(), constraint)
