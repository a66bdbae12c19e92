"""TD3+BC: TD3 whose actor also imitates the data (Fujimoto & Gu, 2021, arXiv 2106.06860).

One step, in the paper's order: an update of the twin critics; at every second step one of the actor, then the Polyak
averages of all three networks.
"""

from __future__ import annotations

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
from adaptive_constraints.networks import Norm, init_mlp, mlp, small_output

NORMS: dict[str, Norm] = {"plain": "none", "layernorm": "before", "robust": "after"}
"""On which side of a critic's ReLU its LayerNorm stands."""
SSAR_ANTMAZE: dict[str, Any] = {"critic": "layernorm", "reward_shift": -1.0}


@dataclass(frozen=True, kw_only=True)
class TD3BC(Learner):
    """TD3+BC; the defaults are those of the paper and of CORL's reference implementation.

    >>> from adaptive_constraints import load_dataset, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> agent = wrap(TD3BC(hidden=8))
    >>> history = agent.fit(load_dataset("bundled:hopper"), steps=2, traced=False, device="cpu", progress=False)
    >>> agent.step
    2
    >>> TD3BC.preset("antmaze").reward_shift
    -1.0
    """

    alpha: Annotated[float, Above(0)] = 2.5
    """Weight of the normalised value against the imitation term; larger trusts Q more. The trade-off."""
    critic: Literal["plain", "layernorm", "robust"] = "plain"
    """plain: two hidden ReLU layers. layernorm: the same with a LayerNorm before each ReLU (SSAR's backbone,
    arXiv 2505.19923). robust: three, each followed by a LayerNorm, small initial outputs
    (arXiv 2508.19900, section 4); what ASPC recommends."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of every hidden layer."""
    actor_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the actor."""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target networks."""
    policy_noise: Annotated[float, AtLeast(0)] = 0.2
    """Standard deviation of the target policy's smoothing noise, in units of the action bound."""
    noise_clip: Annotated[float, AtLeast(0)] = 0.5
    """Largest smoothing noise, in units of the action bound."""
    policy_every: Annotated[int, AtLeast(1)] = 2
    """Training steps per update of the actor and of the target networks."""
    online_policy_every: Annotated[int, AtLeast(1)] | None = None
    """Training steps per actor update online; None: as offline. 20 to 100 in SSAR's code on AntMaze."""
    normalize_observations: bool = True

    paper: ClassVar[str] = "arXiv 2106.06860"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "maze2d": {},
        "antmaze": {"reward_shift": -1.0},
        "adroit": {},
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {
            "critic": "layernorm",
            "hidden": 64,
            "batch_size": 64,
            "discount": 0.97,
            "polyak": 0.05,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
        },
        # What regularization by the nearest row (PRDC, arXiv 2306.06569) stands on.
        "prdc-halfcheetah": {"alpha": 40.0},
        "prdc-antmaze": {"alpha": 7.5, "reward_scale": 1e4, "reward_shift": -1.0},
        # What state-adaptive coefficients (arXiv 2505.19923) stand on; on AntMaze with rarer steps online.
        "ssar": {"critic": "layernorm"},
        "ssar-antmaze-umaze": SSAR_ANTMAZE,
        "ssar-antmaze-umaze-diverse": SSAR_ANTMAZE,
        "ssar-antmaze-medium-play": SSAR_ANTMAZE | {"online_policy_every": 30},
        "ssar-antmaze-medium-diverse": SSAR_ANTMAZE | {"online_policy_every": 20},
        "ssar-antmaze-large-play": SSAR_ANTMAZE | {"online_policy_every": 100},
        "ssar-antmaze-large-diverse": SSAR_ANTMAZE | {"online_policy_every": 100},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=self.alpha,
            scales="improvement",
            distribution="point",
            normalized_critic=self.critic != "plain",
            seams=TD_SEAMS | IMITATION_SEAMS | CONSTRAINT_SEAMS,
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        inputs, width = spec.observation_dim + spec.action_dim, self.hidden
        actor = init_mlp((spec.observation_dim, width, width, spec.action_dim), generator)
        if self.critic == "robust":
            sizes = (inputs, width, width, width, 1)
            critic = init_mlp(sizes, generator, ensemble=(2,), initializers=small_output(sizes, 3e-3), norm="after")
        else:
            critic = init_mlp((inputs, width, width, 1), generator, ensemble=(2,), norm=NORMS[self.critic])
        return {"actor": actor, "critic": critic}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (
            Stage("critic", (Update("critic", self.regression, self.critic_learning_rate),)),
            Stage(
                "actor",
                (Update("actor", self.constrained_loss, self.actor_learning_rate),),
                every=self.online_policy_every or self.policy_every if phase == "online" else self.policy_every,
                averages=(Average("critic", self.polyak), Average("actor", self.polyak)),
            ),
        )

    # -- networks -------------------------------------------------------------------------------------------------

    def policy(self, p: Params, observation: Tensor) -> Tensor:
        """pi(s): [N, D] -> [N, A]."""
        return torch.tanh(mlp(p, observation))

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N], or of as many critics as ``p`` holds."""
        inputs = torch.cat([observation, action], -1)
        return mlp(p, inputs, norm=NORMS[self.critic]).squeeze(-1)

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
        """min_j Q'_j(s', pi'(s') + noise)."""
        action = self.sample(v, v.target["actor"], observation, site)
        return self.q(v.target["critic"], observation, action).amin(0)

    def terms(self, p: Params, v: View) -> Terms:
        """Q_1(s, pi(s)); its negative over sg[mean |Q_1|]; the mean squared error of pi(s) to the data's action."""
        action = self.policy(p, v.s)
        first = {name: tensor[:1] for name, tensor in v.p["critic"].items()}
        q = self.q(first, v.s, action)[0]
        constraint = v.constraint(action, lambda: (action - v.behavior_action()).square().mean(-1))
        return Terms(q, -q / q.detach().abs().mean(), constraint)
