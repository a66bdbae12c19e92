"""IQL (arXiv 2110.06169) in the order of CORL's implementation, with a choice of how the policy is extracted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, update


class PlainIQL(Loop):
    """V, twin critics with targets and an actor, stepped one after the other."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        width, robust = self.settings.hidden, self.settings.critic == "robust"
        self.value = Scalar(self.states, width, width, 1).to(self.dtype)
        sizes, norm = (self.states + self.dims, *[width] * (3 if robust else 2), 1), "after" if robust else None
        self.critics, self.targets = ([Scalar(*sizes, norm=norm).to(self.dtype) for _ in range(2)] for _ in range(2))
        self.actor = Network(self.states, width, width, self.dims, last=[nn.Tanh()]).to(self.dtype)
        self.start(engine)
        self.log_std = torch.zeros(self.dims, dtype=self.dtype, requires_grad=True)
        self.value_optimizer, self.critic_optimizer = adam(self.value), adam(*self.critics)
        own = [self.log_std] if self.settings.policy == "gaussian" else []
        self.actor_optimizer = adam(self.actor, more=own)
        self.schedule = CosineAnnealingLR(self.actor_optimizer, engine.horizon)
        self.largest_weight = 0.0

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {"value": self.value, "critic": self.critics, "critic/target": self.targets, "actor": self.actor}

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        gaussian = self.settings.policy == "gaussian"
        return [(self.log_std, engine.params["actor"]["log_std"][self.position])] if gaussian else []

    def step(self) -> None:
        s, a, r, s2, d = self.rows()
        mean = self.mean(s)
        if self.settings.extraction == "ddpg+bc":  # reads the critics as they stand before their step
            q = self.aggregate(critic(s, mean) for critic in self.critics)
            loss = -self.settings.alpha * q.mean() / q.abs().mean().detach() + self.imitation(mean, a).mean()
            self.step_actor(loss)
        # From here on as CORL has it: V, the critics, their targets, the actor.
        with torch.no_grad():
            next_v = self.value(s2)
            q_target = self.aggregate(target(s, a) for target in self.targets)
        advantage = q_target - self.value(s)
        tau = self.settings.expectile
        update(self.value_optimizer, ((tau - (advantage < 0).to(s.dtype)).abs() * advantage**2).mean())
        advantage = advantage.detach()
        y = r + (1 - d) * 0.99 * next_v
        first, second = (mse_loss(critic(s, a), y) for critic in self.critics)
        update(self.critic_optimizer, (first + second) / 2)
        average(self.targets, self.critics, self.settings.polyak)
        if self.settings.extraction == "awr":
            weight = torch.exp(self.settings.beta * advantage).clamp(max=100.0)
            self.largest_weight = max(self.largest_weight, float(weight.max()))
            self.step_actor((weight * self.imitation(mean, a)).mean())

    def aggregate(self, q: Iterable[Tensor]) -> Tensor:
        first, second = q
        return (first + second) / 2 if self.settings.aggregate_q == "mean" else torch.min(first, second)

    def mean(self, s: Tensor) -> Tensor:
        """tanh of the network, whose hidden units are left out by chance."""
        x, rate = s, self.settings.dropout
        for number, layer in enumerate(self.actor):
            x = layer(x)
            if rate and isinstance(layer, nn.ReLU):
                kept = self.draw("uniform", f"dropout/{number // 2}", *x.shape) >= rate
                x = torch.where(kept, x / (1 - rate), 0.0)
        return x

    def imitation(self, mean: Tensor, a: Tensor) -> Tensor:
        if self.settings.policy == "deterministic":
            return ((mean - a) ** 2).sum(1)
        normal = torch.distributions.Normal(mean, self.log_std.clamp(-20, 2).exp())
        return -normal.log_prob(a).sum(1)

    def step_actor(self, loss: Tensor) -> None:
        update(self.actor_optimizer, loss)
        self.schedule.step()
