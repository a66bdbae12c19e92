"""The order of a table's rows: those of an episode together, and in order of time.

A reference names the column of time, or it is found by its name. A name proves little (``t`` may be a temperature), so
rows are only moved where the values prove it: in every episode they are evenly spaced once sorted, as numbers of steps
and clocks are. Where rows are out of order and nothing proves by what, the table is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.table_columns import Columns
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

NO_TIME = "none"
"""What a reference says of time where rows are to stay as they stand."""
TIME_NAMES = (
    *("frame_index", "step_index", "timestep", "step", "t", "frame", "tick", "timestamp", "time", "datetime", "ts"),
    *("frame_id", "step_id", "time_step", "time_index", "index", "unnamed: 0", "__index_level_0__"),
)
"""Names by which a column of time is found, the surest first; the last ones are how pandas writes its index."""
_EVEN = 1e-3
"""How much steps of time may differ, relative to their size, and still be even."""


class Order(NamedTuple):
    """The order of rows, and the column that it comes from."""

    rows: Array | None
    """[N] numbers of the rows in that order; None where they stand so already."""
    time: str | None
    """The column of time; None where there is none."""
    moved: bool
    """Rows changed their places within an episode by a column that was found by its name."""


def order_rows(columns: Columns, roles: Mapping[str, Sequence[str]], ids: Array | None, ends: Array) -> Order:
    """Put the rows of an episode together, in order of time.

    roles: columns by role; ``time`` as the reference names it, if it does.
    ids: [N] the episode of each row; None where none are named.
    ends: [N] bool, rows that are marked as an end.

    Raises `DatasetError` for times that are missing, or the same twice in an episode, and for rows that are not in the
    order of a column that looks like time, where its values do not prove that it is.
    """
    said = roles.get("time")
    if said is not None and list(said) != [NO_TIME]:
        return _by_said(columns, columns.read("time", said), "+".join(said), ids)
    found = _found(columns, roles, ids, ends) if said is None else None
    grouped = None if ids is None else np.argsort(ids, kind="stable")
    if found is None:
        return Order(_unless_in_place(grouped), None, False)
    name, runs = found
    if runs.in_order:
        return Order(_unless_in_place(grouped), name, False)
    if ids is None:
        raise _unmarked(columns, name, runs)
    if runs.even and not runs.falling:
        return Order(runs.sorted, name, True)
    raise _doubtful(columns, name, runs)


def _by_said(columns: Columns, time: Any, name: str, ids: Array | None) -> Order:
    """The order by a column that the reference names."""
    if not isinstance(time, np.ndarray):
        raise DatasetError(f"table:{columns.place}: time={name} must be a column or {NO_TIME!r}, not a number")
    bad = ~np.isfinite(time) if time.dtype.kind == "f" else np.zeros(len(time), bool)
    if bad.any():
        raise DatasetError(
            f"table:{columns.place}: the time {name!r} is NaN or infinite in {int(bad.sum())} rows (the first: "
            f"{int(np.argmax(bad))}): mend or drop them, or write time={NO_TIME} to take rows as they stand"
        )
    runs = _Runs(time, np.zeros(len(time), np.int64) if ids is None else ids)
    if runs.tie is not None:
        one, other = runs.tie
        where = "one episode" if ids is not None else "the table, and no episodes are named (episode=...)"
        raise DatasetError(
            f"table:{columns.place}: the time {name!r} is the same in rows {one} and {other} of {where}, so it "
            f"does not say which comes first: mend it, give episodes different names, or write time={NO_TIME} "
            "to take rows as they stand"
        )
    return Order(_unless_in_place(runs.sorted), name, False)


def _found(
    columns: Columns, roles: Mapping[str, Sequence[str]], ids: Array | None, ends: Array
) -> tuple[str, _Runs] | None:
    """The column of time by its name, and what it says: the first whose values prove it, else the first of all.

    A column with another role counts only where its values prove it.
    """
    taken = {name for role, names in roles.items() if role != "time" for name in columns.expanded(names)}
    if ids is None:
        ids = np.cumsum(np.append(0, ends[:-1]))
    doubtful = None
    for name in _named_like_time(columns.names):
        time = columns.time(name)
        if time is None:
            continue
        runs = _Runs(time, ids)
        if runs.even and not (name in taken and runs.falling):
            return name, runs
        if name not in taken and doubtful is None and (runs.known.all() or not runs.in_order):
            doubtful = name, runs
    return doubtful


class _Runs:
    """What a column of time says of the rows of each episode."""

    def __init__(self, time: Array, ids: Array) -> None:
        self.known = np.isfinite(time) if time.dtype.kind == "f" else np.ones(len(time), bool)
        """[N] bool: there is a time. What follows is of these rows."""
        self._rows = np.flatnonzero(self.known)
        self._time, self._ids = time[self.known], ids[self.known]
        self._together = np.argsort(self._ids, kind="stable")
        self.sorted: Array = np.lexsort((self._time, self._ids))
        steps, _ = self._steps(self._together)
        self.in_order = bool((steps >= 0).all())
        self.falling = bool(len(steps) and (steps < 0).all())
        even, _ = self._steps(self.sorted)
        regular = len(even) > 0 and even[0] > 0 and bool((np.abs(even - even[0]) <= _EVEN * even[0]).all())
        self.even = bool(self.known.all()) and regular

    @property
    def tie(self) -> tuple[int, int] | None:
        """Two rows of an episode at the same time; None where there are none."""
        steps, at = self._steps(self.sorted)
        return self._pair(self.sorted, at[steps == 0])

    @property
    def back(self) -> tuple[int, int] | None:
        """A row and the following one of its episode, which is earlier; None where there are none."""
        steps, at = self._steps(self._together)
        return self._pair(self._together, at[steps < 0])

    def _steps(self, order: Array) -> tuple[Array, Array]:
        """Differences of time between neighbours of one episode in an order, and the places of the first of each."""
        at = np.flatnonzero(self._ids[order][1:] == self._ids[order][:-1])
        time = self._time[order]
        return time[at + 1] - time[at], at

    def _pair(self, order: Array, places: Array) -> tuple[int, int] | None:
        if not len(places):
            return None
        first = places[0]
        return int(self._rows[order[first]]), int(self._rows[order[first + 1]])


def _named_like_time(names: Sequence[str]) -> list[str]:
    """Columns whose names, less what they are fields of, are usual for time; the surest first."""
    usual = {_plain(name): place for place, name in reversed(list(enumerate(TIME_NAMES)))}
    ranks = {name: usual.get(_plain(name.rpartition(".")[2])) for name in names}
    return sorted((name for name, rank in ranks.items() if rank is not None), key=lambda name: ranks[name] or 0)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _unless_in_place(order: Array | None) -> Array | None:
    return None if order is None or (order == np.arange(len(order))).all() else order


def _doubtful(columns: Columns, name: str, runs: _Runs) -> DatasetError:
    """The refusal of rows that are not in the order of what looks like time."""
    why, ways = "", f"write time={name} to put them into that order, or time={NO_TIME} if they are in order as they are"
    if runs.falling:
        why = ", and it falls from each row to the next"
    elif not runs.known.all():
        missing = ~runs.known
        why = f", and it is NaN or missing in {int(missing.sum())} rows (the first: {int(np.argmax(missing))})"
        ways = f"mend it, or write time={NO_TIME} if rows are in order as they are"
    elif tie := runs.tie:
        why = f", and it is the same in rows {tie[0]} and {tie[1]}"
        ways = f"mend it, or give episodes different names, or write time={NO_TIME} if rows are in order as they are"
    one, other = runs.back or (0, 0)
    return DatasetError(
        f"table:{columns.place}: {name!r} looks like the time of steps, but rows of an episode are not in its order "
        f"(row {other} is earlier than row {one}){why}: {ways}"
    )


def _unmarked(columns: Columns, name: str, runs: _Runs) -> DatasetError:
    """The refusal of rows that are not in the order of what looks like time, where no episodes are named."""
    one, other = runs.back or (0, 0)
    return DatasetError(
        f"table:{columns.place}: {name!r} looks like the time of steps, but goes back from row {one} to row {other}, "
        "where no end is marked and no column names episodes: say which column does (episode=...) or which marks ends "
        f"(timeout=..., terminal=...); or write time={NO_TIME} if it is no time and rows are in order"
    )


__all__ = ["NO_TIME", "TIME_NAMES", "Order", "order_rows"]
