"""A conditional variational autoencoder of actions, as pure functions of a flat dict of tensors.

The encoder q(z|s, a) is a diagonal Gaussian, z is standard normal a priori, and the decoder gives the mean of
p(a|s, z), within [-1, 1]. Both are perceptrons with two hidden ReLU layers, as in BCQ (arXiv 1812.02900).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adaptive_constraints.networks.mlp import Params, init_mlp, mlp

SMALLEST_LOG_STD, LARGEST_LOG_STD = -4.0, 15.0
"""Bounds of the encoder's log standard deviation."""


class Posterior(NamedTuple):
    """q(z|s, a), a diagonal Gaussian over L latent dimensions."""

    mean: Tensor
    """[B, L]"""
    log_std: Tensor
    """[B, L]"""

    def sample(self, noise: Tensor) -> Tensor:
        """The latents that standard normal ``noise`` [..., B, L] leads to."""
        return self.mean + self.log_std.exp() * noise

    def divergence(self) -> Tensor:
        """KL(q || N(0, 1)) per dimension [B, L]."""
        return (self.mean.square() + (2 * self.log_std).exp() - 1) / 2 - self.log_std

    def log_ratio(self, noise: Tensor) -> Tensor:
        """log p(z) - log q(z|s, a) per dimension [..., B, L], at the latents of `sample`."""
        return (noise.square() - self.sample(noise).square()) / 2 + self.log_std


def init_action_vae(
    observation_dim: int, action_dim: int, latent_dim: int, hidden: int, generator: torch.Generator
) -> Params:
    """Parameters of encoder and decoder, torch's default initialisation."""
    encoder = init_mlp((observation_dim + action_dim, hidden, hidden, 2 * latent_dim), generator)
    decoder = init_mlp((observation_dim + latent_dim, hidden, hidden, action_dim), generator)
    return {f"encoder.{n}": t for n, t in encoder.items()} | {f"decoder.{n}": t for n, t in decoder.items()}


def encode_action(p: Params, observation: Tensor, action: Tensor) -> Posterior:
    """q(z|s, a) at observations [B, D] and actions [B, A]."""
    mean, log_std = mlp(_part(p, "encoder."), torch.cat([observation, action], -1)).chunk(2, -1)
    return Posterior(mean, log_std.clamp(SMALLEST_LOG_STD, LARGEST_LOG_STD))


def decode_action(p: Params, observation: Tensor, latent: Tensor) -> Tensor:
    """The mean of p(a|s, z) [..., B, A] at observations [B, D] and latents [..., B, L]."""
    observation = observation.expand(*latent.shape[:-1], -1)
    return torch.tanh(mlp(_part(p, "decoder."), torch.cat([observation, latent], -1)))


def reconstruct(p: Params, observation: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The squared error of each action's reconstruction and the divergence of its posterior, each [B].

    Both are means over dimensions; ``noise`` [B, L] is standard normal.
    """
    posterior = encode_action(p, observation, action)
    error = decode_action(p, observation, posterior.sample(noise)) - action
    return error.square().mean(-1), posterior.divergence().mean(-1)


def _part(p: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): tensor for name, tensor in p.items() if name.startswith(prefix)}
