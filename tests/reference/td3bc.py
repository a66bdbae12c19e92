"""TD3+BC (arXiv 2106.06860), and ASPC on it: the trade-off is stepped through the policy's own step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss, softplus

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, update

ACTOR_EVERY = 2


@dataclass
class Meta:
    """The paper's outer step: rate of rho at the start, actor steps between two outer steps, mu."""

    rate: float = 0.03
    interval: int = 5
    mu: float = 0.995


class PlainTD3BC(Loop):
    """Six networks stepped one at a time, as the released code does it."""

    def __init__(self, engine: Engine, data: Dataset, seed: int | None = None, meta: Meta | None = None) -> None:
        super().__init__(engine, data, seed)
        self.meta, width = meta, self.settings.hidden
        norm = {"robust": "after", "layernorm": "before", "plain": None}[self.settings.critic]
        sizes = (self.states + self.dims, *[width] * (3 if norm == "after" else 2), 1)
        self.critics, self.critic_targets = (
            [Scalar(*sizes, norm=norm).to(self.dtype) for _ in range(2)] for _ in range(2)
        )
        self.policy, self.policy_target = (
            Network(self.states, width, width, self.dims, last=[nn.Tanh()]).to(self.dtype) for _ in range(2)
        )
        self.start(engine)
        self.critic_optimizers = [adam(critic) for critic in self.critics]
        self.policy_optimizer = adam(self.policy)
        self.first = [torch.zeros_like(p) for p in self.policy.parameters()]
        self.second = [torch.zeros_like(p) for p in self.policy.parameters()]
        self.steps = 0
        self.average_q = torch.zeros((), dtype=self.dtype)
        if meta is not None:
            self.rho = engine.params["aspc.scale"]["rho"][self.position].clone().requires_grad_()
            self.rho_optimizer = torch.optim.Adam([self.rho], lr=meta.rate)
            outer_steps = engine.horizon // (ACTOR_EVERY * meta.interval)
            self.rho_schedule = torch.optim.lr_scheduler.ExponentialLR(self.rho_optimizer, 0.01 ** (1 / outer_steps))

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {
            "actor": self.policy,
            "actor/target": self.policy_target,
            "critic": self.critics,
            "critic/target": self.critic_targets,
        }

    def step(self) -> None:
        s, a, r, s2, d = self.rows()
        self.critic_step(s, a, r, s2, d)
        if self.now % ACTOR_EVERY:
            return
        self.policy_step(s, a)
        average((*self.critic_targets, self.policy_target), (*self.critics, self.policy))

    def noisy(self, policy: nn.Module, s: Tensor, site: str) -> Tensor:
        draw = self.draw("normal", site, len(s), self.dims)
        return (policy(s) + (0.2 * draw).clamp(-0.5, 0.5)).clamp(-1, 1)

    @torch.no_grad()
    def bootstrap(self, s2: Tensor, site: str = "target") -> Tensor:
        a2 = self.noisy(self.policy_target, s2, site)
        return torch.min(*(target(s2, a2) for target in self.critic_targets))

    def critic_step(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> None:
        y = r + 0.99 * (1 - d) * self.bootstrap(s2)
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            update(optimizer, mse_loss(critic(s, a), y))

    def policy_step(self, s: Tensor, a: Tensor) -> None:
        if self.meta is None:
            update(self.policy_optimizer, self.policy_loss(self.policy(s), s, a, 2.5))
        else:
            self.scaled_policy_step(s, a, self.meta)

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        q = self.critics[0](s, action)
        return -alpha / q.abs().mean().detach() * q.mean() + mse_loss(action, a)

    def scaled_policy_step(self, s: Tensor, a: Tensor, meta: Meta) -> None:
        """The actor's Adam step as a function of alpha, and every so often alpha's own step through it."""
        names, theta = zip(*self.policy.named_parameters(), strict=True)
        alpha = softplus(self.rho)
        action = functional_call(self.policy, dict(zip(names, theta, strict=True)), s)
        gradients = torch.autograd.grad(self.policy_loss(action, s, a, alpha), theta, create_graph=True)
        self.steps += 1
        after = []
        for i, (p, g) in enumerate(zip(theta, gradients, strict=True)):
            m = 0.9 * self.first[i] + 0.1 * g
            v = 0.999 * self.second[i] + 0.001 * g * g
            seen = v > 0  # elsewhere the step is 0 and the square root has no derivative
            root = torch.where(seen, v / (1 - 0.999**self.steps), 1.0).sqrt()
            after.append(p - torch.where(seen, 3e-4 * m / (1 - 0.9**self.steps) / (root + 1e-8), 0.0))
            self.first[i], self.second[i] = m.detach(), v.detach()
        if self.now % (ACTOR_EVERY * meta.interval) == 0:
            new_action = functional_call(self.policy, dict(zip(names, after, strict=True)), s)
            q = self.critics[0](s, new_action).mean()
            average_q = (1 - meta.mu) * q + meta.mu * self.average_q
            l1 = self.policy_loss(new_action, s, a, alpha.detach())
            l2 = (average_q - self.average_q).square()
            b, b_new = ((action - a).square().mean(1).detach(), (new_action - a).square().mean(1))
            l3 = l2.detach() * b.max() * (b - b_new).abs().max()
            (self.rho.grad,) = torch.autograd.grad(l1 + l2 + l3, self.rho)
            self.rho_optimizer.step()
            self.rho_schedule.step()
            self.average_q = average_q.detach()
        with torch.no_grad():
            for p, new in zip(theta, after, strict=True):
                p.copy_(new)
