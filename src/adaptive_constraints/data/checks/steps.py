"""How far observations move in a step: what is ordinary in a recording, and which steps no recording can have made.

A step from one recording into another moves most dimensions by about as much as two rows picked at random differ. That
shows in *slow* dimensions, which move little in a step compared with how far rows lie apart. Data without slow
dimensions (independent rows, one-hot cells) say nothing about their steps, and nothing is said about them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.columns import SAMPLE, chunks

Array = NDArray[Any]
Rows = Callable[[Array], Array]
"""Observations [M, D] of some rows, by number."""

#: A dimension is slow if random rows differ in it by this many times its ordinary step.
_SLOW = 4.0
#: Fewer steps than this tell nothing.
FEWEST_STEPS = 30
#: Share of random pairs of rows that must be farther apart than an ordinary step, or steps tell nothing.
_POWER = 0.85
#: Ordinary steps may be so many times longer than nearly all others, where that leaves this much power; else the least.
_TIMES, _GOOD_POWER = (4.0, 3.0, 2.0, 1.5), 0.97
#: Share of the slow dimensions in which an ordinary step must be one.
_NEARLY_ALL = 0.9
#: Outlying steps are so many times longer than ordinary ones, by so much (minus the logarithm of a probability); once
#: there are some, others may be nearer.
_STRICT, _LAX = (2.0, 14.0), (1.5, 5.0)
#: Gaps that are tried with few outlying steps in between, at most this share of them; tails are not taken for shorter
#: than this, and are read off below the longest few.
_GAPS, _BETWEEN, _SHORTEST_TAIL, _SKIPPED = (1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 30.0), 0.15, 0.1, 5
#: Outlying steps are long compared with the distance of random rows, each and in the median ...
_LONG, _MOSTLY_LONG = 0.1, 0.4
#: ... and most slow dimensions take part in a third of them, some in each; or most in each.
_DIMENSIONS, _OFTEN, _SOME = 0.75, 1 / 3, 0.5
#: A step shorter than this share of the distance of random rows does not lead into another recording.
_NEAR = 0.5
#: At most this share of all steps can be outlying.
_FEW = 0.2


@dataclass(frozen=True)
class Steps:
    """Ordinary steps of K slow dimensions; the size of a step is the median over them, 1 being ordinary."""

    dimensions: Array  # [K]
    scale: Array  # [K] float64: median step
    upper: Array  # [K] float64: step that one in a hundred exceeds
    lowest: Array  # [K] float64
    highest: Array  # [K] float64
    distance: float  # median size of a step between random rows
    times: float = 0.0  # how many times longer than nearly all others an ordinary step may be
    power: float = 0.0  # share of steps between random rows that are no ordinary ones

    @property
    def tell(self) -> bool:
        """Tell whether a step into another recording would stand out."""
        return len(self.dimensions) > 0 and self.power >= _POWER

    def sizes(self, before: Array, after: Array) -> Array:
        """[M] sizes of the steps between rows [M, D]; 0 where a value is not finite."""
        sizes = _typical(_moves(before[:, self.dimensions], after[:, self.dimensions]) / self.scale)
        return np.where(np.isfinite(sizes), sizes, 0.0)

    def are_ordinary(self, before: Array, after: Array, factor: float = 1.0) -> Array:
        """[M] bool: steps that are ordinary, or ``factor`` times as long, in nearly all slow dimensions."""
        moves = _moves(before[:, self.dimensions], after[:, self.dimensions])
        return (moves <= factor * self.times * self.upper).mean(axis=1) >= _NEARLY_ALL

    def are_near(self, before: Array, after: Array) -> Array:
        """[M] bool: steps that are clearly shorter than random rows are apart, however long for a step."""
        return self.sizes(before, after) < _NEAR * self.distance

    def jumped(self, before: Array, after: Array) -> Array:
        """[M, K] bool: a slow dimension moves more than by ordinary steps, and does not just wrap around.

        A value that goes from one end of its range to the other, as an angle does, has not jumped.
        """
        moves = _moves(before[:, self.dimensions], after[:, self.dimensions])
        wraps = moves >= (self.highest - self.lowest) - 2 * self.upper
        return (moves > self.upper) & ~wraps


def ordinary_steps(before: Rows, after: Rows, rows: Array) -> Steps | None:
    """The steps that are ordinary in the given rows, by a sample of them; None where there are too few.

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
        return Steps(slow, none, none, none, none, distance=0.0)
    steps = Steps(
        dimensions=slow,
        scale=scale[slow],
        upper=np.quantile(moves[:, slow], 0.99, axis=0),
        lowest=here[:, slow].min(axis=0),
        highest=here[:, slow].max(axis=0),
        distance=float(np.median(_typical(apart[:, slow] / scale[slow]))),
    )
    for times in _TIMES:
        steps = replace(steps, times=times)
        steps = replace(steps, power=1 - float(steps.are_ordinary(here, here[other]).mean()))
        if steps.power >= _GOOD_POWER:
            break
    return steps


