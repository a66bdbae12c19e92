"""The state value that adapters share on learners that have none of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adaptive_constraints.core.types import Params, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks import expectile_loss, init_mlp, mlp


@dataclass(frozen=True)
class SharedValue:
    """V(s), the upper expectile of the target critics at the data's (or an adapter's) action; first in a step."""

    expectile: float
    hidden: int = 256
    learning_rate: float = 3e-4
    seams: ClassVar[frozenset[str]] = frozenset({"value_action"})
    """The seams that its regression asks, beside the learner's."""

    def init(self, spec: Spec, generator: torch.Generator) -> Params:
        """Parameters of one seed."""
        return init_mlp((spec.observation_dim, self.hidden, self.hidden, 1), generator)

    def stage(self) -> Stage:
        """The stage that regresses V, in slot start."""
        return Stage("value", (Update("value", self.loss, self.learning_rate),))

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """V: [N, D] -> [N]."""
        return mlp(p, observation).squeeze(-1)

    def loss(self, p: Params, v: View) -> Tensor:
        """Expectile regression of V on the aggregate of the target critics."""
        q = v.services.aggregate(v.services.q(v.target["critic"], v.s, v.value_action()))
        return expectile_loss(q - self.value(p, v.s), self.expectile).mean()
