"""CQL: conservative Q-learning on soft actor-critic (Kumar et al., 2020, arXiv 2006.04779).

One step, in one stage: updates of the temperature, the actor and the critics (and of the Lagrange multiplier, where
there is one), all at the parameters as they stood, then the Polyak average of the critics. The critics are the
constrained group: they regress on the TD target and are held to a small gap between the soft maximum of Q over all
actions and Q at the data's action.

Actions here are those of learner space, the box [-1, 1]: a uniform action is one of the environment's whole box,
whatever its bounds. With ``alpha=0`` there is no gap, and this is soft actor-critic on the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    Schedule,
    Spec,
    Stage,
    Terms,
    Update,
    View,
)
from adaptive_constraints.networks import TanhGaussian, init_mlp, mlp, orthogonal, torch_default, xavier

CRITICS = 2
LOG_STD = (-20.0, 2.0)
"""Bounds of the policy's log-std."""
LARGEST_MULTIPLIER = 1e6

ANTMAZE: dict[str, Any] = {
    "alpha": 5.0,
    "target_gap": 0.8,
    "smallest_gap": -200.0,
    "backup_actions": 10,
    "critic_layers": 5,
    "actor_learning_rate": 1e-4,
    "normalize_observations": False,
    "reward_scale": 10.0,
    "reward_shift": -5.0,
}
ILQ: dict[str, Any] = {
    "alpha": 0.0,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 5e-4,
    "normalize_observations": False,
}
SLOWER: dict[str, Any] = {"actor_learning_rate": 1e-4, "critic_learning_rate": 3e-4}


