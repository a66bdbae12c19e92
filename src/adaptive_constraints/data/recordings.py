"""Recordings in raw columns: where they begin and end, what follows their rows, and what is kept of dropped rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.checks.steps import Steps, ordinary_steps
from adaptive_constraints.data.columns import chunks, sampled
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]
Columns = dict[str, Array]

COLUMNS, UNUSED, FORGOTTEN, MOVED = "columns", "unused columns", "forgotten ends", "rows sorted by"
"""Keys of a provenance: what a table's columns are for, those for nothing, those of them that look like ends
(``role=name``), and the column by which rows of an episode changed their places."""
CONTINUED = "continued"
"""Key of a provenance: says that each episode begins in the state in which the one before it was cut."""

#: How far a next observation may lie from the following row's observation, absolute and relative: room for rounding ...
_ABSOLUTE = 1e-4
#: ... but never more than this share of the dimension's mean step, beside some units in the last place.
_OF_A_STEP, _ULPS = 0.1, 8
#: Share of terminal rows that must be followed by an ordinary step, where nothing but steps says that recording goes
#: on: a reset lands so near by chance seldom.
_MOSTLY = 0.5
#: So many timeouts, and at most this share of them followed by an ordinary step, show that resets stand out.
_WITNESSES, _SELDOM = 2, 0.1


class Facts(NamedTuple):
    """Facts of the E recordings that rows come from, rows that were dropped included."""

    returns: Array
    """[E] float64 undiscounted sums of raw rewards; NaN where not known."""
    lengths: Array
    """[E] int64 steps."""
    success: Array
    """[E] bool: the goal was reached; see `Dataset.episode_success`."""

    def of(self, episodes: Array) -> Facts:
        """Facts of some episodes, by number."""
        return Facts(*(fact[episodes] for fact in self))

    def equal(self, other: Facts) -> bool:
        """Tell whether both say the same."""
        return all(
            np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self, other, strict=True)
        )


def starts_of(ids: Array) -> Array:
    """[E] first row of each run of equal ids [N]."""
    return np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1]).astype(np.int64)


def facts_of(rewards: Array, terminals: Array, ids: Array) -> Facts:
    """Read off whole recordings: columns [N]. A reward that is not a number counts as 0."""
    starts = starts_of(ids)
    last = np.append(starts[1:], len(ids)) - 1
    reached = terminals.copy()
    reached[last] = True
    known = rewards.astype(np.float64)
    known[~np.isfinite(known)] = 0.0
    return Facts(
        returns=np.add.reduceat(known, starts),
        lengths=np.diff(np.append(starts, len(ids))),
        success=np.logical_or.reduceat(reached & (rewards > 0), starts),
    )


def ids_from_marks(columns: Mapping[str, Array]) -> Array:
    """[N] ids 0, 1, ...: an episode ends at every timeout, and at terminal rows unless recording goes on there."""
    ends = columns["timeouts"] | (columns["terminals"] & ~_goes_on(columns))
    return np.concatenate([[0], np.cumsum(ends[:-1])]).astype(np.int64)


def _goes_on(columns: Mapping[str, Array]) -> Array:
    """[N] bool: terminal rows (a goal reached, say) after which the same recording goes on, by positive evidence.

    Next observations that are the following row's observation say so, unless they are so at every end, as in a column
    that was merely shifted; most of the steps must be ordinary ones too, where steps can tell. Without such next
    observations, steps alone say so of terminal rows that follow each other, and then of the others as well, or where
    the steps at timeouts show that resets stand out.
    """
    terminals, timeouts = columns["terminals"], columns["timeouts"]
    goes_on = np.zeros(len(terminals), bool)
    candidates = np.flatnonzero(terminals[:-1] & ~timeouts[:-1])
    if not len(candidates):
        return goes_on
    ordinary, steps = _ordinary(columns, candidates)
    tells = steps is not None and steps.tell
    if "next_observations" in columns and _are_witnessed(columns):
        follows = ~differ(columns["next_observations"], columns["observations"], candidates, candidates + 1)
        if tells:
            repeated = terminals[candidates + 1]
            follows &= _mostly(ordinary, follows & repeated, follows) | _mostly(ordinary, follows & ~repeated, follows)
        goes_on[candidates] = follows
    elif steps is not None and tells:
        repeated = terminals[candidates + 1]
        lone = _accepted(ordinary, ~repeated)
        # A step into another recording is as long as random rows are apart, where its end is not marked as a timeout;
        # one of a heavy tail is not.
        marked = _resets_stand_out(columns, steps)
        near = steps.are_near(columns["observations"][candidates], columns["observations"][candidates + 1])
        runs = _mostly(ordinary, repeated, near | marked)
        if runs.any() or marked:
            runs |= lone
        goes_on[candidates[runs]] = True
    return goes_on


def _mostly(ordinary: Array, group: Array, others: Array) -> Array:
    """Rows of a group that are followed by an ordinary step; if most of the group are, those in ``others`` too."""
    followed = ordinary & group
    return group & (ordinary | others) if followed.sum() > _MOSTLY * group.sum() else followed


def _accepted(ordinary: Array, group: Array) -> Array:
    """Rows of a group that are followed by an ordinary step, if most of the group are."""
    followed = ordinary & group
    return followed if followed.sum() > _MOSTLY * group.sum() else np.zeros_like(followed)


def _ordinary(columns: Mapping[str, Array], rows: Array) -> tuple[Array, Steps | None]:
    """Tell whether the steps from these rows to the following ones are ordinary, and what is."""
    observations = columns["observations"]
    inside = np.flatnonzero(~(columns["terminals"] | columns["timeouts"])[:-1])
    steps = ordinary_steps(lambda r: observations[r], lambda r: observations[r + 1], inside)
    if steps is None or not steps.tell:
        return np.zeros(len(rows), bool), steps
    parts = [rows[part] for part in chunks(len(rows))]
    return np.concatenate([steps.are_ordinary(observations[part], observations[part + 1]) for part in parts]), steps


def _are_witnessed(columns: Mapping[str, Array]) -> bool:
    """Next observations are more than a shifted column: at some end they are not the following row's observation."""
    marked = np.flatnonzero(columns["terminals"] | columns["timeouts"])
    following, observations = columns["next_observations"], columns["observations"]
    inner, last = marked[marked < len(observations) - 1], len(observations) - 1
    if differ(following, observations, inner, inner + 1).any():
        return True
    end, others = np.array([last, last]), np.array([0, last])  # rolled round, or its own observation repeated
    return bool(differ(following, observations, end, others).all())


