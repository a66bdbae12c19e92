"""ReBRAC (arXiv 2305.09836): TD3 with a distance to the data's action in both losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import NAMES, Loop, Network, Scalar, adam, average, update


class PlainReBRAC(Loop):
    """An actor and twin critics with their targets, stepped one after the other."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        own = {"next_action": np.roll(data.actions, -1, axis=0), "has_next": ~(data.terminals | data.timeouts)}
        self.columns |= {name: torch.tensor(array).to(self.dtype) for name, array in own.items()}
        hidden = [self.settings.hidden] * 3
        self.actor, self.actor_target = (
            Network(self.states, *hidden, self.dims, last=[nn.Tanh()]).to(self.dtype) for _ in range(2)
        )
        self.critics, self.critic_targets = (
            [Scalar(self.states + self.dims, *hidden, 1, norm="after", epsilon=1e-6).to(self.dtype) for _ in range(2)]
            for _ in range(2)
        )
        self.start(engine)
        self.critic_optimizer = adam(*self.critics, rate=self.settings.critic_learning_rate)
        self.actor_optimizer = adam(self.actor, rate=self.settings.actor_learning_rate)

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        online: dict[str, nn.Module | list[Scalar]] = {"actor": self.actor, "critic": self.critics}
        return online | {"actor/target": self.actor_target, "critic/target": self.critic_targets}

    def step(self) -> None:
        s, a, r, s2, d, next_a, has_next = self.rows(*NAMES, "next_action", "has_next")
        with torch.no_grad():
            draw = self.draw("normal", "target", *a.shape)
            a2 = (self.actor_target(s2) + (0.2 * draw).clamp(-0.5, 0.5)).clamp(-1, 1)
            penalty = self.settings.beta2 * has_next * ((a2 - next_a) ** 2).sum(1)
            next_q = torch.min(*(target(s2, a2) for target in self.critic_targets)) - penalty
            y = r + (1 - d) * self.settings.discount * next_q
        first, second = (mse_loss(critic(s, a), y) for critic in self.critics)
        update(self.critic_optimizer, first + second)
        if self.now % self.settings.policy_every:
            return
        action = self.actor(s)
        q = torch.min(*(critic(s, action) for critic in self.critics))
        distance = ((action - a) ** 2).sum(1)
        update(self.actor_optimizer, (self.settings.beta1 * distance - q / q.abs().mean().detach()).mean())
        average((*self.critic_targets, self.actor_target), (*self.critics, self.actor))
