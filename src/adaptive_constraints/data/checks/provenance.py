"""Checks of what a source says about itself: columns that are for nothing, and rows that were moved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypeVar

from adaptive_constraints.data.checks.findings import Finding
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.recordings import COLUMNS, FORGOTTEN, MOVED, UNUSED

T = TypeVar("T")
_SHOWN = 12
"""Columns of one role that are named one by one."""


def columns_text(dataset: Dataset) -> str:
    """What each column of a table is for, and which are for nothing; "" for data of other sources."""
    said = _written(dataset, COLUMNS, dict)
    if not said:
        return ""
    roles = [f"{role} {_short(names)}" for role, names in said.items()]
    unused = _written(dataset, UNUSED, list)
    return f"columns: {', '.join(roles)}; not used: {_short(unused) or 'none'}"


def _written(dataset: Dataset, key: str, kind: type[T]) -> T:
    """What a table's loader wrote down as JSON; nothing where somebody else wrote under that name."""
    try:
        value = json.loads(dataset.provenance.get(key, ""))
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()


def _short(several: Sequence[str]) -> str:
    return " + ".join(several[:_SHOWN]) + (f" and {len(several) - _SHOWN} more" if len(several) > _SHOWN else "")


def check_forgotten_ends(dataset: Dataset) -> Iterator[Finding]:
    """Columns of a table that look like ends, mark rows, and are not used."""
    for role, name in _written(dataset, FORGOTTEN, list):
        other = "timeout" if role == "terminal" else "terminal"
        message = (
            f"the column {name!r} is not used, looks like ends of episodes, and marks rows that are no such end here"
        )
        way_out = (
            f"write {role}={name} in the reference (or {other}={name}, whichever it is: a terminal is a true end, a "
            "timeout a cut); if it is neither, all is well"
        )
        yield Finding("warning", "forgotten_end", message, way_out)


def check_moved_rows(dataset: Dataset) -> Iterator[Finding]:
    """Rows that were put into the order of a column that was found by its name."""
    if name := dataset.provenance.get(MOVED):
        message = f"rows of an episode were not in the order of {name!r} in the file, and were put into it"
        way_out = f"right if {name!r} counts time; write time={name} to say so, or time=none to take rows as they stand"
        yield Finding("note", "rows_sorted", message, way_out)


CHECKS = (check_forgotten_ends, check_moved_rows)
