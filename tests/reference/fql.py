"""Flow Q-learning (arXiv 2502.02538)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, adam, average


class PlainFQL(Loop):
    """One Adam over everything, as the released code has it."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        hidden, inputs = [self.settings.hidden] * self.settings.layers, self.states + self.dims
        gelu = partial(nn.GELU, approximate="tanh")
        self.critics, self.targets = (
            [Network(inputs, *hidden, 1, activation=gelu, norm="after", epsilon=1e-6).to(self.dtype) for _ in range(2)]
            for _ in range(2)
        )
        self.teacher = Network(inputs + 1, *hidden, self.dims, activation=gelu).to(self.dtype)
        self.student = Network(inputs, *hidden, self.dims, activation=gelu).to(self.dtype)
        self.start(engine)
        self.optimizer = adam(*self.critics, self.teacher, self.student)

    def networks(self) -> dict[str, nn.Module | list[Network]]:
        flows: dict[str, nn.Module | list[Network]] = {"teacher": self.teacher, "student": self.student}
        return flows | {"critic": self.critics, "critic/target": self.targets}

    def step(self) -> None:
        learner, size = self.settings, self.settings.batch_size
        s, a, r, s2, d = self.rows()

        def normal(site: str) -> Tensor:
            return self.draw("normal", site, *a.shape)

        with torch.no_grad():
            a2 = self.student(s2, normal("target")).clamp(-1, 1)
            next_q = torch.cat([target(s2, a2) for target in self.targets], 1)
            next_q = next_q.mean(1) if learner.aggregate_q == "mean" else next_q.min(1).values
            y = r + learner.discount * (1 - d) * next_q
        q = torch.cat([critic(s, a) for critic in self.critics], 1)
        critic_loss = (q - y[:, None]).square().mean()

        x0, t = normal("flow/start"), self.draw("uniform", "flow/time", size, 1)
        flow_loss = (self.teacher(s, (1 - t) * x0 + t * a, t) - (a - x0)).square().mean()

        z = normal("student")
        with torch.no_grad():
            taught = z
            for i in range(10):
                taught = taught + self.teacher(s, taught, torch.full_like(t, i / 10)) / 10
            taught = taught.clamp(-1, 1)
        action = self.student(s, z)
        values = torch.cat([critic(s, action.clamp(-1, 1)) for critic in self.critics], 1).mean(1)
        q_loss = -values.mean()
        if learner.normalize_q:
            q_loss = q_loss / values.abs().mean().detach()
        student_loss = q_loss + learner.alpha * (action - taught).square().mean()

        self.optimizer.zero_grad()
        (critic_loss + flow_loss).backward()
        student_loss.backward(inputs=list(self.student.parameters()))
        self.optimizer.step()
        average(self.targets, self.critics)
