"""Diffusion-QL: a diffusion model of the actions that is also led to high values (Wang et al., 2023, arXiv 2208.06193).

One step, in the paper's order: an update of the twin critics and of their Polyak averages; one of the diffusion model,
whose loss imitates the data and differentiates Q through the whole chain that makes an action; every fifth step its
moving average, which makes the actions of the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import mish

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
    Spec,
    Stage,
    Terms,
    Update,
    View,
)
from adaptive_constraints.networks import (
    VariancePreserving,
    denoise,
    init_mlp,
    init_noise_network,
    mlp,
    noise_error,
    small_output,
)


def _published(
    eta: float, gradient_clip: float, max_q_backup: bool = False, learning_rate: float = 3e-4, **rewards: Any
) -> dict[str, Any]:
    """A row of the paper's table of settings, whose learning rate is the policy's alone."""
    searched = {"eta": eta, "gradient_clip": gradient_clip, "max_q_backup": max_q_backup}
    return {**searched, "learning_rate": learning_rate, **rewards}


_ANTMAZE: dict[str, Any] = {"reward_scale": 4.0, "reward_shift": -2.0}
"""4 (r - 1/2)."""
_PEN: dict[str, Any] = {"learning_rate": 3e-5, "reward_scale": "dataset_std", "reward_shift": "dataset_mean"}


@dataclass(frozen=True, kw_only=True)
class DiffusionQL(Learner):
    """Diffusion-QL; the defaults are those of the paper and its code on locomotion."""

    eta: Annotated[float, Above(0)] = 1.0
    """Weight of the normalised value against the imitation term; larger trusts Q more. The trade-off."""
    max_q_backup: bool = False
    """The target takes each critic's largest value over several actions of the policy instead of one action's."""
    backup_actions: Annotated[int, AtLeast(1)] = 10
    """Number of those actions."""
    critic: Literal["plain", "robust"] = "plain"
    """plain: three hidden Mish layers. robust: each followed by a LayerNorm, small initial outputs; what ASPC's paper
    uses on TD3+BC, carried over to this learner."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of every hidden layer."""
    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the diffusion model. (The paper's code also has a cosine decay, of 0.1 % over a run.)"""
    critic_learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of the critics; 3e-4 in the paper's code, whatever rate its table gives the policy."""
    gradient_clip: Annotated[float, Above(0)] | None = 5.0
    """Largest norm of a network's gradient; the paper has one from 1 to 10 per data set. None: not clipped."""
    diffusion_steps: Annotated[int, AtLeast(1)] = 5
    """Steps of the chain that makes an action (T)."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""
    actor_rate: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the policy's moving average."""
    actor_average_every: Annotated[int, AtLeast(1)] = 5
    """Training steps per update of that average."""
    actor_average_start: Annotated[int, AtLeast(0)] = 1000
    """The step at which it starts to move; until then it is the initial policy."""
    candidates: Annotated[int, AtLeast(1)] = 50
    """Actions drawn per state when acting, of which one is taken by its value under the target critics."""
    selection: Literal["softmax", "argmax"] = "softmax"
    """How: drawn in proportion to exp(Q), Q on its own scale, as in the paper's code; or the best."""

    paper: ClassVar[str] = "arXiv 2208.06193"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah-medium": _published(1.0, 9.0),
        "hopper-medium": _published(1.0, 9.0),
        "walker2d-medium": _published(1.0, 1.0),
        "halfcheetah-medium-replay": _published(1.0, 2.0),
        "hopper-medium-replay": _published(1.0, 4.0),
        "walker2d-medium-replay": _published(1.0, 4.0),
        "halfcheetah-medium-expert": _published(1.0, 7.0),
        "hopper-medium-expert": _published(1.0, 5.0),
        "walker2d-medium-expert": _published(1.0, 5.0),
        "antmaze-umaze": _published(0.5, 2.0, **_ANTMAZE),
        "antmaze-umaze-diverse": _published(2.0, 3.0, True, **_ANTMAZE),
        "antmaze-medium-play": _published(2.0, 2.0, True, 1e-3, **_ANTMAZE),
        "antmaze-medium-diverse": _published(3.0, 1.0, True, **_ANTMAZE),
        "antmaze-large-play": _published(4.5, 10.0, True, **_ANTMAZE),
        "antmaze-large-diverse": _published(3.5, 7.0, True, **_ANTMAZE),
        "pen-human": _published(0.15, 7.0, **_PEN),
        "pen-cloned": _published(0.1, 8.0, **_PEN),
        "kitchen-complete": _published(0.005, 9.0),
        "kitchen-partial": _published(0.005, 10.0),
        "kitchen-mixed": _published(0.005, 10.0),
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {
            "critic": "robust",
            "hidden": 64,
            "batch_size": 64,
            "discount": 0.97,
            "polyak": 0.05,
            "actor_rate": 0.05,
            "learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "reward_scale": 0.1,
        },
        # A whole family: one of its rows, for data sets that the table does not have.
        "gym": _published(1.0, 5.0),  # hopper-medium-expert: the median clip
        "antmaze": _published(2.0, 3.0, True, **_ANTMAZE),  # antmaze-umaze-diverse: the middle of the table
        "adroit": _published(0.15, 7.0, **_PEN),  # pen-human
        "kitchen": _published(0.005, 10.0),  # kitchen-partial
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=self.eta,
            scales="improvement",
            distribution="generative",
            normalized_critic=self.critic == "robust",
            bootstrap_settings=("max_q_backup",) if self.max_q_backup else (),
            seams=TD_SEAMS | IMITATION_SEAMS | CONSTRAINT_SEAMS,
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        actor = init_noise_network(spec.observation_dim, spec.action_dim, generator, self.hidden)
        sizes = (spec.observation_dim + spec.action_dim, *[self.hidden] * 3, 1)
        if self.critic == "plain":
            return {"actor": actor, "critic": init_mlp(sizes, generator, ensemble=(2,))}
        small = small_output(sizes, 3e-3)
        return {"actor": actor, "critic": init_mlp(sizes, generator, ensemble=(2,), initializers=small, norm="after")}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (
            Stage(
                "critic",
                (Update("critic", self.regression, self.critic_learning_rate, self.gradient_clip),),
                averages=(Average("critic", self.polyak),),
            ),
            Stage(
                "actor",
                (Update("actor", self.constrained_loss, self.learning_rate, self.gradient_clip),),
                averages=(
                    Average("actor", self.actor_rate, every=self.actor_average_every, start=self.actor_average_start),
                ),
            ),
        )

    # -- networks -------------------------------------------------------------------------------------------------

    @property
    def schedule(self) -> VariancePreserving:
        """The noise that each step of the chain adds."""
        return VariancePreserving(self.diffusion_steps)

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N]."""
        inputs = torch.cat([observation, action], -1)
        return mlp(p, inputs, mish, norm="after" if self.critic == "robust" else "none").squeeze(-1)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """The end of a chain from pure noise."""
        return self.draws(v, p, observation, site, 1)[0]

    def draws(self, v: View, p: Params, observation: Tensor, site: str, count: int) -> Tensor:
        """So many actions at each state: [count, N, A]."""
        noise = v.normal(site, (self.diffusion_steps, count, observation.shape[0], v.spec.action_dim))
        return denoise(p, self.schedule, observation, noise[0], noise[1:])

    def q_of_draws(self, p: Params, observation: Tensor, actions: Tensor) -> Tensor:
        """[2, count, N] at several actions [count, N, A] per state [N, D]."""
        states = observation.expand(len(actions), *observation.shape).flatten(0, 1)
        return self.q(p, states, actions.flatten(0, 1)).reshape(-1, *actions.shape[:2])

    # -- equations ------------------------------------------------------------------------------------------------

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j max_i Q'_j(s', a_i), a_i of the averaged policy; a single one without max_q_backup."""
        count = self.backup_actions if self.max_q_backup else 1
        actions = self.draws(v, v.target["actor"], observation, site, count)
        return self.q_of_draws(v.target["critic"], observation, actions).amax(1).amin(0)

    def terms(self, p: Params, v: View) -> Terms:
        """Q_i(s, a0); its negative over sg[mean |Q_k|], k the other critic; the error of the predicted noise.

        a0 is the end of a chain through which Q differentiates; one draw says which critic is i.
        """
        action = self.sample(v, p, v.s, "policy")
        first, second = self.q(v.p["critic"], v.s, action)
        swapped = v.uniform("pair", ()) < 0.5
        q, other = torch.where(swapped, second, first), torch.where(swapped, first, second)
        return Terms(q, -q / other.detach().abs().mean(), v.constraint(action, lambda: self.imitation(p, v)))

    def imitation(self, p: Params, v: View) -> Tensor:
        """The mean squared error [B] of the noise predicted in the data's noised action, at a random step each."""
        t = self.schedule.step_at(v.uniform("diffusion/step", v.r.shape))
        noise = v.normal("diffusion/noise", v.a.shape)
        return noise_error(p, self.schedule, v.behavior_action(), v.s, t, noise)

    def act(self, v: View, observation: Tensor) -> Tensor:
        """One of many actions of the policy, by softmax or argmax of min_j Q'_j."""
        actions = self.draws(v, v.p["actor"], observation, "candidates", self.candidates)
        score = self.q_of_draws(v.target["critic"], observation, actions).amin(0)
        if self.selection == "softmax":
            # The largest of score + Gumbel noise is a draw from the softmax of the scores.
            score = score - (-v.uniform("selection", score.shape).log()).log()
        best = score.argmax(0)[None, :, None].expand(1, -1, v.spec.action_dim)
        return actions.gather(0, best)[0]
