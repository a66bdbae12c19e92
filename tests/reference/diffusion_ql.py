"""Diffusion-QL (arXiv 2208.06193) and its reverse chain."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, give, one

STEPS, DRAWS = 5, 10
ALPHAS = np.exp(-0.1 / STEPS - 0.5 * 9.9 * (2 * np.arange(1, STEPS + 1) - 1) / STEPS**2)
BARS = np.cumprod(ALPHAS)


class NoiseNet(nn.Module):
    """eps(x, t, s)."""

    def __init__(self, states: int, actions: int, width: int) -> None:
        super().__init__()
        self.time = Network(16, 32, 16, activation=nn.Mish)
        self.trunk = Network(actions + 16 + states, width, width, width, actions, activation=nn.Mish)

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(torch.arange(8, dtype=x.dtype) * -(math.log(10000) / 7))[None]
        return self.trunk(x, self.time(angle.sin(), angle.cos()), s)


def chain(net: NoiseNet, s: Tensor, z: Tensor) -> Tensor:
    """One action [B, A] per state, from noise [5, B, A]."""
    x = z[0]
    for i in reversed(range(STEPS)):
        beta, bar, before = 1 - ALPHAS[i], BARS[i], BARS[i - 1] if i else 1.0
        predicted = net(x, torch.full((len(x),), float(i), dtype=x.dtype), s)
        x0 = ((x - np.sqrt(1 - bar) * predicted) / np.sqrt(bar)).clamp(-1, 1)
        x = beta * np.sqrt(before) / (1 - bar) * x0 + (1 - before) * np.sqrt(ALPHAS[i]) / (1 - bar) * x
        if i > 0:
            x = x + math.exp(0.5 * math.log(max(beta * (1 - before) / (1 - bar), 1e-20))) * z[STEPS - i]
    return x.clamp(-1, 1)


class PlainDiffusionQL(Loop):
    """Networks stepped one at a time, as the released code does it."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        width, norm = self.settings.hidden, "after" if self.settings.critic == "robust" else None
        self.actor, self.average = (NoiseNet(self.states, self.dims, width).to(self.dtype) for _ in range(2))
        sizes = (self.states + self.dims, width, width, width, 1)
        self.critics, self.critic_targets = (
            [Scalar(*sizes, activation=nn.Mish, norm=norm).to(self.dtype) for _ in range(2)] for _ in range(2)
        )
        self.start(engine)
        self.actor_optimizer = adam(self.actor, rate=self.settings.learning_rate)
        self.critic_optimizer = adam(*self.critics, rate=self.settings.critic_learning_rate)
        self.clipped = 0

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        trunks: dict[str, nn.Module | list[Scalar]] = {"actor": self.actor.trunk, "actor/target": self.average.trunk}
        return trunks | {"critic": self.critics, "critic/target": self.critic_targets}

    def pairs(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        pairs = super().pairs(engine)
        for net, tree in ((self.actor, engine.params), (self.average, engine.targets)):
            pairs += zip(net.time.parameters(), give(one(tree["actor"], self.position), "time_"), strict=True)
        return pairs

    def step(self) -> None:
        learner, size = self.settings, self.settings.batch_size
        s, a, r, s2, d = self.rows()
        # critics
        with torch.no_grad():
            count = DRAWS if learner.max_q_backup else 1
            z = self.draw("normal", "target", STEPS, count, *a.shape)
            states = s2.repeat(count, 1)
            a2 = chain(self.average, states, z.reshape(STEPS, count * size, -1))
            best = [target(states, a2).view(count, size).max(0).values for target in self.critic_targets]
            y = r + 0.99 * (1 - d) * torch.min(*best)
        first, second = (mse_loss(critic(s, a), y) for critic in self.critics)
        self.update(self.critic_optimizer, first + second)
        average(self.critic_targets, self.critics)
        # actor
        t = (self.draw("uniform", "diffusion/step", size) * STEPS).floor()
        eps = self.draw("normal", "diffusion/noise", *a.shape)
        bar = torch.tensor(BARS, dtype=a.dtype)[t.long()][:, None]
        imitation = mse_loss(self.actor(bar.sqrt() * a + (1 - bar).sqrt() * eps, t, s), eps)
        a0 = chain(self.actor, s, self.draw("normal", "policy", STEPS, 1, *a.shape)[:, 0])
        first, second = (critic(s, a0) for critic in self.critics)
        if self.draw("uniform", "pair") < 0.5:
            first, second = second, first
        improvement = -first.mean() / second.abs().mean().detach()
        self.update(self.actor_optimizer, imitation + learner.eta * improvement)
        if self.now % learner.actor_average_every == 0 and self.now >= learner.actor_average_start:
            average([self.average], [self.actor])

    def update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """A step along the clipped gradient."""
        parameters, bound = optimizer.param_groups[0]["params"], self.settings.gradient_clip
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        self.clipped += int(nn.utils.clip_grad_norm_(parameters, bound) > bound)
        optimizer.step()