@dataclass(frozen=True, kw_only=True)
class CQL(Learner):
    """CQL; the defaults are those of CORL's reference implementation on Gym."""

    alpha: Annotated[float, AtLeast(0)] = 10.0
    """Weight of the gap in the critics' loss; larger is more conservative. The trade-off. 0: no gap at all."""
    target_gap: float | None = None
    """A number: learn a Lagrange multiplier, a further factor of the weight, so that each critic's gap comes to this;
    None: the weight is alpha alone."""
    gap_actions: Annotated[int, AtLeast(1)] = 10
    """Actions per state that estimate the soft maximum, of each of three kinds: uniform, of the policy at this state,
    of the policy at the next state."""
    gap_temperature: Annotated[float, Above(0)] = 1.0
    """Temperature of the soft maximum."""
    smallest_gap: float | None = None
    """Rows of a smaller gap count as this and give no gradient; None: no bound."""
    largest_gap: float | None = None
    """Rows of a larger gap count as this and give no gradient; None: no bound."""
    backup_actions: Annotated[int, AtLeast(1)] = 1
    """Actions of the policy per next state, over which the TD target takes the largest value (max-target backup)."""
    entropy: Literal["automatic", "off"] = "automatic"
    """automatic: the actor's entropy bonus has a temperature, learned so that the entropy is minus the number of action
    dimensions. off: no bonus."""
    actor_imitation: Annotated[float, AtLeast(0)] = 0.0
    """Weight of the squared distance between the policy's and the data's action in the actor's loss (0.5 on AntMaze in
    the code of SSAR, arXiv 2505.19923); 0 in CQL."""
    critic: Literal["plain", "robust"] = "plain"
    """plain: ReLU layers. robust: LayerNorm before each ReLU, as in SSAR's code."""
    critic_layers: Annotated[int, AtLeast(1)] = 3
    """Hidden layers of the critics, the same number in both (in CORL's code the second always has three)."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of every hidden layer."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 3e-5
    """Adam's learning rate of the actor and of the temperature."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics and of the multiplier."""
    learning_rate_decay: Literal["none", "cosine"] = "none"
    """cosine: all learning rates fall to 0 over the run, along half a cosine (ILQ on Adroit; that every network's does
    is inferred)."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""
    normalize_observations: bool = True
    action_margin: Annotated[float, Between(0, 1, "()")] = 1e-4  # inferred, from SSAR's code

    paper: ClassVar[str] = "arXiv 2006.04779"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "hopper-medium": {"reward_scale": "return_range"},
        "maze2d": {"target_gap": 5.0},
        "antmaze": ANTMAZE,
        "adroit": {"alpha": 1.0, "actor_learning_rate": 1e-4},
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {
            "alpha": 1.0,
            "gap_actions": 3,
            "critic": "robust",
            "critic_layers": 2,
            "hidden": 64,
            "batch_size": 64,
            "discount": 0.97,
            "polyak": 0.05,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "reward_scale": 0.1,
        },
        # What state-adaptive coefficients (arXiv 2505.19923) stand on.
        "ssar": {"critic": "robust"},
        "ssar-antmaze": ANTMAZE | {"critic": "robust", "actor_imitation": 0.5},
        # What calibrated Q-learning (arXiv 2303.05479) stands on, by CORL's configurations.
        "calql-antmaze": ANTMAZE,
        "calql-adroit": {
            "alpha": 1.0,
            "smallest_gap": -200.0,
            "backup_actions": 10,
            "actor_learning_rate": 1e-4,
            "normalize_observations": False,
        },
        # The soft actor-critic of imagination-limited Q-learning (arXiv 2505.12211).
        "ilq": ILQ,
        "ilq-hopper-random": ILQ | SLOWER,
        "ilq-hopper-medium-replay": ILQ | SLOWER,
        "ilq-walker2d-medium-replay": ILQ | SLOWER,
        "ilq-adroit": ILQ | SLOWER | {"entropy": "off", "learning_rate_decay": "cosine"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.alpha > 0 or self.target_gap is None,
            "with alpha=0 there is no gap to hold to target_gap: leave target_gap at None, or give alpha a value > 0",
        )
        smallest, largest = self.smallest_gap, self.largest_gap
        self.require(
            smallest is None or largest is None or smallest < largest,
            f"smallest_gap must lie below largest_gap, not be {smallest} with {largest}",
        )

    def facts(self) -> Facts:
        # Not asked: "constraint". Its answer reaches a network by the policy's action, but here the critics are
        # constrained: it would give them no gradient and leave them with no conservatism at all.
        held = CONSTRAINT_SEAMS - {"constraint"} | {"behavior_action", "conservative_value"}
        gap = held if self.alpha else frozenset[str]()
        imitation = IMITATION_SEAMS if self.actor_imitation else frozenset()
        return Facts(
            constrained="critic",
            seams=TD_SEAMS | gap | imitation,
            tradeoff=self.alpha or None,
            scales="constraint",
            policy="actor",
            learns_tradeoff=self.target_gap is not None,
            distribution="tanh-gaussian",
            imitation_is_constraint=False,
            normalized_critic=self.critic == "robust",
            bootstrap_settings=("backup_actions",) if self.backup_actions > 1 else (),
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        width, layers = self.hidden, self.critic_layers
        actor = init_mlp(
            (spec.observation_dim, width, width, width, 2 * spec.action_dim),
            generator,
            initializers=[torch_default] * 3 + [xavier(1e-2)],
        )
        actor |= {"log_std_factor": torch.ones(()), "log_std_offset": -torch.ones(())}
        critic = init_mlp(
            (spec.observation_dim + spec.action_dim, *[width] * layers, 1),
            generator,
            ensemble=(CRITICS,),
            initializers=[orthogonal(math.sqrt(2))] * layers + [orthogonal(1e-2)],
            norm=self.norm,
        )
        groups = {"actor": actor, "critic": critic}
        if self.entropy == "automatic":
            groups["temperature"] = {"log": torch.zeros(())}
        if self.target_gap is not None:
            groups["multiplier"] = {"log": torch.ones(())}
        return groups

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        actor_rate, critic_rate = self.schedule(self.actor_learning_rate), self.schedule(self.critic_learning_rate)
        updates = [
            Update("actor", self.actor_loss, actor_rate),
            Update("critic", self.constrained_loss, critic_rate),
        ]
        if self.entropy == "automatic":
            updates.insert(0, Update("temperature", self.temperature_loss, actor_rate))
        if self.target_gap is not None:
            updates.append(Update("multiplier", self.multiplier_loss, critic_rate))
        return (Stage("cql", tuple(updates), averages=(Average("critic", self.polyak),)),)

    def schedule(self, rate: float) -> Schedule:
        """The learning rate over a run."""
        if self.learning_rate_decay == "none":
            return rate
        return lambda step, horizon: rate * (1 + math.cos(math.pi * (step - 1) / horizon)) / 2

    # -- networks -------------------------------------------------------------------------------------------------

    @property
    def norm(self) -> Literal["none", "before"]:
        """The place of the critics' LayerNorm."""
        return "before" if self.critic == "robust" else "none"

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N]."""
        return mlp(p, torch.cat([observation, action], -1), norm=self.norm).squeeze(-1)

    def q_of_many(self, p: Params, observation: Tensor, actions: Tensor) -> Tensor:
        """Q_1, Q_2 at s [N, D] and each of M actions [M, N, A], as one product: [2, M, N]."""
        q = self.q(p, observation.repeat(len(actions), 1), actions.flatten(0, 1))
        return q.view(len(q), len(actions), -1)

    def policy(self, p: Params, observation: Tensor) -> TanhGaussian:
        """pi(.|s) at [N, D]; factor and offset of the log-std are learned."""
        mean, raw = mlp(p, observation).chunk(2, -1)
        return TanhGaussian(mean, (p["log_std_factor"] * raw + p["log_std_offset"]).clamp(*LOG_STD))

    def draw(self, v: View, p: Params, observation: Tensor, site: str, *count: int) -> tuple[Tensor, Tensor]:
        """Actions [*count, N, A] of the policy at [N, D], and their log-densities [*count, N]."""
        policy = self.policy(p, observation)
        actions, log_density = policy.sample(v.normal(site, (*count, *policy.mean.shape)))
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

    # -- soft actor-critic ----------------------------------------------------------------------------------------

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """max over actions a' ~ pi(.|s') of min_j Q'_j(s', a'), without entropy."""
        actions, _ = self.draw(v, v.p["actor"], observation, site, self.backup_actions)
        return self.q_of_many(v.target["critic"], observation, actions).amin(0).amax(0)

    def temperature_loss(self, p: Params, v: View) -> Tensor:
        """-log(temperature) (log pi - A): it rises while the entropy, -log pi, is below -A."""
        _, log_density = self.draw(v, v.p["actor"], v.s, "policy")
        return -(p["log"] * (log_density - v.spec.action_dim)).mean()

    def actor_loss(self, p: Params, v: View) -> Tensor:
        """temperature * log pi - min_j Q_j(s, a), a ~ pi(.|s), and the imitation where it is on."""
        action, log_density = self.draw(v, p, v.s, "policy")
        loss = -self.q(v.p["critic"], v.s, action).amin(0)
        if self.entropy == "automatic":
            loss = loss + v.p["temperature"]["log"].exp() * log_density
        if self.actor_imitation:
            distance = (action - v.behavior_action()).square().sum(-1)
            loss = loss + self.actor_imitation * v.sample_weight() * distance
        return loss.mean()

    # -- conservatism ---------------------------------------------------------------------------------------------

    def gap(self, p: Params, v: View) -> Tensor:
        """sum_j of T log sum_a exp((Q_j(s, a) - log density(a)) / T) - Q_j(s, data's action), clipped; [B].

        The actions a are uniform, of the policy at s and of the policy at s', all read at s.
        """
        shape = (self.gap_actions, *v.a.shape)
        uniform, log_uniform = 2 * v.uniform("gap/uniform", shape) - 1, -v.spec.action_dim * math.log(2)
        here, log_here = self.draw(v, v.p["actor"], v.s, "gap/policy", self.gap_actions)
        after, log_after = self.draw(v, v.p["actor"], v.s2, "gap/next", self.gap_actions)

        actions = torch.cat([uniform, here, after, v.behavior_action()[None]])
        parts = self.gap_actions, 2 * self.gap_actions, 1
        of_uniform, of_policy, of_data = self.q_of_many(p, v.s, actions).split_with_sizes(parts, 1)
        of_policy = v.conservative_value(of_policy, actions.split_with_sizes(parts)[1])
        soft = torch.cat([of_uniform - log_uniform, of_policy - torch.cat([log_here, log_after])], 1)
        soft_maximum = self.gap_temperature * (soft / self.gap_temperature).logsumexp(1)
        gap = soft_maximum - of_data.squeeze(1)
        if self.smallest_gap is not None or self.largest_gap is not None:
            gap = gap.clamp(self.smallest_gap, self.largest_gap)
        return gap.sum(0)

    def terms(self, p: Params, v: View) -> Terms:
        """mean_j Q_j at one action of the policy; its negative over sg[mean |Q|]; the gap, summed over critics."""
        q = self.q(p, v.s, self.sample(v, v.p["actor"], v.s, "policy")).mean(0)
        return Terms(q, -q / q.detach().abs().mean(), self.gap(p, v) if self.alpha else torch.zeros_like(q))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """The TD error, adapters' rows with it, plus the penalty; with a multiplier, that many times the penalty."""
        terms, loss = self.terms(p, v), self.regression(p, v)
        if not self.alpha:
            return loss, terms
        penalty = self.penalty(v, k, terms.constraint)
        if self.target_gap is not None:
            penalty = self.multiplier(v.p["multiplier"]) * penalty
        return loss + penalty, terms

    def penalty(self, v: View, k: Tensor, gap: Tensor) -> Tensor:
        """alpha times the weighted gap, or what the weighted gap has above its target."""
        excess = gap if self.target_gap is None else gap - CRITICS * self.target_gap
        return (k * v.weighted(excess)).mean()

    def multiplier(self, p: Params) -> Tensor:
        """The Lagrange multiplier, in (0, 1e6]."""
        return p["log"].clamp(max=math.log(LARGEST_MULTIPLIER)).exp()

    def multiplier_loss(self, p: Params, v: View) -> Tensor:
        """Minus half the penalty: the multiplier rises while the gap exceeds its target."""
        return -self.multiplier(p) * self.penalty(v, v.tradeoff(), self.gap(v.p["critic"], v)) / 2
