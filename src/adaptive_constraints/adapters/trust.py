"""Which rows of the data deserve trust: whole episodes that went well, or actions better than was to be expected.

Episodes are judged by what is known of whole recordings; `DatasetError` says where only pieces of them are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.core.preparation import Preparation, Pretraining
from adaptive_constraints.core.types import Average, Params, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.data import Dataset
from adaptive_constraints.networks import expectile_loss, init_mlp, mlp

HIDDEN = (256, 256)
LEARNING_RATE = 3e-4
PUBLISHED_STEPS, FEWEST_STEPS, STEPS_PER_ROW = 1_000_000, 100_000, 5
ROWS_AT_ONCE = 4_096
SEPARATE = 4.5
"""Distance of two groups of returns, in their standard deviations, from which they are two."""
FEWEST, SMALLEST_SHARE = 3, 0.03
"""Recordings in the smaller of two groups, and what part of all: fewer are the tail of one group."""
LEAST_VARIANCE = 1e-6
"""Variance that is taken of a group of equal returns, as a part of that of all returns."""


def by_return(data: Dataset, threshold: float) -> Tensor:
    """[N] bool: rows of recordings whose raw return lies above ``threshold``."""
    return _rows(data, data.episode_returns() > threshold)


def by_rank(data: Dataset, fraction: float) -> Tensor:
    """[N] bool: rows of the best ``fraction`` of recordings by raw return, at least one; ties with the last are in."""
    returns = data.episode_returns()
    last = np.sort(returns)[-max(1, round(fraction * len(returns)))]
    return _rows(data, returns >= last)


def by_separation(data: Dataset) -> Tensor:
    """[N] bool: rows of the upper group of recordings, where raw returns fall into two separate groups; else all."""
    cut = separation(data.episode_returns())
    if cut is None:
        return torch.ones(len(data), dtype=torch.bool)
    return _rows(data, data.episode_returns() > cut)


def separation(returns: NDArray[np.floating]) -> float | None:
    """The middle of the gap between two groups of returns [E]; None where they are one group.

    The groups are the two normal distributions that make the returns likeliest, each return counted to one of them
    (Kittler and Illingworth, "Minimum error thresholding", 1986), so that a few good episodes are found among many bad
    ones of a wide spread. A group has at least `FEWEST` recordings and `SMALLEST_SHARE` of them all. They are separate
    where their means lie at least `SEPARATE` of their standard deviations apart (Ashman's D): cutting a single group
    in two gives 3.5 where a hundred returns are normal and 3.2 where they are uniform, and more than 4.5 in one case of
    a hundred. And the upper group must be no more than half: where most episodes are good, the others differ from them
    by luck more often than by behaviour, and to let go of them lowers scores (`scripted:pendulum/weak`, draw 107: 96 to
    88).
    """
    ordered = np.sort(returns.astype(np.float64))
    total = len(ordered)
    fewest = max(FEWEST, math.ceil(SMALLEST_SHARE * total))
    if total < 2 * fewest or ordered[fewest - 1] == ordered[-fewest]:
        return None
    ordered = (ordered - ordered.mean()) / ordered.std()  # so that squares keep their digits
    below = np.arange(fewest, total - fewest + 1)
    above = total - below
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    low, high = sums[below - 1] / below, -sums[below - 1] / above
    low_variance = np.maximum(squares[below - 1] / below - low**2, LEAST_VARIANCE)
    high_variance = np.maximum((squares[-1] - squares[below - 1]) / above - high**2, LEAST_VARIANCE)
    # Twice the negative logarithm of the likelihood, less a constant.
    unlikeliness = below * np.log(low_variance / below**2) + above * np.log(high_variance / above**2)
    at = int(np.argmin(np.where(ordered[below - 1] < ordered[below], unlikeliness, np.inf)))
    spread = np.sqrt((low_variance[at] + high_variance[at]) / 2)
    if high[at] - low[at] < SEPARATE * spread or above[at] > total / 2:
        return None
    return float(np.sort(returns.astype(np.float64))[below[at] - 1 : below[at] + 1].mean())


def by_success(data: Dataset) -> Tensor:
    """[N] bool: rows of recordings that reached the goal (`Dataset.episode_success`)."""
    return torch.from_numpy(data.column("success") > 0)


def _rows(data: Dataset, episodes: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.repeat(episodes, data.episode_lengths()))


@dataclass(frozen=True)
class Advantage:
    """Rows with min_j Q_j(s, a) >= V(s) under the critics of implicit Q-learning, trained before step 1 (no policy)."""

    expectile: float
    steps: int
    discount: float

    @staticmethod
    def steps_for(rows: int) -> int:
        """Five minibatches per row, within 100,000 and the paper's 1,000,000, which its data sets all come to."""
        return min(max(STEPS_PER_ROW * rows, FEWEST_STEPS), PUBLISHED_STEPS)

    def select(self, preparation: Preparation, name: str) -> Tensor:
        """[S, N] bool; each seed trains critics of its own. ``name`` keys noise and cache."""

        def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
            init = partial(self.init, preparation.spec)
            fit = preparation.model(name, init, (self.stage(),), steps=self.steps, seeds=seeds)
            pretraining.run(fit, self.steps)
            return {"trusted": self.trusted(fit.params, preparation.table)}

        settings = {"expectile": self.expectile, "steps": self.steps, "discount": self.discount}
        return preparation.trained(name, settings, train, steps=self.steps)["trusted"]

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        """V and twin critics of one seed."""
        value = init_mlp((spec.observation_dim, *HIDDEN, 1), generator)
        critic = init_mlp((spec.observation_dim + spec.action_dim, *HIDDEN, 1), generator, ensemble=(2,))
        return {"value": value, "critic": critic}

    def stage(self) -> Stage:
        """V and the critics step at once: the critics' target has V from before its step."""
        updates = (Update("value", self.value_loss, LEARNING_RATE), Update("critic", self.critic_loss, LEARNING_RATE))
        return Stage("advantage", updates, averages=(Average("critic"),))

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """V: [..., N, D] -> [..., N]."""
        return mlp(p, observation).squeeze(-1)

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Q_1, Q_2 at (s, a): [..., 2, N]."""
        return mlp(p, torch.cat([observation, action], -1)).squeeze(-1)

    def value_loss(self, p: Params, v: View) -> Tensor:
        """Expectile regression of V(s) on min_j Q'_j(s, a)."""
        q = self.q(v.target["critic"], v.s, v.a).amin(0)
        return expectile_loss(q - self.value(p, v.s), self.expectile).mean()

    def critic_loss(self, p: Params, v: View) -> Tensor:
        """Squared error to r + discount * (1 - terminal) * V(s'), averaged over the critics."""
        target = v.r + self.discount * (1 - v.d) * self.value(v.p["value"], v.s2)
        return (self.q(p, v.s, v.a) - target).square().mean()

    @torch.no_grad()
    def trusted(self, params: dict[str, Params], table: dict[str, Tensor]) -> Tensor:
        """min_j Q_j(s, a) >= V(s), the critics themselves and not their averages; [S, N] bool."""
        device = params["value"]["weight0"].device
        columns = (torch.split(table[name], ROWS_AT_ONCE) for name in ("observation", "action"))
        parts = []
        for observation, action in zip(*columns, strict=True):
            s, a = observation.to(device), action.to(device)
            parts.append(self.q(params["critic"], s, a).amin(1) >= self.value(params["value"], s))
        return torch.cat(parts, 1)
