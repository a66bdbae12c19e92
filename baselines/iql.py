"""IQL: implicit Q-learning (Kostrikov, Nair & Levine, 2021, arXiv 2110.06169).

V regresses on an upper expectile of the critics at the data's actions and stands for the best action of the data in the
critics' targets, so nothing is learned from actions outside it. The policy imitates the data with weights
exp(beta * advantage), or (``extraction="ddpg+bc"``) climbs Q and imitates it plainly.

One step is one stage: an update each of V, the critics and the actor, then the Polyak average of the critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

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
    Point,
    Spec,
    Stage,
    Terms,
    Update,
    View,
)
from adaptive_constraints.networks import dropout_mask, expectile_loss, init_mlp, mlp, small_output

SMALLEST_LOG_STD, LARGEST_LOG_STD = -20.0, 2.0
"""Bounds of the policy's log-std."""
HIDDEN_LAYERS = 2
"""Hidden layers of the actor, the plain critics and V."""
ANQ_ANTMAZE: dict[str, Any] = {
    "policy": "deterministic",
    "critics": 4,
    "aggregate_q": "mean",
    "beta": 10.0,
    "expectile": 0.9,
    "reward_shift": -1.0,
}


@dataclass(frozen=True, kw_only=True)
class IQL(Learner):
    """IQL; the defaults are those of CORL's reference implementation on the Gym tasks."""

    extraction: Literal["awr", "ddpg+bc"] = "awr"
    """Extraction of the policy from Q and V. awr: imitation with weights exp(beta * advantage), the paper's. ddpg+bc:
    climb the normalised Q at the policy's mean action, and imitate (arXiv 2406.09329); the way to let what was learned
    about Q off the data reach the policy."""
    beta: Annotated[float, Above(0)] = 3.0
    """awr: inverse temperature of the weights; larger trusts the advantages more. Its trade-off."""
    largest_weight: Annotated[float, Above(0)] = 100.0
    """awr: bound of those weights."""
    alpha: Annotated[float, Above(0)] = 2.5
    """ddpg+bc: weight of the normalised value against the imitation term. Its trade-off. Inferred: TD3+BC's number, as
    the paper tunes it per task."""
    expectile: Annotated[float, Between(0, 1, "()")] = 0.7
    """Expectile of V; larger comes closer to the best action of the data."""
    policy: Literal["gaussian", "deterministic"] = "gaussian"
    """gaussian: plain normals around a tanh mean, with one learned standard deviation per dimension for all states.
    deterministic: that mean alone, which imitates by its squared error."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Chance of each hidden unit of the actor to be left out of its loss; acting and sampling use all units."""
    critic: Literal["plain", "robust"] = "plain"
    """plain: two hidden ReLU layers. robust: three, each followed by a LayerNorm, small initial outputs. Inferred:
    arXiv 2508.19900 (ASPC) has the latter for TD3+BC and reports instability without."""
    critics: Annotated[int, AtLeast(1)] = 2
    """Number of critics."""
    aggregate_q: Literal["min", "mean"] = "min"
    """Combination of the critics, in what V regresses on, in the advantage and in what the policy climbs."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of every hidden layer."""
    value_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of V."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the actor, at the start."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the actor's learning rate. cosine: half a cosine, down to 0 over the run."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""
    normalize_observations: bool = True

    paper: ClassVar[str] = "arXiv 2110.06169"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "hopper-medium-expert": {"beta": 6.0, "expectile": 0.5},
        "hopper-medium": {"policy": "deterministic", "reward_scale": "return_range", "polyak": 0.001},
        "hopper-medium-replay": {"policy": "deterministic", "reward_scale": "return_range", "polyak": 0.001},
        "antmaze": {"beta": 10.0, "expectile": 0.9, "reward_shift": -1.0},
        "adroit": {"expectile": 0.8, "dropout": 0.1},
        "maze2d": {},
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {
            "hidden": 64,
            "batch_size": 64,
            "discount": 0.97,
            "polyak": 0.05,
            "value_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "actor_learning_rate": 1e-3,
        },
        # The learner under adaptive neighbourhoods (arXiv 2511.02567), but for its slower policy and targets: on Gym,
        # and on AntMaze. Inferred there: the mean of the critics, and raw observations in the large maze.
        "anq": {"policy": "deterministic", "critics": 4, "largest_weight": 3.0},
        "anq-antmaze": ANQ_ANTMAZE,
        "anq-antmaze-large": ANQ_ANTMAZE | {"normalize_observations": False},
    }

    def facts(self) -> Facts:
        awr = self.extraction == "awr"
        seams = TD_SEAMS | {"value_action"} | IMITATION_SEAMS | CONSTRAINT_SEAMS
        return Facts(
            constrained="actor",
            tradeoff=self.beta if awr else self.alpha,
            scales="exponent" if awr else "improvement",
            distribution="gaussian" if self.policy == "gaussian" else "point",
            owns_value=True,
            exponential_weights=awr,
            normalized_critic=self.critic == "robust",
            reads_policy_action=not awr,
            # Advantage-weighted imitation is improvement and constraint in one: there is no other to put in its place.
            seams=seams - {"constraint"} if awr else seams,
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        states, actions, hidden = spec.observation_dim, spec.action_dim, (self.hidden,) * HIDDEN_LAYERS
        value = init_mlp((states, *hidden, 1), generator)
        actor = init_mlp((states, *hidden, actions), generator)
        if self.policy == "gaussian":
            actor["log_std"] = torch.zeros(actions)
        if self.critic == "plain":
            critic = init_mlp((states + actions, *hidden, 1), generator, ensemble=(self.critics,))
        else:
            sizes = (states + actions, *hidden, self.hidden, 1)
            critic = init_mlp(
                sizes, generator, ensemble=(self.critics,), initializers=small_output(sizes, 3e-3), norm="after"
            )
        return {"value": value, "critic": critic, "actor": actor}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        # The reference implementation steps one after the other, but each step reads the others only as they stood
        # before the step: the critics' target and the actor's advantage take V, and V and the advantage the target
        # critics, from before their steps. So all three belong to one stage.
        updates = (
            Update("value", self.value_loss, self.value_learning_rate),
            Update("critic", self.regression, self.critic_learning_rate),
            Update("actor", self.constrained_loss, self.actor_rate),
        )
        return (Stage("iql", updates, averages=(Average("critic", self.polyak),)),)

    def actor_rate(self, step: int, horizon: int) -> float:
        """The actor's learning rate: with a cosine, whole at the first step and 0 once ``horizon`` steps are done."""
        if self.schedule == "constant":
            return self.actor_learning_rate
        return self.actor_learning_rate * (1 + math.cos(math.pi * (step - 1) / horizon)) / 2

    # -- networks -------------------------------------------------------------------------------------------------

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """V(s): [N, D] -> [N]."""
        return mlp(p, observation).squeeze(-1)

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation, action], -1)
        return mlp(p, inputs, norm="after" if self.critic == "robust" else "none").squeeze(-1)

    def mean(self, p: Params, observation: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """The policy's mean, or only, action: [N, D] -> [N, A]; ``masks`` are dropout's, by hidden layer."""
        return torch.tanh(mlp(p, observation, masks=masks))

    def log_std(self, p: Params) -> Tensor:
        """Standard deviation of the Gaussian policy, the same at all states; [A]."""
        return p["log_std"].clamp(SMALLEST_LOG_STD, LARGEST_LOG_STD)

    def log_density(self, p: Params, mean: Tensor, action: Tensor) -> Tensor:
        """log N(a; mean, std^2) per dimension: [N, A]."""
        log_std = self.log_std(p)
        return -((action - mean) / log_std.exp()).square() / 2 - log_std - math.log(2 * math.pi) / 2

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian | Point:
        mean = self.mean(p, observation)
        if self.policy == "deterministic":
            return Point(mean)
        return Gaussian(mean, self.log_std(p).exp().expand_as(mean), partial(self.log_density, p, mean))

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """An action of the policy, within the action bounds; its only one where it is deterministic."""
        mean = self.mean(p, observation)
        if self.policy == "deterministic":
            return mean
        return (mean + self.log_std(p).exp() * v.normal(site, mean.shape)).clamp(-1, 1)

    def act(self, v: View, observation: Tensor) -> Tensor:
        """The mean, which its tanh keeps within the bounds."""
        return self.mean(v.p["actor"], observation)

    def explore(self, v: View, observation: Tensor) -> Tensor:
        return self.sample(v, v.p["actor"], observation, "explore")

    # -- equations ------------------------------------------------------------------------------------------------

    def aggregate(self, q: Tensor) -> Tensor:
        return q.mean(0) if self.aggregate_q == "mean" else q.amin(0)

    def value_loss(self, p: Params, v: View) -> Tensor:
        """Expectile regression of V(s) on min_j Q'_j(s, a)."""
        q = self.aggregate(self.q(v.target["critic"], v.s, v.value_action()))
        return expectile_loss(q - self.value(p, v.s), self.expectile).mean()

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """V(s')."""
        return self.value(v.p["value"], observation)

    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        """The squared error, averaged over the critics."""
        return (q - target).square().mean(0)

    def advantage(self, v: View) -> Tensor:
        """min_j Q'_j(s, a) - V(s) (or the critics' mean), [B]."""
        return self.aggregate(self.q(v.target["critic"], v.s, v.behavior_action())) - v.value(v.s)

    def imitation(self, p: Params, mean: Tensor, action: Tensor) -> Tensor:
        """-log pi(a|s), or |pi(s) - a|^2 of a deterministic policy, [B]; summed over the action's dimensions."""
        if self.policy == "deterministic":
            return (mean - action).square().sum(-1)
        return -self.log_density(p, mean, action).sum(-1)

    def terms(self, p: Params, v: View) -> Terms:
        """min_j Q_j at the policy's mean action; its negative over sg[mean |min_j Q_j|]; the imitation term.

        The smaller of the critics, as in the advantage: off the data, where neither was trained, the more cautious one.
        """
        mean = self.mean(p, v.s, self.dropout_masks(v))
        q = self.aggregate(self.q(v.p["critic"], v.s, mean))
        constraint = v.constraint(mean, lambda: self.imitation(p, mean, v.behavior_action()))
        return Terms(q, -q / q.detach().abs().mean(), constraint)

    def dropout_masks(self, v: View) -> list[Tensor]:
        """For each hidden layer of the actor, the factors [B, H] on its units; the same throughout a step."""
        if self.dropout == 0:
            return []
        shape = (len(v.s), self.hidden)
        return [dropout_mask(v.uniform(f"dropout/{layer}", shape), self.dropout) for layer in range(HIDDEN_LAYERS)]

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """awr: imitation, each row weighted by min(exp(k A), largest_weight). ddpg+bc: k * improvement + imitation."""
        if self.extraction == "ddpg+bc":
            return super().constrained_loss(p, v, k)
        terms = self.terms(p, v)
        exponent, largest = v.tempered(k * self.advantage(v)), math.log(self.largest_weight)
        v.log("actor/weight_bounded", (exponent >= largest).to(exponent.dtype).mean())
        weight = exponent.clamp(max=largest).exp()
        return (v.sample_weight() * weight * terms.constraint).mean(), terms