def _resets_stand_out(columns: Mapping[str, Array], steps: Steps) -> bool:
    """The steps at timeouts, into the next recording, are no ordinary ones."""
    cuts = np.flatnonzero(columns["timeouts"][:-1])
    if len(cuts) < _WITNESSES:
        return False
    near = steps.are_ordinary(columns["observations"][cuts], columns["observations"][cuts + 1])
    return bool(near.mean() <= _SELDOM)


def differ(following: Array, observations: Array, here: Array, there: Array) -> Array:
    """[M] bool: next observations of the rows ``here`` are not the observations of the rows ``there``.

    Room is left for rounding, less where the steps of a dimension are small.
    """
    sample = sampled(len(observations))
    ulps = _ULPS * (2.0**-52 if _is_double(following[sample]) and _is_double(observations[sample]) else 2.0**-23)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite minus infinite: reported by the doctor
        moves = np.abs(np.subtract(following[sample], observations[sample], dtype=np.float64))
        step = np.where(np.isfinite(moves), moves, 0).mean(axis=0)
        differing = np.zeros(len(here), bool)
        for part in chunks(len(here)):
            end, start = following[here[part]].astype(np.float64), observations[there[part]].astype(np.float64)
            room = np.minimum(_ABSOLUTE * (1 + np.abs(end)), _OF_A_STEP * step) + ulps * np.abs(end)
            differing[part] = (np.abs(start - end) > room).any(axis=1)
    return differing


def _is_double(array: Array) -> bool:
    """Tell whether numbers have more digits than float32 keeps."""
    if array.dtype != np.float64:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((array.astype(np.float32).astype(np.float64) != array).any())


def derive_next_observations(columns: Columns) -> Array:
    """Fill in `next_observations`, move the timeout marks of rows without one; return the mask of rows to keep."""
    ids, terminals = columns["episode_ids"], columns["terminals"]
    last = np.append(ids[1:] != ids[:-1], True)
    following = np.empty_like(columns["observations"])
    following[:-1] = columns["observations"][1:]
    following[last] = columns["observations"][last]
    columns["next_observations"] = following
    keep = ~last | terminals
    cut_before(columns, ~keep)
    if not keep.any():
        raise DatasetError(
            "no row is left: every episode has one row, is not terminal, and no next observation was given; "
            "pass next_observations"
        )
    return keep


def cut_before(columns: Columns, dropped: Array) -> None:
    """Move the timeout marks of the rows [N] to be dropped to the row before, where that is of the same episode.

    A terminal row there is an end already.
    """
    ids, timeouts = columns["episode_ids"], columns["timeouts"]
    rows = np.flatnonzero(dropped & timeouts)
    rows = rows[(rows > 0) & (ids[rows - 1] == ids[rows])] - 1
    timeouts[rows] = ~columns["terminals"][rows]
