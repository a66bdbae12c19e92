"""Findings in a grid of results: scores, effects of adapters, profiles; each with how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.experiments.rows import ResultRow
from adaptive_constraints.reports.claims import Outcome, outcomes
from adaptive_constraints.reports.grid import Grid, Score, StackName, draw_numbers, is_lost, seed_value
from adaptive_constraints.reports.statistics import (
    Estimate,
    bootstrap,
    estimate,
    paired_difference,
    paired_improvement,
    profile,
)

ALL = "all data sets"
"""The scope of what is said over all data sets together; other scopes are labels of data sets."""
THRESHOLDS = 101


@dataclass(frozen=True)
class Findings:
    """All that a report says."""

    grid: Grid
    score: Score
    scopes: list[str]
    scores: dict[tuple[str, str], Estimate]
    effects: list[Effect]
    thresholds: NDArray[np.float64]
    profiles: list[Profile]
    outcomes: list[Outcome]

    @property
    def drawn_scopes(self) -> list[str]:
        """The scopes of figures: all data sets together where that may be said, else each."""
        return [ALL] if ALL in self.scopes else self.scopes

    def ranking(self, scope: str) -> list[str]:
        """Labels of all stacks, the best of a scope first; those without a number there last, as the grid has them."""
        labels = [stack.label for stack in self.grid.stacks]
        known = {label: self.scores[label, scope].value for label in labels if (label, scope) in self.scores}
        return sorted(labels, key=lambda label: -known.get(label, -math.inf))


def find(grid: Grid, score: Score) -> Findings:
    """Work everything out, once for all formats."""
    return Findings(
        grid,
        score,
        scopes(grid),
        scores(grid, score),
        effects(grid, score),
        thresholds(grid, score),
        profiles(grid, score),
        outcomes(grid),
    )


# -- scores -------------------------------------------------------------------------------------------------------


def scopes(grid: Grid) -> list[str]:
    """The scopes of numbers: all data sets together where that may be, then each by its label."""
    labels = [data.label for data in grid.data]
    return [ALL, *labels] if grid.all_scored and len(labels) > 1 else labels


def scores(grid: Grid, score: Score) -> dict[tuple[str, str], Estimate]:
    """The interquartile mean over seeds, by (stack label, scope); what has no number is not there."""
    estimates = {}
    for stack in grid.stacks:
        members = {ALL: grid.across(stack) or []}
        for data in grid.data:
            cell = grid.cells.get((stack.label, data.label))
            members[data.label] = [] if cell is None else [cell]
        for scope, cells in members.items():
            strata = [cell.values(score) for cell in cells]
            if strata and all(map(len, strata)):
                estimates[stack.label, scope] = estimate(strata, draws=[cell.draws(score) for cell in cells])
    return estimates


# -- effects of adapters ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A seed with an adapter and its twin without: same data, minibatches and noise."""

    seed: int
    present: ResultRow
    absent: ResultRow
    values: tuple[float, float]
    """The numbers with and without; NaN where a lost seed has none."""

    @property
    def lost(self) -> bool:
        """Tell whether either is lost."""
        return is_lost(self.present) or is_lost(self.absent)


@dataclass(frozen=True)
class Difference:
    """The change that an adapter makes in one scope.

    estimate: mean difference of the pairs that have numbers; None where none has.
    higher: how many of them are higher with the adapter.
    pairs, lost: how many there are, and how many of them hold a lost seed.
    improvement: P(a seed with the adapter beats a seed without), whichever seeds they are.
    """

    estimate: Estimate | None
    higher: int
    pairs: int
    lost: int
    improvement: Estimate | None


@dataclass(frozen=True)
class Effect:
    """The change that one adapter makes when it is added to one stack, or to a learner's stacks on average.

    base: label of the stack without it, or what is averaged over.
    by_scope: by data label, and `ALL` where the pairs are there on every data set and all are scored.
    pairs: by data label; empty for an average.
    """

    adapter: str
    base: str
    learner: str
    stack: StackName | None
    by_scope: dict[str, Difference]
    pairs: dict[str, tuple[Pair, ...]]


Twin: TypeAlias = tuple[str, str, int, int, tuple[str, ...]]


def effects(grid: Grid, score: Score) -> list[Effect]:
    """Every adapter on every stack that was run without it too, after its averages over a learner's stacks."""
    single = [
        Effect(adapter, base, stack.learner, stack, _scopes(grid, pairs), pairs)
        for adapter, base, stack, pairs in _twins(grid, score)
    ]
    groups: dict[tuple[str, str, str], list[Effect]] = {}
    for effect in single:
        length = "" if effect.stack is None else effect.stack.length
        groups.setdefault((effect.adapter, effect.learner, length), []).append(effect)
    return [*(_averaged(grid, group) for group in groups.values() if len(group) > 1), *single]


def _twins(grid: Grid, score: Score) -> Iterator[tuple[str, str, StackName, dict[str, tuple[Pair, ...]]]]:
    """(adapter, label of the stack without it, stack with it, pairs by data label)."""
    labels = {id(row): cell.stack.label for cell in grid.cells.values() for row in cell.rows}
    index = {_identity(row, row["adapters"]): row for row in grid.rows}
    for stack in grid.stacks:
        for position, adapter in enumerate(stack.adapters):
            pairs: dict[str, tuple[Pair, ...]] = {}
            base = ""
            for data in grid.data:
                cell = grid.cells.get((stack.label, data.label))
                rows = [] if cell is None else [(row, index.get(_twin(row, position))) for row in cell.rows]
                paired = [(row, twin) for row, twin in rows if twin is not None]
                if paired:
                    base = labels[id(paired[0][1])]
                    pairs[data.label] = tuple(_pair(row, twin, score) for row, twin in paired)
            if pairs:
                yield adapter, base, stack, pairs


