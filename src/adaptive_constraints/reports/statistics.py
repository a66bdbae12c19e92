"""How good, and how sure: the statistics of reports, as Agarwal et al. define them (arXiv 2108.13264, ``rliable``).

Scores come as *strata*: one array per data set, whose last axis holds its seeds. A bootstrap draws seeds anew within
each data set and never across, because data sets are chosen and seeds are drawn. Where a data set was itself drawn
several times from one recipe, the draws are drawn anew too, and then seeds within each (a hierarchical bootstrap): a
finding has to survive another data set as well as another seed. Numpy only.

An interval from few seeds says little. Two seeds give the range between them, whatever the level: for one data set
that covers the true mean about half the time. Four seeds give about 80 % where 95 % is asked for, ten about 90 %. A
test holds those shares; `docs/reports.md` says how to read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values: TypeAlias = NDArray[np.float64]
Strata: TypeAlias = Sequence[Values]
"""One array [..., N] per data set: N seeds, after any axes of resamples."""
Draws: TypeAlias = Sequence[NDArray[np.int64]]
"""One array [N] per data set: the draw of the data that each seed was trained on."""
Statistic: TypeAlias = Callable[[Strata], Values]
"""From strata with leading axes [...] to [..., *shape of the statistic]."""

RESAMPLES, LEVEL = 2_000, 0.95
FEW_PAIRS = 12
"""Up to so many pairs, all 2^N ways to turn their differences round are looked at."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of some seeds.

    value: the statistic of the scores as they are.
    low, high: ends of its bootstrap interval; None where a data set has one seed, which cannot say how seeds vary.
    n: how many seeds or pairs it is of, over all data sets.
    """

    value: float
    low: float | None
    high: float | None
    n: int


# -- statistics ---------------------------------------------------------------------------------------------------


def interquartile_mean(values: ArrayLike) -> Values:
    """The mean of the middle half [..., N] -> [...]: floor(N / 4) values are left out at either end.

    Of three values or fewer it is the plain mean. Raises `ValueError` without any value.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    count = ordered.shape[-1]
    if count == 0:
        raise ValueError("an interquartile mean needs at least one value")
    cut = count // 4
    middle: Values = ordered[..., cut : count - cut].mean(axis=-1)
    return middle


def pooled_interquartile_mean(strata: Strata) -> Values:
    """The interquartile mean over the seeds of all data sets together."""
    return interquartile_mean(np.concatenate(strata, axis=-1))


def mean_of_means(strata: Strata) -> Values:
    """The mean over data sets of the mean over seeds: each data set counts alike, however many seeds it has."""
    return _average([values.mean(axis=-1) for values in strata])


def profile(thresholds: ArrayLike) -> Statistic:
    """The performance profile at ``thresholds`` [T]: the share of seeds above each, averaged over data sets."""
    limits = np.asarray(thresholds, np.float64)

    def shares(strata: Strata) -> Values:
        return _average([(values[..., None, :] > limits[:, None]).mean(axis=-1) for values in strata])

    return shares


def _average(values: Sequence[Values]) -> Values:
    mean: Values = np.mean(np.stack(values), axis=0)
    return mean


# -- how sure -----------------------------------------------------------------------------------------------------


def bootstrap(
    strata: Strata,
    statistic: Statistic,
    *,
    draws: Draws | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Values, Values]:
    """Ends of the stratified percentile bootstrap interval of ``statistic``, each of the statistic's shape.

    draws: the draw of the data that each seed was trained on; None: all on the same.

    Equal scores give equal intervals: what is drawn depends on ``seed`` and the strata's sizes and draws alone.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(
        resampled(strata, statistic, draws=draws, resamples=resamples, seed=seed), [tail, 1 - tail], 0
    )
    return low, high


def resampled(
    strata: Strata, statistic: Statistic, *, draws: Draws | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """The statistic [resamples, ...] of seeds, and of draws of the data, drawn anew."""
    generator = np.random.default_rng(seed)
    groups = draws or [np.zeros(len(values), np.int64) for values in strata]
    return statistic([values[_drawn(of, resamples, generator)] for values, of in zip(strata, groups, strict=True)])


def _drawn(draws: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions [resamples, N]: each draw of the data is replaced by any, each seed by any of its new draw's."""
    _, group = np.unique(draws, return_inverse=True)
    sizes = np.bincount(group)
    if len(sizes) == 1:
        return generator.integers(len(draws), size=(resamples, len(draws)))
    ordered, first = np.argsort(group, kind="stable"), np.cumsum(sizes) - sizes
    chosen = generator.integers(len(sizes), size=(resamples, len(sizes)))[:, group]
    positions: NDArray[np.int64] = ordered[first[chosen] + generator.integers(sizes[chosen])]
    return positions


