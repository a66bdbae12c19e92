"""FQL: a flow imitates the data, and a one-step student of it seeks high values (Park et al., 2025, arXiv 2502.02538).

One step: an update of the twin critics, of the teacher and of the student, all from the same parameters, then the
Polyak averages of the critics. The flow needs ten evaluations to make an action and is never differentiated through;
the student needs one, and is the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu

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
from adaptive_constraints.networks import init_mlp, mlp, xavier

_gelu = partial(gelu, approximate="tanh")
_EPSILON = 1e-6
"""Number that the critics' LayerNorm adds to variances, and the activation's approximation: as in JAX's libraries."""


@dataclass(frozen=True, kw_only=True)
class FQL(Learner):
    """Flow Q-learning; the defaults are those of the paper and its code."""

    alpha: Annotated[float, Above(0)] = 10.0
    """Weight of the student's distance to the flow against the value; larger stays closer. The trade-off. On the scale
    of Q, hence very different between tasks, unless ``normalize_q``."""
    normalize_q: bool = False
    """Divide the student's value term by the mean size of Q, as the authors advise on new tasks and as ASPC needs."""
    aggregate_q: Literal["mean", "min"] = "mean"
    """Combination of the two critics in the target. The student always climbs their mean."""
    hidden: Annotated[int, AtLeast(1)] = 512
    """Width of every hidden layer."""
    layers: Annotated[int, AtLeast(1)] = 4
    """Hidden layers of every network."""
    flow_steps: Annotated[int, AtLeast(1)] = 10
    """Euler steps of the flow."""
    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of all networks."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of the target critics."""
    action_margin: float = 1e-5

    paper: ClassVar[str] = "arXiv 2502.02538"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # OGBench, single tasks
        "antmaze-large-navigate": {"alpha": 10.0, "aggregate_q": "min"},
        "antmaze-giant-navigate": {"alpha": 10.0, "aggregate_q": "min", "discount": 0.995},
        "humanoidmaze-medium-navigate": {"alpha": 30.0, "discount": 0.995},
        "humanoidmaze-large-navigate": {"alpha": 30.0, "discount": 0.995},
        "antsoccer-arena-navigate": {"alpha": 10.0, "discount": 0.995},
        "cube-single-play": {"alpha": 300.0},
        "cube-double-play": {"alpha": 300.0},
        "scene-play": {"alpha": 300.0},
        "puzzle-3x3-play": {"alpha": 1000.0},
        "puzzle-4x4-play": {"alpha": 1000.0},
        # D4RL
        "antmaze-umaze": {"alpha": 10.0, "reward_shift": -1.0},
        "antmaze-umaze-diverse": {"alpha": 10.0, "reward_shift": -1.0},
        "antmaze-medium-play": {"alpha": 10.0, "reward_shift": -1.0},
        "antmaze-medium-diverse": {"alpha": 10.0, "reward_shift": -1.0},
        "antmaze-large-play": {"alpha": 3.0, "reward_shift": -1.0},
        "antmaze-large-diverse": {"alpha": 3.0, "reward_shift": -1.0},
        "pen-human": {"alpha": 1e4, "aggregate_q": "min"},
        "pen-cloned": {"alpha": 1e4, "aggregate_q": "min"},
        "pen-expert": {"alpha": 3e3, "aggregate_q": "min"},
        "door-human": {"alpha": 3e4, "aggregate_q": "min"},
        "door-cloned": {"alpha": 3e4, "aggregate_q": "min"},
        "door-expert": {"alpha": 3e4, "aggregate_q": "min"},
        "hammer-human": {"alpha": 3e4, "aggregate_q": "min"},
        "hammer-cloned": {"alpha": 1e4, "aggregate_q": "min"},
        "hammer-expert": {"alpha": 3e4, "aggregate_q": "min"},
        "relocate-human": {"alpha": 1e4, "aggregate_q": "min"},
        "relocate-cloned": {"alpha": 3e4, "aggregate_q": "min"},
        "relocate-expert": {"alpha": 3e4, "aggregate_q": "min"},
        # Small networks for small data: this project's own, for scripted:pendulum/...
        "pendulum": {
            "alpha": 1.0,
            "normalize_q": True,
            "hidden": 64,
            "layers": 2,
            "batch_size": 64,
            "discount": 0.97,
            "polyak": 0.05,
            "learning_rate": 1e-3,
        },
        # A whole family: what most of its rows say. The paper has no locomotion; there, the authors' advice for new
        # tasks is a normalised Q and a search among 0.03, 0.1, ..., 10, of which 1 is our choice.
        "antmaze": {"alpha": 10.0, "reward_shift": -1.0},
        "adroit": {"alpha": 3e4, "aggregate_q": "min"},
        "gym": {"alpha": 1.0, "normalize_q": True},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="student",
            policy="student",
            tradeoff=self.alpha,
            scales="constraint",
            normalizes_improvement=self.normalize_q,
            distribution="generative",
            owns_behavior=True,
            imitation_is_constraint=False,
            normalized_critic=True,
            seams=TD_SEAMS | IMITATION_SEAMS | CONSTRAINT_SEAMS,
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        inputs, hidden = spec.observation_dim + spec.action_dim, [self.hidden] * self.layers
        critic = init_mlp((inputs, *hidden, 1), generator, ensemble=(2,), initializers=xavier(), norm="after")
        teacher = init_mlp((inputs + 1, *hidden, spec.action_dim), generator, initializers=xavier())
        student = init_mlp((inputs, *hidden, spec.action_dim), generator, initializers=xavier())
        return {"critic": critic, "teacher": teacher, "student": student}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        updates = (
            Update("critic", self.regression, self.learning_rate),
            Update("teacher", self.flow_matching, self.learning_rate),
            Update("student", self.constrained_loss, self.learning_rate),
        )
        return (Stage("fql", updates, averages=(Average("critic", self.polyak),)),)

    # -- networks -------------------------------------------------------------------------------------------------

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [2, N]."""
        return mlp(p, torch.cat([observation, action], -1), _gelu, norm="after", epsilon=_EPSILON).squeeze(-1)

    def student(self, p: Params, observation: Tensor, noise: Tensor) -> Tensor:
        """mu(s, z), which may leave the action bounds."""
        return mlp(p, torch.cat([observation, noise], -1), _gelu)

    def velocity(self, p: Params, observation: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The flow's field at x [..., N, A] and time t [..., N, 1]."""
        return mlp(p, torch.cat([observation, x, t], -1), _gelu)

    def flow(self, p: Params, observation: Tensor, x: Tensor) -> Tensor:
        """End of the flow that takes x [..., N, A] in Euler steps from time 0 to 1, within the action bounds."""
        for step in range(self.flow_steps):
            t = torch.full_like(x[..., :1], step / self.flow_steps)
            x = x + self.velocity(p, observation, x, t) / self.flow_steps
        return x.clamp(-1, 1)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """mu(s, z) at a fresh z, within the action bounds."""
        noise = v.normal(site, (observation.shape[0], v.spec.action_dim))
        return self.student(p, observation, noise).clamp(-1, 1)

    def sample_behavior(self, v: View, observation: Tensor, site: str, count: int) -> Tensor:
        """Ends of the teacher's flow."""
        noise = v.normal(site, (count, observation.shape[0], v.spec.action_dim))
        return self.flow(v.p["teacher"], observation.expand(count, *observation.shape), noise)

    def act(self, v: View, observation: Tensor) -> Tensor:
        return self.sample(v, v.p["student"], observation, "student")

    # -- equations ------------------------------------------------------------------------------------------------

    def aggregate(self, q: Tensor) -> Tensor:
        return q.mean(0) if self.aggregate_q == "mean" else q.amin(0)

    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        return (q - target).square().mean(0)

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """The critics' mean, or minimum, Q'_j(s', mu(s', z))."""
        action = self.sample(v, v.p["student"], observation, site)
        return self.aggregate(self.q(v.target["critic"], observation, action))

    def flow_matching(self, p: Params, v: View) -> Tensor:
        """The squared error of the field to a - x0 at points (1 - t) x0 + t a on straight lines from noise to data."""
        x0, a = v.normal("flow/start", v.a.shape), v.behavior_action()
        t = v.uniform("flow/time", (len(a), 1))
        error = (self.velocity(p, v.s, (1 - t) * x0 + t * a, t) - (a - x0)).square().mean(-1)
        return (v.sample_weight() * error).mean()

    def terms(self, p: Params, v: View) -> Terms:
        """The mean of Q_j(s, mu(s, z)); its negative, normalised or not; the squared distance of mu to the flow's end.

        Both ends start at the same z. The student's action is limited to the bounds for Q alone.
        """
        noise = v.normal("student", v.a.shape)
        action = self.student(p, v.s, noise)
        q = self.q(v.p["critic"], v.s, action.clamp(-1, 1)).mean(0)
        improvement = -q / q.detach().abs().mean() if self.normalize_q else -q
        taught = self.flow(v.p["teacher"], v.s, noise)
        constraint = v.constraint(action, lambda: (action - taught).square().mean(-1))
        return Terms(q, improvement, constraint)