def _identity(row: ResultRow, adapters: Sequence[str]) -> Twin:
    return row["data"]["fingerprint"], row["learner"], row["seed"], row["steps"], tuple(adapters)


def _twin(row: ResultRow, position: int) -> Twin:
    adapters = row["adapters"]
    return _identity(row, [*adapters[:position], *adapters[position + 1 :]])


def _pair(present: ResultRow, absent: ResultRow, score: Score) -> Pair:
    return Pair(present["seed"], present, absent, (seed_value(present, score), seed_value(absent, score)))


def _scopes(grid: Grid, pairs: dict[str, tuple[Pair, ...]]) -> dict[str, Difference]:
    """The difference on each data set, and over all of them where that may be said."""
    measured = {
        label: Measured(
            np.array([pair.values for pair in of_data]),
            draw_numbers([pair.present for pair in of_data]),
            sum(pair.lost for pair in of_data),
        )
        for label, of_data in pairs.items()
    }
    return _differences(grid, measured)


class Measured(NamedTuple):
    """Pairs of one data set."""

    values: NDArray[np.float64]
    """[N, 2] with and without the adapter."""
    draws: NDArray[np.int64]
    """[N] the draw of the data of each."""
    lost: int
    """Pairs of which a seed is lost."""

    def known(self) -> Measured:
        """Those that have both numbers."""
        kept = ~np.isnan(self.values).any(axis=1)
        return self._replace(values=self.values[kept], draws=self.draws[kept])


def _differences(grid: Grid, measured: dict[str, Measured]) -> dict[str, Difference]:
    """By data label, and over all of them where that may be said."""
    differences = {label: _difference([pairs]) for label, pairs in measured.items()}
    if grid.all_scored and len(measured) == len(grid.data) > 1:
        differences[ALL] = _difference(list(measured.values()))
    return differences


def _difference(measured: Sequence[Measured]) -> Difference:
    count, lost = sum(len(pairs.values) for pairs in measured), sum(pairs.lost for pairs in measured)
    known = [pairs.known() for pairs in measured]
    if not all(len(pairs.values) for pairs in known):
        return Difference(None, 0, count, lost, None)
    changes = [pairs.values[:, 0] - pairs.values[:, 1] for pairs in known]
    ours, theirs = ([pairs.values[:, side] for pairs in known] for side in (0, 1))
    draws = [pairs.draws for pairs in known]
    higher = sum(int((change > 0).sum()) for change in changes)
    wins = paired_improvement(ours, theirs, draws=draws)
    return Difference(paired_difference(changes, draws=draws), higher, count, lost, wins)


def _averaged(grid: Grid, group: Sequence[Effect]) -> Effect:
    """The adapter's effect averaged over the stacks of one learner.

    Stacks of one seed share minibatches and each other's twins, so they are no independent evidence: their mean is
    one pair, and only seeds that every stack has take part.
    """
    first = group[0]
    measured: dict[str, Measured] = {}
    for label in [data.label for data in grid.data]:
        by_seed = [{_seed_of(pair): pair for pair in effect.pairs.get(label, ())} for effect in group]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        if seeds:
            pairs = [[stack[seed] for stack in by_seed] for seed in seeds]
            measured[label] = Measured(
                np.array([[pair.values for pair in of_seed] for of_seed in pairs]).mean(axis=1),
                draw_numbers([of_seed[0].present for of_seed in pairs]),
                sum(any(pair.lost for pair in of_seed) for of_seed in pairs),
            )
    length = "" if first.stack is None else first.stack.length
    base = f"{first.learner}{length}, mean over {len(group)} stacks"
    return Effect(first.adapter, base, first.learner, None, _differences(grid, measured), {})


def _seed_of(pair: Pair) -> tuple[str, int]:
    """The seed, and the draw of the data that it was trained on."""
    return pair.present["data"]["fingerprint"], pair.seed


# -- performance profiles -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """The share of a stack's seeds that score above each threshold, in one scope; [T] each.

    low, high: pointwise 95 % band; None where a data set has one seed.
    """

    stack: StackName
    scope: str
    share: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None


def thresholds(grid: Grid, score: Score) -> NDArray[np.float64]:
    """[T] evenly spaced scores, from the tens below to the tens above all that was scored; none without scores."""
    scored = [cell.values(score) for cell in grid.cells.values() if cell.data.scored]
    if not any(map(len, scored)):
        return np.empty(0)
    values = np.concatenate(scored)
    low, high = np.floor(values.min() / 10), np.ceil(values.max() / 10)
    return np.linspace(10 * low, 10 * max(high, low + 1), THRESHOLDS)


def profiles(grid: Grid, score: Score) -> list[Profile]:
    """Profiles of every stack, on each scored data set and over all of them where that may be said."""
    statistic = profile(thresholds(grid, score))
    profiles = []
    for stack in grid.stacks:
        cells = [grid.cells.get((stack.label, data.label)) for data in grid.data]
        scopes = [(cell.data.label, [cell]) for cell in cells if cell is not None and cell.data.scored]
        for scope, members in [*scopes, (ALL, grid.across(stack))]:
            strata = [cell.values(score) for cell in members or []]
            if strata and all(map(len, strata)):
                several = min(map(len, strata)) > 1
                draws = [cell.draws(score) for cell in members or []]
                low, high = bootstrap(strata, statistic, draws=draws) if several else (None, None)
                profiles.append(Profile(stack, scope, statistic(strata), low, high))
    return profiles


__all__ = ["ALL", "Difference", "Effect", "Findings", "Pair", "Profile", "effects", "find", "profiles", "scores"]