def outlying_steps(before: Rows, after: Rows, rows: Array) -> Array:
    """Rows, among the given ones, whose step is none that a recording makes; empty where steps do not tell.

    They stand apart from all others by a gap that the tail of ordinary steps does not explain, alone among ordinary
    neighbours, and in most slow dimensions at once (a contact changes velocities only).
    """
    steps = ordinary_steps(before, after, rows)
    if steps is None or not len(steps.dimensions):
        return rows[:0]
    sizes = np.zeros(len(rows), np.float32)
    for part in chunks(len(rows)):
        sizes[part] = steps.sizes(before(rows[part]), after(rows[part]))
    for threshold in _thresholds(sizes, *_STRICT):
        if len(_confirmed(steps, before, after, rows, sizes, threshold)):
            lower = [size for size in _thresholds(sizes, *_LAX) if size < threshold]  # now that there are some
            return _confirmed(steps, before, after, rows, sizes, min([threshold, *lower]))
    return rows[:0]


def _confirmed(steps: Steps, before: Rows, after: Rows, rows: Array, sizes: Array, threshold: float) -> Array:
    """Rows whose step is longer, alone among shorter ones, and in most slow dimensions at once."""
    outlying = sizes >= max(threshold, _LONG * steps.distance)
    alone = outlying & ~_beside(outlying, rows)
    if not alone.any() or np.median(sizes[alone]) < _MOSTLY_LONG * steps.distance:
        return rows[:0]
    candidates = rows[alone]
    jumped = steps.jumped(before(candidates), after(candidates))
    often = (jumped.mean(axis=0) >= _OFTEN).mean() >= _DIMENSIONS  # a contact changes the same dimensions always
    return candidates[jumped.mean(axis=1) >= (_SOME if often else _DIMENSIONS)]


def _beside(mask: Array, rows: Array) -> Array:
    """[M] bool: the row before or after is in the mask too."""
    adjacent = rows[1:] == rows[:-1] + 1
    beside = np.zeros(len(rows), bool)
    beside[1:] |= mask[:-1] & adjacent
    beside[:-1] |= mask[1:] & adjacent
    return beside


def _thresholds(sizes: Array, least: float, wanted: float) -> Array:
    """Sizes at which outlying steps may begin, ascending; none where the tail explains all sizes.

    Beyond a size x of a tail of index a (Hill's estimate, from the sizes below x), a size exceeds g x with probability
    g ** -a. Outlying steps begin between x and g x where nearly all sizes beyond x are beyond g x too, more than that
    probability explains (Chernoff's bound). ``least`` is the smallest g, ``wanted`` minus the logarithm of the
    probability.
    """
    ordered = np.sort(sizes[sizes > 0])
    count = len(ordered)
    most = min(int(_FEW * count), count - FEWEST_STEPS)
    if most < 1:
        return ordered[:0]
    logs = np.log(ordered)
    longest = np.arange(count - most - 1, count - 1)  # the longest ordinary step, if outlying ones begin above it
    beyond = count - 1 - longest
    width, top = max(FEWEST_STEPS - 10, count // 100), np.maximum(longest - _SKIPPED, 0)
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    mean = (sums[top + 1] - sums[np.maximum(top + 1 - width, 0)]) / np.minimum(width, top + 1)
    index = 1 / np.maximum(logs[top] - mean, _SHORTEST_TAIL)
    whole = logs[longest + 1] - logs[longest]  # gaps with nothing in between
    clear = (whole > np.log(least)) & (beyond * index * whole > wanted)
    starts = [np.exp((logs[longest] + logs[longest + 1]) / 2)[clear]]
    for gap in _GAPS:
        far = count - np.searchsorted(ordered, gap * ordered[longest])
        expected, share = gap**-index, far / beyond
        with np.errstate(divide="ignore", invalid="ignore"):
            near = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - expected)), 0.0)
            surprise = beyond * (share * np.log(share / expected) + near)
        clear = (beyond - far <= _BETWEEN * far) & (far > 0) & (share > expected) & (surprise > wanted)
        starts.append(np.sqrt(gap) * ordered[longest[clear]])
    return np.unique(np.concatenate(starts))


def _typical(moves: Array) -> Array:
    """[M] median over dimensions, the greater of two: a step into another recording moves most of them."""
    middle = moves.shape[1] // 2
    medians: Array = np.partition(moves, middle, axis=1)[:, middle]
    return medians


def _moves(before: Array, after: Array) -> Array:
    """Absolute differences in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        moves: Array = np.abs(np.subtract(after, before, dtype=np.float64))
    return moves
