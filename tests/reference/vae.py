"""The conditional autoencoder of SPOT (arXiv 2202.06239) and A2PR as an ordinary module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from .common import Network, take


class PlainVAE(nn.Module):
    """Actions [B, A] at states [B, O] by way of a latent [B, L]."""

    def __init__(self, states: int, actions: int, latent: int, width: int) -> None:
        super().__init__()
        self.encoder = Network(states + actions, width, width, 2 * latent)
        self.decoder = Network(states + latent, width, width, actions, last=[nn.Tanh()])

    def posterior(self, s: Tensor, a: Tensor) -> Normal:
        mean, log_std = self.encoder(s, a).chunk(2, 1)
        return Normal(mean, log_std.clamp(-4, 15).exp())

    def forward(self, s: Tensor, a: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the divergence per latent dimension."""
        posterior = self.posterior(s, a)
        u = self.decoder(s, posterior.mean + posterior.stddev * draw)
        return u, kl_divergence(posterior, Normal(torch.zeros_like(draw), torch.ones_like(draw)))


def plain_vae(params: Mapping[str, Tensor]) -> PlainVAE:
    """The module of these parameters of one seed."""
    latent = params["encoder.bias2"].shape[0] // 2
    width, actions = params["decoder.weight2"].shape
    model = PlainVAE(params["decoder.weight0"].shape[0] - latent, actions, latent, width).to(params["encoder.bias0"])
    take(model.encoder, params, "encoder.")
    take(model.decoder, params, "decoder.")
    return model
