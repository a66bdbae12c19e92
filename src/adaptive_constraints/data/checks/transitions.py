"""Rows whose next observation is not what followed: joins of recordings, impossible steps, ends that stand still."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.checks.steps import outlying_steps
from adaptive_constraints.data.columns import chunks
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.recordings import differ

Array = NDArray[Any]

#: How improbable it must be that so many recordings happen to stand still where they were cut.
_IMPROBABLE = 1e-2


def last_rows(dataset: Dataset) -> Array:
    """[E] last row of each episode."""
    return np.append(dataset.episode_starts[1:], len(dataset)) - 1


def is_last_row(dataset: Dataset) -> Array:
    """[N] bool."""
    mask = np.zeros(len(dataset), bool)
    mask[last_rows(dataset)] = True
    return mask


def joins(dataset: Dataset) -> Array:
    """[N] bool: an unmarked row whose next observation is not where the following row of its episode starts."""
    mask = np.zeros(len(dataset), bool)
    rows = np.flatnonzero(~dataset.episode_ends)
    mask[rows] = differ(dataset.next_observations, dataset.observations, rows, rows + 1)
    return mask


def impossible_steps(dataset: Dataset) -> Array:
    """Numbers of the rows that step farther than a recording does, so into another one; terminal rows are left out."""
    rows = np.flatnonzero(~dataset.terminals)
    before, after = dataset.observations, dataset.next_observations
    return outlying_steps(lambda r: before[r], lambda r: after[r], rows)


def repeated_ends(dataset: Dataset) -> Array:
    """Numbers of the rows that end an episode without a true end and have themselves as next observation.

    Empty where states often stand still; an end after a row that stood still is no such row.
    """
    cut = last_rows(dataset)
    cut = cut[~dataset.terminals[cut]]
    still = np.zeros(len(dataset), bool)
    for part in chunks(len(dataset)):
        still[part] = (dataset.observations[part] == dataset.next_observations[part]).all(axis=1)
    first = np.zeros(len(dataset), bool)
    first[dataset.episode_starts] = True
    moved = np.append(True, ~still[:-1]) | first  # before this row
    inside = ~dataset.episode_ends & moved
    share = (int((still & inside).sum()) + 1) / (int(inside.sum()) + 2)
    repeated, tried = cut[(still & moved)[cut]], int(moved[cut].sum())
    return repeated if len(repeated) and _chance(len(repeated), tried, share) < _IMPROBABLE else cut[:0]


def _chance(at_least: int, tries: int, share: float) -> float:
    """Probability of so many successes or more, each of probability ``share``."""
    if at_least > 2 * share * tries + 20:
        return 0.0
    if tries > 1000:  # far from the middle, where the terms below are too large for a float
        return 1.0
    return sum(comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in range(at_least, tries + 1))
