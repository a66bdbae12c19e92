"""AWAC (arXiv 2006.09359) in the order of CORL's implementation: critics, actor, targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, update


class PlainAWAC(Loop):
    """A normal policy with one learned deviation per dimension, and twin critics with their targets."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        hidden = [self.settings.hidden] * 3
        self.net = Network(self.states, *hidden, self.dims).to(self.dtype)
        self.critics, self.targets = (
            [Scalar(self.states + self.dims, *hidden, 1).to(self.dtype) for _ in range(2)] for _ in range(2)
        )
        self.start(engine)
        self.log_std = torch.zeros(self.dims, dtype=self.dtype, requires_grad=True)
        self.actor_optimizer = adam(self.net, more=[self.log_std])
        self.critic_optimizer = adam(*self.critics)
        self.bounded = 0
        """Weights that reached their bound."""

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {"actor": self.net, "critic": self.critics, "critic/target": self.targets}

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        return [(self.log_std, engine.params["actor"]["log_std"][self.position])]

    def policy(self, s: Tensor) -> Normal:
        return Normal(self.net(s), self.log_std.clamp(-20, 2).exp())

    @torch.no_grad()
    def act(self, s: Tensor, site: str) -> Tensor:
        normal = self.policy(s)
        return (normal.mean + normal.stddev * self.draw("normal", site, len(s), self.dims)).clamp(-1, 1)

    def step(self) -> None:
        c = self.settings
        s, a, r, s2, d = self.rows()
        with torch.no_grad():
            a2 = self.act(s2, "target")
            y = r + c.discount * (1 - d) * torch.min(*(target(s2, a2) for target in self.targets))
        first, second = (mse_loss(critic(s, a), y) for critic in self.critics)
        update(self.critic_optimizer, first + second)
        with torch.no_grad():
            own = self.act(s, "policy")
            of_data, of_policy = (torch.min(*(critic(s, action) for critic in self.critics)) for action in (a, own))
            weight = torch.exp(c.beta * (of_data - of_policy)).clamp(max=c.largest_weight)
            self.bounded += int((weight == c.largest_weight).sum())
        update(self.actor_optimizer, (-self.policy(s).log_prob(a).sum(1) * weight).mean())
        average(self.targets, self.critics)
