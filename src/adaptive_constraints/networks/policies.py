"""Policies in closed form, as pure functions of what a network puts out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

LARGEST_ACTION = 1 - 1e-6
"""Actions given to a density are clipped to +-this: the inverse of tanh is infinite at +-1."""


class TanhGaussian(NamedTuple):
    """tanh(x), x ~ N(mean, exp(log_std)^2) in each dimension: the policy of soft actor-critic."""

    mean: Tensor
    """[..., B, A], before the tanh."""
    log_std: Tensor
    """[..., B, A], before the tanh."""

    @property
    def std(self) -> Tensor:
        """[..., B, A], before the tanh."""
        return self.log_std.exp()

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The actions that standard normal ``noise`` [..., B, A] leads to, and their log-density per dimension.

        Gradient flows to mean and log_std through both.
        """
        x = self.mean + self.std * noise
        return torch.tanh(x), self._log_density(x, noise)

    def log_density(self, action: Tensor) -> Tensor:
        """Log-density per dimension at actions [..., B, A], clipped to where it is finite."""
        x = torch.atanh(action.clamp(-LARGEST_ACTION, LARGEST_ACTION))
        return self._log_density(x, (x - self.mean) / self.std)

    def _log_density(self, x: Tensor, standard: Tensor) -> Tensor:
        """log N(x) - log(d tanh(x)/dx), where log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)) loses no digits."""
        normal = -standard.square() / 2 - self.log_std - math.log(2 * math.pi) / 2
        return normal - 2 * (math.log(2) - x - softplus(-2 * x))
