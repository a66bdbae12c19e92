"""How far observations move in a step: what is ordinary in a recording, and which steps no recording can have made.

A step from one recording into another moves most dimensions by about as much as two rows picked at random differ. That
shows in *slow* dimensions, which move little in a step compared with how far rows lie apart. Data without slow
dimensions (independent rows, one-hot cells) say nothing about their steps, and nothing is said about them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data._columns import SAMPLE, chunks

Array = NDArray[Any]

#: A dimension is slow if random rows differ in it by this many times its ordinary step.
_SLOW = 4.0
#: Fewer steps than this tell nothing.
FEWEST_STEPS = 30
#: Share of random pairs of rows that must be farther apart than an ordinary step, or steps tell nothing.
_POWER = 0.9
#: Outlying steps: how much longer than the longest ordinary one, how improbable as the tail of the ordinary ones, how
#: long compared with the distance of random rows, and in which share of the slow dimensions.
_GAP, _IMPROBABLE, _LONG, _DIMENSIONS = 2.0, 1e-6, 0.1, 0.75
#: At most this share of all steps can be outlying.
_FEW = 0.2


@dataclass(frozen=True)
class Steps:
    """Ordinary steps of K slow dimensions; sizes of steps are root mean squares over them, 1 being ordinary."""

    dimensions: Array  # [K]
    scale: Array  # [K] float64: median step
    upper: Array  # [K] float64: step that one in a hundred exceeds
    lowest: Array  # [K] float64
    highest: Array  # [K] float64
    limit: float  # size up to which a step is ordinary
    distance: float  # median size of a step between random rows
    power: float  # share of steps between random rows that are longer than ``limit``

    @property
    def tell(self) -> bool:
        """Whether a step into another recording would stand out."""
        return len(self.dimensions) > 0 and self.power >= _POWER

    def sizes(self, before: Array, after: Array) -> Array:
        """[M] sizes of the steps between rows [M, D]; 0 where a value is not finite."""
        moves = _moves(before[:, self.dimensions], after[:, self.dimensions]) / self.scale
        found: Array = np.sqrt(np.square(moves).mean(axis=1))
        return np.where(np.isfinite(found), found, 0.0)

    def jumped(self, before: Array, after: Array) -> Array:
        """[M] share of the slow dimensions in which a step is longer than ordinary ones and does not just wrap around.

        A value that goes from one end of its range to the other, as an angle does, has not jumped.
        """
        before, after = before[:, self.dimensions].astype(float), after[:, self.dimensions].astype(float)
        moves = _moves(before, after)
        wraps = moves >= (self.highest - self.lowest) - 2 * self.upper
        return ((moves > self.upper) & ~wraps).mean(axis=1)


def ordinary_steps(before: Callable[[Array], Array], after: Callable[[Array], Array], rows: Array) -> Steps | None:
    """What steps are ordinary in the given rows, by a sample of them; None where there are too few.

    ``before(rows)`` and ``after(rows)`` are the observations [M, D] on both sides of steps.
    """
    if len(rows) > SAMPLE:
        rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
    here, there = before(rows).astype(np.float64), after(rows).astype(np.float64)
    known = np.isfinite(here).all(axis=1) & np.isfinite(there).all(axis=1)
    here, there = here[known], there[known]
    if len(here) < FEWEST_STEPS:
        return None
    moves = _moves(here, there)
    other = np.random.default_rng(0).permutation(len(here))
    apart = _moves(here, here[other])
    scale = np.array([np.median(column[column > 0]) if column.any() else 0.0 for column in moves.T])
    slow = np.flatnonzero((scale > 0) & (np.median(apart, axis=0) >= _SLOW * scale))
    if not len(slow):
        none = scale[slow]
        return Steps(slow, none, none, none, none, limit=0.0, distance=0.0, power=0.0)
    sizes = np.sqrt(np.square(moves[:, slow] / scale[slow]).mean(axis=1))
    distances = np.sqrt(np.square(apart[:, slow] / scale[slow]).mean(axis=1))
    limit = 1.5 * float(np.quantile(sizes, 0.98))
    return Steps(
        dimensions=slow,
        scale=scale[slow],
        upper=np.quantile(moves[:, slow], 0.99, axis=0),
        lowest=here[:, slow].min(axis=0),
        highest=here[:, slow].max(axis=0),
        limit=limit,
        distance=float(np.median(distances)),
        power=float((distances > limit).mean()),
    )


def outlying_steps(before: Callable[[Array], Array], after: Callable[[Array], Array], rows: Array) -> Array:
    """Those of the given rows whose step is none that a recording makes; empty where steps do not tell.

    They stand apart from all others by a gap that the tail of ordinary steps does not explain, alone among ordinary
    neighbours, and in most slow dimensions at once (a contact changes velocities only).
    """
    steps = ordinary_steps(before, after, rows)
    if steps is None or not len(steps.dimensions):
        return rows[:0]
    sizes = np.zeros(len(rows), np.float32)
    for part in chunks(len(rows)):
        sizes[part] = steps.sizes(before(rows[part]), after(rows[part]))
    for threshold in _thresholds(sizes):
        outlying = sizes >= max(threshold, _LONG * steps.distance)
        found = rows[outlying & ~_beside(outlying, rows)]  # beside another, the recording itself moves fast
        share = steps.jumped(before(found), after(found))
        if len(found) and share.mean() < _DIMENSIONS:
            found = found[share >= _DIMENSIONS]
        if len(found):
            return found
    return rows[:0]


def _beside(mask: Array, rows: Array) -> Array:
    """[M] bool: the row before or after is in the mask too."""
    adjacent = rows[1:] == rows[:-1] + 1
    beside = np.zeros(len(rows), bool)
    beside[1:] |= mask[:-1] & adjacent
    beside[:-1] |= mask[1:] & adjacent
    return beside


def _thresholds(sizes: Array) -> Array:
    """Sizes at which outlying steps may begin, ascending; none where the tail explains all sizes.

    The logarithm of the ratio of neighbours in the order of size, m from the top, is exponential with mean 1 / (a m)
    for a tail of index a, which is read off the sizes below (Hill's estimate). A gap is one that is improbable so.
    """
    ordered = np.sort(sizes[sizes > 0])
    count = len(ordered)
    most = min(int(_FEW * count), count - FEWEST_STEPS)
    if most < 1:
        return ordered[:0]
    logs = np.log(ordered)
    below = np.arange(count - most - 1, count - 1)  # the longest ordinary step, if there is a gap above it
    gaps, above = logs[below + 1] - logs[below], count - 1 - below
    width = max(FEWEST_STEPS - 10, count // 100)
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    tail = logs[below] - (sums[below + 1] - sums[np.maximum(below + 1 - width, 0)]) / np.minimum(width, below + 1)
    improbable = gaps * above / np.maximum(tail, 0.1) > -np.log(_IMPROBABLE)
    return ordered[below[(gaps > np.log(_GAP)) & improbable] + 1]


def _moves(before: Array, after: Array) -> Array:
    """Absolute differences in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        moves: Array = np.abs(np.subtract(after, before, dtype=np.float64))
    return moves
