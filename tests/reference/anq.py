"""ANQ on TD3+BC or on IQL: V, two critics, mu and a policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from adaptive_constraints import ANQ, Dataset
from adaptive_constraints.baselines import IQL
from adaptive_constraints.engine.engine import Engine

from ..helpers import resolved_of
from .common import Loop, Network, Scalar, adam, average, update, update_together


class PlainANQ(Loop):
    """All networks stepped one at a time, in the order of the learner's paper."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        (adapter,) = resolved_of(engine).adapters
        assert isinstance(adapter, ANQ)
        self.anq, self.iql = adapter, isinstance(self.settings, IQL)
        self.tau = self.settings.expectile if self.iql else adapter.value_expectile
        width, inputs, tanh = self.settings.hidden, self.states + self.dims, [nn.Tanh()]
        own, wide = adapter.hidden, width if self.iql else 256
        self.value = Scalar(self.states, wide, wide, 1).to(self.dtype)
        self.critics, self.critic_targets = (
            [Scalar(inputs, width, width, 1).to(self.dtype) for _ in range(2)] for _ in range(2)
        )
        self.mu, self.mu_target = (Network(inputs, own, own, self.dims, last=tanh).to(self.dtype) for _ in range(2))
        self.policy = Network(self.states, width, width, self.dims, last=tanh).to(self.dtype)
        self.start(engine)
        self.mu_target.load_state_dict(self.mu.state_dict())
        self.log_std = torch.zeros(self.dims, dtype=self.dtype, requires_grad=True)
        self.value_optimizer, self.critic_optimizer = adam(self.value), adam(*self.critics)
        self.mu_optimizer = adam(self.mu, rate=adapter.learning_rate)
        self.policy_optimizer = adam(self.policy, more=[self.log_std] if self.iql else [])
        self.schedule = CosineAnnealingLR(self.mu_optimizer, engine.horizon // 2)
        self.cut = 0
        """Rows whose refined action the bounds have cut."""

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        by_group: dict[str, nn.Module | list[Scalar]] = {"value": self.value, "anq.mu": self.mu, "actor": self.policy}
        if self.anq.target_mu:
            by_group["anq.mu/target"] = self.mu_target
        return by_group | {"critic": self.critics, "critic/target": self.critic_targets}

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        return [(self.log_std, engine.params["actor"]["log_std"][self.position])] if self.iql else []

    @staticmethod
    def q(critics: list[Scalar], s: Tensor, a: Tensor, how: str = "min") -> Tensor:
        both = torch.stack([critic(s, a) for critic in critics])
        return both.mean(0) if how == "mean" else both.min(0).values

    def delta(self, mu: Network, s: Tensor, a: Tensor) -> Tensor:
        return self.anq.reach * mu(s, a)

    def step(self) -> None:
        s, a, r, s2, d = self.rows()
        if self.iql:  # V, Q and the policy at the same parameters, then the target critics; mu every second step
            optimizers = [self.value_optimizer, self.critic_optimizer, self.policy_optimizer]
            losses = [self.value_loss(s, a), self.q_loss(s, a, r, s2, d) / 2, self.awr_loss(s, a)]
            update_together(optimizers, losses)
            average(self.critic_targets, self.critics)
        else:
            update(self.value_optimizer, self.value_loss(s, a))
            update(self.critic_optimizer, self.q_loss(s, a, r, s2, d))
        if self.now % 2:
            return
        update(self.mu_optimizer, self.mu_loss(s, a))
        self.schedule.step()
        average([self.mu_target], [self.mu], self.anq.polyak)
        if not self.iql:
            update(self.policy_optimizer, self.td3_bc_loss(s, a))
            average(self.critic_targets, self.critics)

    def value_loss(self, s: Tensor, a: Tensor) -> Tensor:
        mu = self.mu_target if self.anq.target_mu else self.mu
        with torch.no_grad():
            target = self.q(self.critic_targets, s, (a + self.delta(mu, s, a)).clamp(-1, 1))
        u = target - self.value(s)
        return ((self.tau - (u < 0).to(u.dtype)).abs() * u**2).mean()

    def q_loss(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> Tensor:
        with torch.no_grad():
            y = r + 0.99 * (1 - d) * self.value(s2)
        first, second = (((critic(s, a) - y) ** 2).mean() for critic in self.critics)
        return first + second

    def mu_loss(self, s: Tensor, a: Tensor) -> Tensor:
        anq, delta = self.anq, self.delta(self.mu, s, a)
        with torch.no_grad():
            advantage = self.q(self.critic_targets, s, a, anq.value_aggregate) - self.value(s)
            w = torch.exp(anq.adaptivity * advantage).clamp(anq.smallest_factor, anq.largest_factor)
        self.cut += int(((a + delta).abs() > 1).any(1).sum())
        q = self.q(self.critics, s, (a + delta).clamp(-1, 1), anq.objective_aggregate)
        kappa = 1 / (q.abs().mean().detach() + 1e-6) if anq.normalize_q else 1.0
        if anq.penalty == "squared":
            return -kappa * q.mean() + anq.penalty_weight * (w[:, None] * delta**2).mean()
        return -kappa * q.mean() + anq.penalty_weight * (w * torch.linalg.vector_norm(delta, dim=1)).mean()

    @torch.no_grad()
    def refined(self, s: Tensor, a: Tensor, how: str) -> tuple[Tensor, Tensor]:
        """The imitated action and its advantage."""
        action = (a + self.delta(self.mu, s, a)).clamp(-1, 1)
        return action, self.q(self.critic_targets, s, action, how) - self.value(s)

    def td3_bc_loss(self, s: Tensor, a: Tensor) -> Tensor:
        target, advantage = self.refined(s, a, self.anq.value_aggregate)
        g = torch.exp(self.anq.inverse_temperature * advantage).clamp(max=self.anq.largest_weight)
        pi = self.policy(s)
        q = self.critics[0](s, pi)
        return -2.5 / q.abs().mean().detach() * q.mean() + (g[:, None] * (pi - target) ** 2).mean()

    def awr_loss(self, s: Tensor, a: Tensor) -> Tensor:
        target, advantage = self.refined(s, a, "min")
        weight = torch.exp(3.0 * advantage).clamp(max=100)
        policy = torch.distributions.Normal(self.policy(s), self.log_std.exp())
        return -(weight * policy.log_prob(target).sum(1)).mean()
