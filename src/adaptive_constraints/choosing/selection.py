"""Choosing by a few rollouts: what a bandit finds, as in Unifloral (Jackson et al., 2025, arXiv 2504.11453).

Whoever may try their policies N times in the environment will not try each of them equally often: UCB1 (Auer et al.,
2002) tries next the one whose mean return could still be the highest. Played many times over on a pool of recorded
returns, that says how good the policy is that N rollouts choose. Pure functions of returns; numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.bounds import Above, AtLeast

RESAMPLES, LEVEL = 500, 0.95
"""Resamples of the bootstrap, and the share of them that an interval holds."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What a bandit chooses after 1, 2, ... N rollouts, over T trials.

    expected: [N] the mean return of the chosen policy, averaged over trials.
    low, high: [N] ends of its 95 % bootstrap interval over the recorded episodes and the trials.
    best: the highest mean return of all policies: what choosing could reach.
    typical: their average: what choosing blindly gives.
    chosen: [T, N] which policy each trial would have chosen.
    """

    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    best: float
    typical: float
    chosen: NDArray[np.int64]


@checked(EvaluationError)
def select(
    returns: ArrayLike,
    rollouts: Annotated[int, AtLeast(1)] = 100,
    *,
    among: Annotated[int, AtLeast(1)] | None = None,
    trials: Annotated[int, AtLeast(1)] = 500,
    exploration: Annotated[float, Above(0)] = 2.0,
    seed: Annotated[int, AtLeast(0)] = 0,
) -> Selection:
    """Play a bandit over policies, whose rollouts are drawn from recorded returns, with replacement.

    returns: [C, E] undiscounted returns of E episodes of each of C policies.
    rollouts: N, how many are made in all.
    among: how many of the policies each trial chooses among, drawn anew for each; None: all.
    trials: T, how often it is played.
    exploration: c of the bonus sqrt(c log n / n_i), in units of the pooled standard deviation of a policy's returns.

    A policy that was never tried comes first; the chosen one has the highest mean so far, and of equals the first. The
    episodes that choose are those that tell how good the choice is, so that with few of them the end of the curve
    flatters a little. Raises `EvaluationError` for returns that are not finite or not [C, E].

    >>> from adaptive_constraints.choosing import select
    >>> result = select([[0.0, 1.0], [9.0, 10.0]], rollouts=2)
    >>> result.best, result.typical, float(result.expected[-1])
    (9.5, 5.0, 9.5)
    """
    pool = np.asarray(returns, np.float64)
    if pool.ndim != 2 or not pool.size or not np.isfinite(pool).all():
        raise EvaluationError(
            f"select needs finite returns [policies, episodes], not an array of shape {list(pool.shape)}"
            + ("" if np.isfinite(pool).all() else " with numbers that are not finite: leave out policies that failed")
        )
    draw = np.random.default_rng(seed)
    chosen = _played(pool, rollouts, min(among or len(pool), len(pool)), trials, exploration, draw)
    means = pool.mean(1)
    low, high = _interval(pool, chosen, draw)
    return Selection(means[chosen].mean(0), low, high, float(means.max()), float(means.mean()), chosen)


def _played(
    pool: NDArray[np.float64], rollouts: int, among: int, trials: int, exploration: float, draw: np.random.Generator
) -> NDArray[np.int64]:
    """[T, N] the policy with the highest mean after each rollout, in all trials at once."""
    policies, episodes = pool.shape
    arms = draw.permuted(np.tile(np.arange(policies), (trials, 1)), axis=1)[:, :among]
    unit = exploration * float(pool.var(1).mean())
    sums, counts = np.zeros((trials, among)), np.zeros((trials, among))
    every, chosen = np.arange(trials), np.empty((trials, rollouts), np.int64)
    for rollout in range(rollouts):
        with np.errstate(divide="ignore", invalid="ignore"):
            upper = sums / counts + np.sqrt(unit * np.log(max(rollout, 1)) / counts)
        arm = np.where(counts == 0, np.inf, upper).argmax(1)  # arms stand in random order: that breaks ties
        sums[every, arm] += pool[arms[every, arm], draw.integers(episodes, size=trials)]
        counts[every, arm] += 1
        means = np.where(counts == 0, -np.inf, sums / np.maximum(counts, 1))
        chosen[:, rollout] = arms[every, means.argmax(1)]
    return chosen


def _interval(
    pool: NDArray[np.float64], chosen: NDArray[np.int64], draw: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N] each: the expected return with the recorded episodes and the trials drawn anew, the choices as they are."""
    (policies, episodes), trials = pool.shape, len(chosen)
    expected = np.empty((RESAMPLES, chosen.shape[1]))
    for resample in range(RESAMPLES):
        means = np.take_along_axis(pool, draw.integers(episodes, size=(policies, episodes)), 1).mean(1)
        expected[resample] = means[chosen[draw.integers(trials, size=trials)]].mean(0)
    low, high = np.quantile(expected, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


__all__ = ["Selection", "select"]
