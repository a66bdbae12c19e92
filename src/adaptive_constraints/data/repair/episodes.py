"""Repairs of whole data sets: another set each, the given one stays as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.checks.steps import ordinary_steps
from adaptive_constraints.data.checks.transitions import impossible_steps, is_last_row, joins, last_rows, repeated_ends
from adaptive_constraints.data.columns import read_only
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.derivations import ROW_COLUMNS, take_rows
from adaptive_constraints.data.recordings import Facts, cut_before, facts_of
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]


def relabel_timeouts(dataset: Dataset) -> Dataset:
    """Turn terminals that a time limit made into timeouts: those at the greatest episode length, or already timeouts.

    A true end that falls on the very last allowed step becomes a timeout too: its value is then bootstrapped. A row
    that follows a terminal one in its recording stays as it is: there, a goal is held.
    """
    cut = dataset.terminals & ~goal_is_held(dataset) & (ends_at_limit(dataset) | dataset.timeouts)
    terminals, timeouts = dataset.terminals & ~cut, dataset.timeouts | cut
    return dataclasses.replace(dataset, terminals=read_only(terminals), timeouts=read_only(timeouts))


def goal_is_held(dataset: Dataset) -> Array:
    """[N] bool: terminal rows that follow a terminal row of the same episode."""
    mask = np.zeros(len(dataset), bool)
    mask[1:] = dataset.terminals[1:] & dataset.terminals[:-1] & ~is_last_row(dataset)[:-1]
    return mask


def ends_at_limit(dataset: Dataset) -> Array:
    """[N] bool: last rows of the episodes of the greatest length, steps that are not among the rows counted."""
    lengths = dataset.recorded.lengths
    mask = np.zeros(len(dataset), bool)
    mask[last_rows(dataset)[lengths == lengths.max()]] = True
    return mask


def split_at_joins(dataset: Dataset, *, steps: bool = True) -> Dataset:
    """Split episodes wherever a row does not lead to the following one, so that nothing is read across.

    A row whose next observation is not where the following row starts ends its episode by a timeout. With ``steps``,
    rows that lead into another recording, by a step longer than any ordinary one, and rows that were cut with
    themselves as next observation are taken out: where they led is not known, so the row before them ends its episode
    by a timeout. Both are what `doctor` names.

    Pieces are recordings of their own, with returns of their own, unless they are parts of recordings with rows
    missing: those keep the return of the whole recording where it is known (`Dataset.subset`), and have none otherwise.
    Raises `DatasetError` where no row is left.
    """
    joined, dropped = joins(dataset), np.zeros(len(dataset), bool)
    if steps:
        dropped[impossible_steps(dataset)] = True
        dropped[repeated_ends(_ended_at(dataset, joined))] = True
    ends = joined | dropped | is_last_row(dataset)
    columns = {key: getattr(dataset, key) for key in ROW_COLUMNS}
    columns["episode_ids"] = np.append(0, np.cumsum(ends[:-1])).astype(np.int64)
    columns["timeouts"] = dataset.timeouts | joined | dropped
    facts = _of_pieces(dataset, columns["episode_ids"], joined)
    cut_before(columns, dropped)
    if dropped.all():
        raise DatasetError(f"no row of {dataset.name!r} leads to where recording went on; record it again")
    split = dataclasses.replace(
        dataset, timeouts=read_only(columns["timeouts"]), episode_ids=read_only(columns["episode_ids"])
    ).with_recorded(facts)
    return take_rows(split, ~dropped, dataset.name) if dropped.any() else split


def _ended_at(dataset: Dataset, rows: Array) -> Dataset:
    """The same rows, with an episode that ends by a timeout at each of a mask [N]."""
    ids = np.append(0, np.cumsum((rows | is_last_row(dataset))[:-1])).astype(np.int64)
    return dataclasses.replace(dataset, timeouts=read_only(dataset.timeouts | rows), episode_ids=read_only(ids))


def _of_pieces(dataset: Dataset, ids: Array, joined: Array) -> Facts:
    """Facts of the recordings that the pieces [P] belong to, given their ids [N]."""
    own = facts_of(dataset.rewards, dataset.terminals, ids)
    starts = np.append(0, np.flatnonzero(np.diff(ids)) + 1)
    origin = np.searchsorted(dataset.episode_starts, starts, side="right") - 1
    whole, here = dataset.recorded, facts_of(dataset.rewards, dataset.terminals, dataset.episode_ids)
    missing = whole.lengths - here.lengths
    cuts = np.add.reduceat(joined.astype(np.int64), dataset.episode_starts)
    explained = (cuts > 0) & (cuts <= missing)  # rows that are missing explain all joins: one recording
    part = (explained | (np.bincount(origin) == 1))[origin]
    at_end = np.append(origin[1:] != origin[:-1], True) & ~part  # what is missing came after the last row
    returns = np.where(part, whole.returns[origin], own.returns)
    returns[at_end] += (whole.returns - here.returns)[origin][at_end]
    lengths = np.where(part, whole.lengths[origin], own.lengths)
    lengths[at_end] += missing[origin][at_end]
    later = at_end & (whole.success & ~here.success)[origin]
    success = np.where(part, whole.success[origin], own.success | later)
    if not missing.any() and _are_gaps(dataset, joined):
        returns[cuts[origin] > 0] = np.nan
    return Facts(returns, lengths, success)


def _are_gaps(dataset: Dataset, joined: Array) -> bool:
    """Most joins lead no farther than some ordinary steps, so rows of a recording are missing there."""
    rows, inside = np.flatnonzero(joined), np.flatnonzero(~dataset.terminals)
    before, after = dataset.observations, dataset.next_observations
    steps = ordinary_steps(lambda r: before[r], lambda r: after[r], inside) if len(rows) else None
    if steps is None or not steps.tell:
        return False
    return bool(steps.are_ordinary(after[rows], before[rows + 1], factor=2.0).mean() > 0.5)
