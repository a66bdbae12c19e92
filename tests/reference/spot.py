"""SPOT on TD3: the behaviour's density stands for the constraint."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from adaptive_constraints import Dataset
from adaptive_constraints.engine.engine import Engine

from .common import one
from .td3bc import PlainTD3BC
from .vae import plain_vae


class PlainSPOT(PlainTD3BC):
    """TD3 with the density for a constraint, at 2.5 times the published objective."""

    def __init__(self, engine: Engine, data: Dataset, weight: float) -> None:
        super().__init__(engine, data)
        self.weight = weight
        self.vae = plain_vae(one(engine.frozen["spot"], self.position))

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        draw = self.draw("normal", "spot/latent", 1, len(a), 2 * self.dims)[0]
        u, divergence = self.vae(s, action, draw)
        neg_log_beta = mse_loss(u, action) + 0.5 * divergence.mean()
        q = self.critics[0](s, action)
        return alpha * (-q.mean() / q.abs().mean().detach() + self.weight * neg_log_beta)
