"""TD3+BC as common single-file PyTorch implementations write it: modules, torch.optim.Adam, loss.backward()."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .contestant import Contestant, Loop, Shape, transitions

Batch = Sequence[Tensor]
"""State [B, S], action [B, A], reward [B, 1], next state [B, S], terminal [B, 1]."""


class PlainTD3BC:
    """One seed, one network at a time."""

    def __init__(self, shape: Shape, device: str = "cpu") -> None:
        self.critics = [_perceptron(shape.state + shape.action, shape.width, 1).to(device) for _ in range(2)]
        actor = _perceptron(shape.state, shape.width, shape.action)
        self.actor = nn.Sequential(*actor, nn.Tanh()).to(device)
        self.nets = [*self.critics, self.actor]
        self.targets = [copy.deepcopy(net) for net in self.nets]
        self._optimizers = [torch.optim.Adam(net.parameters(), lr=3e-4) for net in self.nets]

    def step(self, batch: Batch, noise: Tensor, actor_due: bool) -> list[Tensor]:
        """One step with standard normal ``noise`` [B, A]; its losses, critics' first."""
        s, a, r, s2, d = batch
        critic1, critic2 = self.critics
        target1, target2, target_actor = self.targets
        optimizer1, optimizer2, optimizer_actor = self._optimizers
        with torch.no_grad():
            smoothing = (noise * 0.2).clamp(-0.5, 0.5)
            inputs2 = torch.cat([s2, (target_actor(s2) + smoothing).clamp(-1, 1)], 1)
            y = r + (1 - d) * 0.99 * torch.min(target1(inputs2), target2(inputs2))
        inputs = torch.cat([s, a], 1)
        loss = functional.mse_loss(critic1(inputs), y) + functional.mse_loss(critic2(inputs), y)
        optimizer1.zero_grad()
        optimizer2.zero_grad()
        loss.backward()
        optimizer1.step()
        optimizer2.step()
        losses = [loss.detach()]
        if actor_due:
            action = self.actor(s)
            q = critic1(torch.cat([s, action], 1))
            loss = -2.5 / q.abs().mean().detach() * q.mean() + functional.mse_loss(action, a)
            optimizer_actor.zero_grad()
            loss.backward()
            optimizer_actor.step()
            self._average()
            losses.append(loss.detach())
        return losses

    def _average(self) -> None:
        for net, target in zip(self.nets, self.targets, strict=True):
            for source, average in zip(net.parameters(), target.parameters(), strict=True):
                average.data.copy_(0.005 * source.data + 0.995 * average.data)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def build(contestant: Contestant, device: str) -> Loop:
    """The loop with its own sampling."""
    shape = contestant.shape
    learner = PlainTD3BC(shape, device)
    data = {name: torch.as_tensor(column, device=device) for name, column in transitions(shape).items()}
    columns = [column[:, None] if column.dim() == 1 else column for column in data.values()]
    done = 0

    def run(steps: int) -> int:
        nonlocal done
        for _ in range(steps):
            done += 1
            rows = torch.randint(0, shape.rows, (shape.batch,), device=device)
            noise = torch.randn(shape.batch, shape.action, device=device)
            learner.step([column[rows] for column in columns], noise, done % 2 == 0)
        synchronize(device)
        return steps

    return Loop(run, lambda: device_memory(device))


def synchronize(device: str) -> None:
    """Wait for the accelerator."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def device_memory(device: str) -> int | None:
    """Peak bytes that torch had allocated on the accelerator."""
    return torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else None
