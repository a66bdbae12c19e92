"""A2PR on TD3+BC: a value, and an autoencoder of the data's good actions, whose action is imitated where better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import Scalar, adam, one, take, update
from .td3bc import PlainTD3BC
from .vae import plain_vae


class PlainA2PR(PlainTD3BC):
    """TD3+BC with the value and the autoencoder stepped before the critics."""

    def __init__(self, engine: Engine, data: Dataset, weight: float) -> None:
        super().__init__(engine, data)
        self.weight = weight
        self.value = Scalar(self.states, 256, 256, 1).to(self.dtype)
        take(self.value, one(engine.params["value"], self.position))
        self.vae = plain_vae(one(engine.params["a2pr.vae"], self.position))
        self.value_optimizer, self.vae_optimizer = adam(self.value), adam(self.vae, rate=1e-3)
        self.latent = engine.params["a2pr.vae"]["encoder.bias2"].shape[-1] // 2
        self.shares: list[tuple[float, float]] = []
        """At each policy step, the shares of rows whose action is replaced, and that are imitated."""

    @torch.no_grad()
    def q(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.min(*(target(s, a) for target in self.critic_targets))

    def critic_step(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> None:
        # An expectile of 0.5 weighs by 0.5.
        update(self.value_optimizer, 0.5 * mse_loss(self.value(s), self.q(s, a)))
        good = (self.q(s, a) > self.value(s)).to(s.dtype).unsqueeze(1)
        u, divergence = self.vae(s, a, self.draw("normal", "a2pr/reconstruct", len(s), self.latent))
        update(self.vae_optimizer, (good * (u - a).square()).mean() + 0.5 * divergence.mean())
        super().critic_step(s, a, r, s2, d)

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        with torch.no_grad():
            decoded, _ = self.vae(s, action, self.draw("normal", "a2pr/decode", len(s), self.latent))
            ours, theirs = self.q(s, decoded), self.q(s, a)
            target = torch.where((ours > theirs)[:, None], decoded, a)
            imitated = torch.maximum(ours, theirs) > self.value(s)
            self.shares.append((float((ours > theirs).double().mean()), float(imitated.double().mean())))
        q = self.critics[0](s, action)
        imitation = (self.weight * imitated[:, None] * (action - target).square()).mean()
        return -alpha / q.abs().mean().detach() * q.mean() + imitation
