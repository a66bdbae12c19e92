"""CQL (arXiv 2006.04779) with CORL's policy and temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Loop, Network, Scalar, adam, average, update_together


class Policy(nn.Module):
    """A tanh-Gaussian policy with three hidden layers and a learned affine map of the log-std."""

    def __init__(self, states: int, width: int, actions: int) -> None:
        super().__init__()
        self.net = Network(states, width, width, width, 2 * actions)
        self.factor, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))

    def normal(self, state: Tensor) -> Normal:
        """The distribution before the tanh."""
        mean, log_std = self.net(state).chunk(2, -1)
        return Normal(mean, (self.factor * log_std + self.offset).clamp(-20, 2).exp())

    def forward(self, state: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities, from normal noise."""
        normal, squash = self.normal(state), TanhTransform(cache_size=1)
        action = squash(normal.mean + normal.stddev * draw)
        return action, TransformedDistribution(normal, squash).log_prob(action).sum(-1)


class PlainCQL(Loop):
    """The released code's order: all losses at the old networks, then all steps, then the targets."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        learner = self.settings
        norm = "before" if learner.critic == "robust" else None
        sizes = (self.states + self.dims, *[learner.hidden] * learner.critic_layers, 1)
        self.policy = Policy(self.states, learner.hidden, self.dims).to(self.dtype)
        self.critics, self.targets = ([Scalar(*sizes, norm=norm).to(self.dtype) for _ in range(2)] for _ in range(2))
        self.start(engine)
        zero, one = torch.zeros((), dtype=self.dtype), torch.ones((), dtype=self.dtype)
        self.log_temperature, self.log_multiplier = zero.requires_grad_(), one.requires_grad_()
        self.optimizers = [
            adam(more=[self.log_temperature], rate=learner.actor_learning_rate),
            adam(self.policy, rate=learner.actor_learning_rate),
            *(adam(critic, rate=learner.critic_learning_rate) for critic in self.critics),
            adam(more=[self.log_multiplier], rate=learner.critic_learning_rate),
        ]
        self.schedules = [
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, engine.horizon) for optimizer in self.optimizers
        ]
        self.below = self.above = 0
        """Gaps that were clipped."""

    def networks(self) -> dict[str, nn.Module | list[Scalar]]:
        return {"actor": self.policy.net, "critic": self.critics, "critic/target": self.targets}

    def pairs(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        actor, own = engine.params["actor"], [self.policy.factor, self.policy.offset]
        scalars = [tensor[self.position] for name, tensor in actor.items() if name.startswith("log_std")]
        return super().pairs(engine) + list(zip(own, scalars, strict=True))

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        ours = {"temperature": self.log_temperature, "multiplier": self.log_multiplier}
        params = engine.params
        return [(own, params[group]["log"][self.position]) for group, own in ours.items() if group in params]

    def step(self) -> None:
        c = self.settings
        s, a, r, s2, d = self.rows()
        action, log_pi = self.policy(s, self.draw("normal", "policy", *a.shape))
        temperature_loss = -(self.log_temperature * (log_pi - self.dims).detach()).mean()
        temperature = self.log_temperature.exp().detach() if c.entropy == "automatic" else 0.0
        policy_loss = (temperature * log_pi - torch.min(*(q(s, action) for q in self.critics))).mean()
        policy_loss = policy_loss + c.actor_imitation * ((action - a) ** 2).sum(1).mean()
        losses = [temperature_loss, policy_loss, *self.critic_losses(s, a, r, s2, d)]
        update_together(self.optimizers[: len(losses)], losses)
        if c.learning_rate_decay == "cosine":
            for schedule in self.schedules:
                schedule.step()
        average(self.targets, self.critics)

    @torch.no_grad()
    def bootstrap(self, s2: Tensor, site: str = "target") -> Tensor:
        a2, _ = self.policy(s2, self.draw("normal", site, self.settings.backup_actions, *s2.shape[:-1], self.dims))
        return torch.min(*(target(s2, a2) for target in self.targets)).max(0).values

    def critic_losses(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> list[Tensor]:
        """Both critics', and the multiplier's."""
        c = self.settings
        y = r + 0.99 * (1 - d) * self.bootstrap(s2)
        losses = [mse_loss(q(s, a), y) for q in self.critics]
        excess = torch.zeros((), dtype=self.dtype)
        if c.alpha > 0:
            both = [self.excess(gap) for gap in self.gaps(s, a, s2)]
            multiplier = self.log_multiplier.exp().detach().clamp(0, 1e6) if c.target_gap is not None else 1.0
            losses = [loss + c.alpha * multiplier * gap for loss, gap in zip(losses, both, strict=True)]
            excess = both[0] + both[1]
        return [*losses, -0.5 * self.log_multiplier.exp() * c.alpha * excess.detach()]

    def gaps(self, s: Tensor, a: Tensor, s2: Tensor) -> list[Tensor]:
        """By how much each critic's soft maximum exceeds its value of the data's action; [B]."""
        shape, temperature = (self.settings.gap_actions, *a.shape), self.settings.gap_temperature
        with torch.no_grad():
            anywhere = 2 * self.draw("uniform", "gap/uniform", *shape) - 1
            here, log_here = self.policy(s, self.draw("normal", "gap/policy", *shape))
            after, log_after = self.policy(s2, self.draw("normal", "gap/next", *shape))
        gaps = []
        for q in self.critics:
            of_policy = [self.bounded(q(s, after)) - log_after, self.bounded(q(s, here)) - log_here]
            z = torch.cat([q(s, anywhere) - math.log(0.5**self.dims), *of_policy])
            gaps.append(temperature * torch.logsumexp(z / temperature, 0) - q(s, a))
        return gaps

    def bounded(self, q: Tensor) -> Tensor:
        """The values [M, B] at actions of the policy that are pushed down."""
        return q

    def excess(self, gap: Tensor) -> Tensor:
        """The mean clipped gap, less its target."""
        c = self.settings
        low = -math.inf if c.smallest_gap is None else c.smallest_gap
        high = math.inf if c.largest_gap is None else c.largest_gap
        self.below, self.above = self.below + int((gap < low).sum()), self.above + int((gap > high).sum())
        return gap.clamp(low, high).mean() - (c.target_gap or 0.0)
