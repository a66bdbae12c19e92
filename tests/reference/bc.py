"""Behaviour cloning: the policy's squared error to the data's action."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, update


class PlainBC(Loop):
    """A deterministic policy."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        hidden = [self.settings.hidden] * 2
        self.actor = Network(self.states, *hidden, self.dims, last=[nn.Tanh()]).to(self.dtype)
        self.start(engine)
        self.optimizer = adam(self.actor)

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {"actor": self.actor}

    def step(self) -> None:
        s, a = self.rows("observation", "action")
        update(self.optimizer, mse_loss(self.actor(s), a))
