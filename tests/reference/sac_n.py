"""SAC-N and EDAC (arXiv 2110.01548) in the order of CORL's implementation: temperature, actor, critics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, update


class PlainSACN(Loop):
    """A tanh-Gaussian actor, a temperature and N critics with their targets."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        c = self.settings
        hidden = [c.hidden] * 3
        self.actor = Network(self.states, *hidden, 2 * self.dims).to(self.dtype)
        self.critics, self.targets = (
            [Scalar(self.states + self.dims, *hidden, 1).to(self.dtype) for _ in range(c.critics)] for _ in range(2)
        )
        self.start(engine)
        self.log_temperature = torch.zeros((), dtype=self.dtype, requires_grad=True)
        self.temperature_optimizer = adam(more=[self.log_temperature], rate=c.actor_learning_rate)
        self.actor_optimizer = adam(self.actor, rate=c.actor_learning_rate)
        self.critic_optimizer = adam(*self.critics, rate=c.critic_learning_rate)

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {"actor": self.actor, "critic": self.critics, "critic/target": self.targets}

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        return [(self.log_temperature, engine.params["temperature"]["log"][self.position])]

    def act(self, s: Tensor, site: str) -> tuple[Tensor, Tensor]:
        """Actions of the policy and their log-densities."""
        mean, log_std = self.actor(s).chunk(2, -1)
        normal, squash = Normal(mean, log_std.clamp(-5, 2).exp()), TanhTransform(cache_size=1)
        action = squash(normal.mean + normal.stddev * self.draw("normal", site, *mean.shape))
        return action, TransformedDistribution(normal, squash).log_prob(action).sum(-1)

    def step(self) -> None:
        s, a, r, s2, d = self.rows()
        with torch.no_grad():
            _, log_pi = self.act(s, "temperature")
        update(self.temperature_optimizer, (-self.log_temperature * (log_pi - self.dims)).mean())
        temperature = self.log_temperature.exp().detach()
        action, log_pi = self.act(s, "policy")
        smallest = torch.stack([critic(s, action) for critic in self.critics]).min(0).values
        update(self.actor_optimizer, (temperature * log_pi - smallest).mean())
        with torch.no_grad():
            a2, log_pi2 = self.act(s2, "target")
            next_q = torch.stack([target(s2, a2) for target in self.targets]).min(0).values - temperature * log_pi2
            y = r + self.settings.discount * (1 - d) * next_q
        loss = torch.stack([((critic(s, a) - y) ** 2).mean() for critic in self.critics]).sum()
        update(self.critic_optimizer, loss + self.penalty(s, a))
        average(self.targets, self.critics, self.settings.polyak)

    def penalty(self, s: Tensor, a: Tensor) -> Tensor | float:
        return 0.0


class PlainEDAC(PlainSACN):
    """The same with eta times the mean cosine of the critics' gradients in every pair."""

    def penalty(self, s: Tensor, a: Tensor) -> Tensor:
        gradients = []
        for critic in self.critics:
            action = a.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(critic(s, action).sum(), action, create_graph=True)
            gradients.append(gradient / (gradient.norm(dim=1, keepdim=True) + 1e-10))
        unit = torch.stack(gradients, 1)
        cosines = unit @ unit.mT
        others = 1 - torch.eye(len(self.critics), dtype=self.dtype)
        return self.settings.eta * (cosines * others).sum((1, 2)).mean() / (len(self.critics) - 1)
