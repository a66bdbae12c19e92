"""An ensemble of probabilistic networks that predict a transition, as pure functions: the model of MOPO (2005.13239).

Each of E members predicts a Gaussian over (next observation - observation, reward) from (observation, action). The log-
variance is held softly between two learned bounds, which all members share. Leading dimensions as in `mlp`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from adaptive_constraints.networks.mlp import Params, init_mlp, mlp

HIDDEN_LAYERS = 4
WEIGHT_DECAYS = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
"""Weight decay of each layer's weights, from the input to the output."""
BOUNDS_WEIGHT = 0.01
"""Weight of the distance between the two bounds of the log-variance, which the loss draws together."""


class Prediction(NamedTuple):
    """Gaussians over (change of the observation, reward); the last dimension is D + 1."""

    mean: Tensor
    """[E, N, D + 1]"""
    log_variance: Tensor
    """[E, N, D + 1]"""

    def first(self, count: int) -> Prediction:
        """The predictions of the first ``count`` members."""
        return Prediction(self.mean[:count], self.log_variance[:count])

    def draw(self, member: Tensor, noise: Tensor) -> Tensor:
        """One member's draw per row, [N, D + 1]: ``member`` uniform in [0, 1) picks it, [N]; ``noise`` [N, D + 1]."""
        members = len(self.mean)
        picked = (member * members).long().clamp(max=members - 1)[None, :, None].expand(1, *noise.shape)
        mean, log_variance = (tensor.gather(0, picked)[0] for tensor in self)
        return mean + (log_variance / 2).exp() * noise

    def largest_deviation(self) -> Tensor:
        """The largest norm over members of the predicted standard deviation, [N]."""
        return self.log_variance.exp().sum(-1).amax(0).sqrt()


def init_dynamics(
    observation_dim: int, action_dim: int, generator: torch.Generator, members: int = 7, hidden: int = 200
) -> Params:
    """Weights from a normal of std 1 / (2 sqrt(inputs)), cut at two of them, and biases 0; bounds e^-10 and e^0.5."""
    outputs = observation_dim + 1
    sizes = (observation_dim + action_dim, *[hidden] * HIDDEN_LAYERS, 2 * outputs)
    params = init_mlp(sizes, generator, ensemble=(members,), initializers=_truncated_normal)
    bounds = {
        "largest_log_variance": torch.full((outputs,), 0.5),
        "smallest_log_variance": torch.full((outputs,), -10.0),
    }
    return params | bounds


def predict_transition(p: Params, inputs: Tensor) -> Prediction:
    """Each member's prediction from standardised (observation, action) [..., N, D + A]."""
    mean, raw = mlp(p, inputs, silu).chunk(2, -1)
    largest, smallest = p["largest_log_variance"], p["smallest_log_variance"]
    below = largest - softplus(largest - raw)
    return Prediction(mean, smallest + softplus(below - smallest))


def first_members(p: Params, count: int) -> Params:
    """The parameters of the first ``count`` members alone."""
    return {name: t[:count] if name.startswith(("weight", "bias")) else t for name, t in p.items()}


def dynamics_loss(p: Params, inputs: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood summed over members, weight decay, and the distance of the bounds; [].

    ``inputs`` [E, N, D + A] standardised, ``target`` [E, N, D + 1].
    """
    mean, log_variance = predict_transition(p, inputs)
    likelihood = ((mean - target).square() * (-log_variance).exp() + log_variance).mean((-2, -1)).sum()
    decay = sum(c * p[f"weight{layer}"].square().sum() / 2 for layer, c in enumerate(WEIGHT_DECAYS))
    distance = (p["largest_log_variance"] - p["smallest_log_variance"]).sum()
    return likelihood + decay + BOUNDS_WEIGHT * distance


def _truncated_normal(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    std = 1 / (2 * shape[-2] ** 0.5)
    weight = torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)
    return weight, torch.zeros(*shape[:-2], shape[-1])