def estimate(
    strata: Strata,
    statistic: Statistic = pooled_interquartile_mean,
    *,
    draws: Draws | None = None,
    level: float = LEVEL,
) -> Estimate:
    """A scalar statistic of ``strata`` (one array [N] per data set) with its interval, by default of 95 %."""
    count = sum(len(values) for values in strata)
    value = float(statistic(strata))
    if min(len(values) for values in strata) < 2:
        return Estimate(value, None, None, count)
    low, high = bootstrap(strata, statistic, draws=draws, level=level)
    return Estimate(value, float(low), float(high), count)


def paired_difference(strata: Strata, *, draws: Draws | None = None) -> Estimate:
    """The mean difference of pairs that share a seed, from one array of differences [N] per data set.

    Each data set counts alike. Whole pairs are drawn anew, so what a pair's two runs share cancels.
    """
    return estimate(strata, mean_of_means, draws=draws)


def paired_improvement(ours: Strata, theirs: Strata, *, draws: Draws) -> Estimate:
    """P(X > Y), averaged over data sets: every seed of X meets every seed of Y of that draw, equal scores count half.

    Whole pairs are drawn anew: a hard draw of the data is hard for both.
    """

    def chance(pairs: Strata) -> Values:
        found = []
        for x, y, of, number in zip(ours, theirs, draws, pairs, strict=True):
            taken = number.astype(np.int64)
            alike = of[taken][..., :, None] == of[taken][..., None, :]
            wins = np.sign(x[taken][..., :, None] - y[taken][..., None, :]) / 2 + 0.5
            found.append((wins * alike).sum((-2, -1)) / alike.sum((-2, -1)))
        return _average(found)

    return estimate([np.arange(len(of), dtype=np.float64) for of in ours], chance, draws=draws)


def paired_share(ours: Strata, theirs: Strata, *, draws: Draws | None = None) -> Estimate:
    """The mean over data sets of ours, divided by that of theirs, from one array of scores [N] per data set of each.

    Whole pairs are drawn anew: a hard draw of the data is hard for both.
    """

    def share(pairs: Strata) -> Values:
        taken = [number.astype(np.int64) for number in pairs]
        means = [mean_of_means([of[k] for of, k in zip(side, taken, strict=True)]) for side in (ours, theirs)]
        return np.asarray(means[0] / means[1])

    return estimate([np.arange(len(of), dtype=np.float64) for of in ours], share, draws=draws)


def p_value(strata: Strata, *, draws: Draws | None = None) -> float:
    """Two-sided p-value of a mean difference of 0; NaN where a data set has one pair, which cannot say how they vary.

    Of one data set with at most `FEW_PAIRS` pairs on one draw: the exact one of differences that are as likely to be
    the other way round (sign flips), at least 2 / 2^N. Otherwise by bootstrap, at least 1 / `RESAMPLES`.
    """
    if min(len(values) for values in strata) < 2:
        return math.nan
    few = len(strata) == 1 and len(strata[0]) <= FEW_PAIRS
    if few and (draws is None or len(np.unique(draws[0])) == 1):
        flips = np.array(list(product((-1.0, 1.0), repeat=len(strata[0]))))
        sums = np.abs(flips @ strata[0])
        return float((sums >= abs(strata[0].sum()) * (1 - 1e-12)).mean())
    means = resampled(strata, mean_of_means, draws=draws)
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return float(min(1.0, max(2 * tail, 1 / len(means))))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several (Holm, 1979): compare each with the level that one alone would have.

    NaN, which is no p-value, stays as it is and does not count.
    """
    order = [int(position) for position in np.argsort(p_values) if not math.isnan(p_values[position])]
    count, largest = len(order), 0.0
    corrected = [math.nan] * len(p_values)
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


__all__ = [
    "Estimate",
    "bootstrap",
    "estimate",
    "holm",
    "interquartile_mean",
    "mean_of_means",
    "p_value",
    "paired_difference",
    "paired_improvement",
    "paired_share",
    "pooled_interquartile_mean",
    "profile",
    "resampled",
]
