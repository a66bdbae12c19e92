"""Denoising diffusion of actions given observations, as pure functions: the model of Diffusion-QL (arXiv 2208.06193).

Noise is added to an action in a few steps until nothing of it is left; a network that predicts the noise runs the
steps backwards. Steps are counted from 0, the one that adds least. Leading dimensions are free as in `mlp`: those of
the parameters, of the observations and of several samples per observation broadcast.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from adaptive_constraints.networks.mlp import Params, init_mlp, mlp

EMBEDDING = 16
"""Numbers that stand for a step, before and after the layers that refine them."""
LOWEST_FREQUENCY = 1e-4
"""Lowest frequency of the sinusoidal embedding; the highest is 1."""


@dataclass(frozen=True)
class VariancePreserving:
    """The variance-preserving schedule of noise, after Song et al. (arXiv 2011.13456), as numbers by step."""

    steps: int = 5
    """Steps of the chain, T."""
    smallest: float = 0.1
    """The rate of noise at the start of the continuous process."""
    largest: float = 10.0
    """The rate of noise at its end."""

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """1 - alpha_t, alpha_t = exp(-b_min / T - (b_max - b_min) (2t - 1) / (2 T^2)) for t = 1 .. T."""
        constant, slope = self.smallest / self.steps, (self.largest - self.smallest) / (2 * self.steps**2)
        return tuple(-math.expm1(-constant - slope * (2 * t - 1)) for t in range(1, self.steps + 1))

    @cached_property
    def alpha_bars(self) -> tuple[float, ...]:
        """The products of alpha up to each step: how much of the action's variance is left."""
        return tuple(itertools.accumulate((1 - beta for beta in self.betas), lambda left, alpha: left * alpha))

    def step_at(self, uniform: Tensor) -> Tensor:
        """The steps, int64, at uniform draws in [0, 1): all equally likely."""
        return (uniform * self.steps).long().clamp(max=self.steps - 1)


def init_noise_network(observation_dim: int, action_dim: int, generator: torch.Generator, hidden: int = 256) -> Params:
    """Three hidden layers on [x_t, embedding of t, observation], and two that refine the embedding (``time_...``)."""
    trunk = init_mlp((action_dim + EMBEDDING + observation_dim, hidden, hidden, hidden, action_dim), generator)
    time = init_mlp((EMBEDDING, 2 * EMBEDDING, EMBEDDING), generator)
    return trunk | {f"time_{name}": tensor for name, tensor in time.items()}


def predict_noise(p: Params, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
    """eps(x, t, s): the noise [..., N, A] in x [..., N, A] at steps t, int64 [N], given observations [..., N, D]."""
    return _noise(p, x, _embedding(p, t, x.dtype), observation)


def noise_error(
    p: Params, schedule: VariancePreserving, action: Tensor, observation: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean over dimensions of (eps(sqrt(abar_t) a + sqrt(1 - abar_t) noise, t, s) - noise)^2; [..., N].

    ``action`` and ``noise`` [..., N, A], ``observation`` [..., N, D], ``t`` int64 [N].
    """
    # filled on the device: a copy from the host cannot be recorded in a graph
    left = torch.stack([action.new_full((), bar) for bar in schedule.alpha_bars])[t].unsqueeze(-1)
    x = left.sqrt() * action + (1 - left).sqrt() * noise
    return (predict_noise(p, x, t, observation) - noise).square().mean(-1)


def denoise(p: Params, schedule: VariancePreserving, observation: Tensor, start: Tensor, noises: Tensor) -> Tensor:
    """Actions [..., N, A] in [-1, 1]: the end of the reverse chain that starts at ``start`` [..., N, A].

    ``noises`` [T - 1, ..., N, A] are those of all steps but the last, which adds none.
    """
    embeddings = _embedding(p, torch.arange(schedule.steps, device=start.device), start.dtype)
    x = start
    for t in reversed(range(schedule.steps)):
        noise = _noise(p, x, embeddings[..., t : t + 1, :], observation)
        x = _posterior_mean(schedule, x, noise, t)
        if t > 0:
            x = x + _posterior_std(schedule, t) * noises[schedule.steps - 1 - t]
    return x.clamp(-1, 1)


def _posterior_mean(schedule: VariancePreserving, x: Tensor, noise: Tensor, t: int) -> Tensor:
    """E[x_{t-1} | x_t, x_0] at the x_0, limited to [-1, 1], that the predicted noise implies."""
    beta, left, before = schedule.betas[t], schedule.alpha_bars[t], _left_before(schedule, t)
    x0 = ((x - math.sqrt(1 - left) * noise) / math.sqrt(left)).clamp(-1, 1)
    return (beta * math.sqrt(before) / (1 - left)) * x0 + ((1 - before) * math.sqrt(1 - beta) / (1 - left)) * x


def _posterior_std(schedule: VariancePreserving, t: int) -> float:
    return math.sqrt(schedule.betas[t] * (1 - _left_before(schedule, t)) / (1 - schedule.alpha_bars[t]))


def _left_before(schedule: VariancePreserving, t: int) -> float:
    return schedule.alpha_bars[t - 1] if t > 0 else 1.0


def _noise(p: Params, x: Tensor, embedding: Tensor, observation: Tensor) -> Tensor:
    """The trunk; ``embedding`` [..., N, 16], or [..., 1, 16] of one step for all rows."""
    parts = x, embedding, observation
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))  # type: ignore[no-untyped-call]
    return mlp(p, torch.cat([part.expand(*leading, -1) for part in parts], -1), functional.mish)


def _embedding(p: Params, t: Tensor, dtype: torch.dtype) -> Tensor:
    """sinusoidal(16) -> 32 -> Mish -> 16 of steps t [N]; [..., N, 16]."""
    half = EMBEDDING // 2
    frequencies = torch.exp(
        torch.arange(half, device=t.device, dtype=dtype) * (math.log(LOWEST_FREQUENCY) / (half - 1))
    )
    angles = t.unsqueeze(-1).to(dtype) * frequencies
    layers = {name.removeprefix("time_"): tensor for name, tensor in p.items() if name.startswith("time_")}
    return mlp(layers, torch.cat([angles.sin(), angles.cos()], -1), functional.mish)
