"""SSAR on TD3+BC and on CQL: the coefficient network, the schedule of n, the trusted subset."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, adam, give, one, take, update
from .cql import PlainCQL
from .td3bc import PlainTD3BC

THRESHOLD = 0.5
"""Episodes of a greater return are trusted."""


class Coefficient(Loop):
    """What both back-bones have in common."""

    beta_0: float
    rate: float
    w: Tensor
    """Of the step's rows, before any update."""

    def __init__(self, engine: Engine, data: Dataset, loosen_bound: bool, every: int) -> None:
        super().__init__(engine, data)
        self.loosen_bound, self.every, self.n = loosen_bound, every, 1.0
        returns = [data.rewards[data.episode_ids == episode].sum() for episode in data.episode_ids]
        self.columns["trusted"] = torch.tensor(np.array(returns) > THRESHOLD).to(self.dtype)
        self.beta = Network(self.states, 24, 24, 24, 1).to(self.dtype)
        take(self.beta, one(engine.params["ssar.beta"]))
        with torch.no_grad():
            list(self.beta.parameters())[-1].add_(math.log(2))  # where the released code starts its sigmoid
        self.beta_optimizer = adam(self.beta, rate=self.rate * 1e6 / engine.horizon)

    def coefficient(self, s: Tensor) -> Tensor:
        """beta(s), in (0, 1.5 beta_0)."""
        return 1.5 * self.beta_0 * torch.sigmoid(self.beta(s).squeeze(1))

    def bound(self, s: Tensor) -> Tensor:
        """What stands before the regulariser."""
        (trusted,) = self.rows("trusted")
        beta = self.coefficient(s).detach()
        return beta * trusted if self.loosen_bound else beta

    def step_beta(self, s: Tensor) -> None:
        (trusted,) = self.rows("trusted")
        self.beta_optimizer.zero_grad()
        (self.w.detach() * self.coefficient(s) * trusted).mean().backward()
        nn.utils.clip_grad_norm_(self.beta.parameters(), 0.5)
        self.beta_optimizer.step()
        if self.now % self.every == 0:
            assert self.w[trusted > 0].mean() < 0, "this data lies outside the interval throughout"
            self.n = min(3.0, self.n + 0.2)

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        """The coefficient network too, whose last bias stands log 2 apart."""
        *beta, bias = give(one(engine.params["ssar.beta"]))
        pairs = list(zip(self.beta.parameters(), [*beta, bias + math.log(2)], strict=True))
        return super().scalars(engine) + [(ours, theirs) for ours, theirs in pairs]


class OnTD3BC(Coefficient, PlainTD3BC):
    """The paper's scale of the loss: minimise -Q / |Q| + beta(s) m |pi - a|^2."""

    beta_0, rate = 1 / 2.5, 3e-8

    def __init__(self, engine: Engine, data: Dataset, loosen_bound: bool, every: int) -> None:
        super().__init__(engine, data, loosen_bound, every)
        # Its loss is that of TD3+BC over alpha, gradients and all: with Adam's epsilon over alpha, steps are the same.
        self.policy_optimizer = adam(self.policy, epsilon=1e-8 / 2.5)

    def policy_step(self, s: Tensor, a: Tensor) -> None:
        p = self.policy(s)
        self.w = (self.n * 0.1) ** 2 - ((p - a) ** 2).clamp(max=1).mean(1)
        q = self.critics[0](s, p)
        regulariser = (self.bound(s)[:, None] * (p - a) ** 2).mean()
        update(self.policy_optimizer, -q.mean() / q.abs().mean().detach() + regulariser)
        self.step_beta(s)


class OnCQL(Coefficient, PlainCQL):
    """All losses at the old networks: sum_i MSE_i + mean of beta(s) m gap_i."""

    beta_0, rate = 10.0, 1e-8

    def critic_losses(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> list[Tensor]:
        self.w = squashed_margin(self.policy.normal(s), a, self.n).detach()
        y, bound = r + 0.99 * (1 - d) * self.bootstrap(s2), self.bound(s)
        gaps = self.gaps(s, a, s2)
        return [mse_loss(q(s, a), y) + (bound * gap).mean() for q, gap in zip(self.critics, gaps, strict=True)]

    def step(self) -> None:
        super().step()
        self.step_beta(*self.rows("observation"))


def squashed_margin(normal: Normal, a: Tensor, n: float) -> Tensor:
    """The paper's w for tanh-Gaussian policies, by torch's own distributions."""
    policy, center = TransformedDistribution(normal, TanhTransform()), torch.tanh(normal.mean)

    def log_density_at_edges(n: float) -> Tensor:
        at_edges = []
        for sign in (-1, 1):
            edge = torch.tanh(normal.mean + sign * n * normal.stddev).clamp(-0.99999, 0.99999)
            edge = torch.max(torch.min(edge, center + 0.1 * n), center - 0.1 * n)
            at_edges.append(policy.log_prob(edge))
        return torch.min(*at_edges)

    return (torch.max(policy.log_prob(a), log_density_at_edges(10)) - log_density_at_edges(n)).mean(-1)
