"""BC: behaviour cloning, of all of the data or of its best episodes ("10% BC", Chen et al., 2021, arXiv 2106.01345).

The baseline that every table has: the policy imitates the data and nothing else is learned. There are no critics, so
adapters that read values are refused.

One step is one update of the actor.
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
    AdaptiveConstraintsError,
    AtLeast,
    Between,
    Dataset,
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
from adaptive_constraints.networks import init_mlp, mlp


@dataclass(frozen=True, kw_only=True)
class BC(Learner):
    """Behaviour cloning; the defaults are those of CORL's reference implementation.

    Nothing tells it what is better, so fine-tuned online it imitates what it did itself.

    >>> from adaptive_constraints import load_dataset
    >>> from adaptive_constraints.baselines import BC
    >>> data = load_dataset("bundled:hopper")
    >>> data.episodes, BC(best=0.1).training_data(data).episodes
    (210, 21)
    """

    best: Annotated[float, Between(0, 1, "(]")] = 1.0
    """Share of the episodes that are imitated, those of the highest undiscounted returns, and at least one; 0.1 in "10%
    BC". Observations are normalised over these episodes."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of the two hidden layers."""
    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate."""
    normalize_observations: bool = True

    paper: ClassVar[str] = "arXiv 2106.01345"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "maze2d": {},
        "antmaze": {},
        "adroit": {},
        "10%": {"best": 0.1},
    }

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=None,
            scales="constraint",
            owns_critic=False,
            reads_policy_action=False,
            seams=IMITATION_SEAMS | CONSTRAINT_SEAMS - {"tradeoff"},
        )

    def training_data(self, data: Dataset) -> Dataset:
        """The episodes that are imitated."""
        return data if self.best == 1 else data.top(self.best)

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        return {"actor": init_mlp((spec.observation_dim, self.hidden, self.hidden, spec.action_dim), generator)}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        return (Stage("actor", (Update("actor", self.constrained_loss, self.learning_rate),)),)

    # -- the network ----------------------------------------------------------------------------------------------

    def policy(self, p: Params, observation: Tensor) -> Tensor:
        """pi(s): [N, D] -> [N, A]."""
        return torch.tanh(mlp(p, observation))

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """pi(s), the policy's only action."""
        return self.policy(p, observation)

    def distribution(self, v: View, p: Params, observation: Tensor) -> Point:
        return Point(self.policy(p, observation))

    def act(self, v: View, observation: Tensor) -> Tensor:
        return self.policy(v.p["actor"], observation)

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Raise an error: there is none."""
        raise AdaptiveConstraintsError("BC has no critics, so that nobody can ask it for Q: use a learner that has")

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """Raise an error: there is none."""
        raise AdaptiveConstraintsError(
            "BC has no critics, so that it has no value to bootstrap from: use a learner that has"
        )

    # -- the equation ---------------------------------------------------------------------------------------------

    def terms(self, p: Params, v: View) -> Terms:
        """No value and no improvement; the mean squared error of pi(s) to the data's action."""
        action = self.policy(p, v.s)
        constraint = v.constraint(action, lambda: (action - v.behavior_action()).square().mean(-1))
        nothing = torch.zeros_like(constraint)
        return Terms(nothing, nothing, constraint)

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """The weighted imitation alone."""
        terms = self.terms(p, v)
        return v.weighted(terms.constraint).mean(), terms
