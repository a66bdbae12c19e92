"""Data sets in tables: CSV, Parquet, Arrow, folders of them, Hugging Face data sets, LeRobot v3.

``table:FILE#obs=x+y+angle,action=u,reward=r,episode=id,terminal=crashed`` says which columns are what; what is not said
is found by its name. pyarrow reads the files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.files import reading
from adaptive_constraints.data.sources.layouts import read_ends
from adaptive_constraints.data.sources.table_columns import Columns, number
from adaptive_constraints.data.sources.table_files import SUFFIXES, read_table
from adaptive_constraints.data.sources.table_order import order_rows
from adaptive_constraints.data.sources.table_roles import ROLES, TIME, described, resolve
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

_OPTIONS = (TIME, "action_low", "action_high", "env")


@dataclass(frozen=True)
class ColumnMap:
    """Columns by what they are for, and the options of a reference."""

    columns: Mapping[str, tuple[str, ...]]
    """Names, or patterns of names, by role."""
    options: Mapping[str, str]


def load_table(reference: str, ignore: Sequence[str] = ()) -> Dataset:
    """The data set of a table or of a folder of tables; ``ignore`` is of no use here and must be empty.

    Rows of an episode are put together in the order in which they stand, or in that of ``time`` (`table_order`).
    Episodes begin where the episode's name changes; without such a column they end at marked rows. Where episodes are
    named and no ends are, nothing is a true end: each was cut. The provenance says what each column is for, and which
    are for nothing.
    """
    if ignore:
        raise DatasetError("ignore is not for tables: a table's columns are those that the reference names")
    place, given = _parse(reference)
    path = Path(place).expanduser()
    with reading(f"table:{place}", "table"):
        table, lerobot = read_table(path)
        columns = Columns(place, table)
        roles = resolve(columns, given.columns, lerobot)
        arrays: dict[str, Any] = {
            ROLES[role]: columns.read(role, names) for role, names in roles.items() if role in ROLES
        }
        bounds: dict[str, Any] = {
            name: _bounds(name, text) for name, text in given.options.items() if name.startswith("action_")
        }
        _complete(
            arrays, table.num_rows, {ROLES[role]: "+".join(names) for role, names in roles.items() if role in ROLES}
        )
        ids = arrays.get("episode_ids")
        order = order_rows(columns, roles, ids, np.logical_or(arrays["terminals"], arrays.get("timeouts", False)))
        if order.rows is not None:
            arrays = {name: array[order.rows] for name, array in arrays.items()}
        _cut(arrays)
        roles = {role: names for role, names in roles.items() if role != TIME}
        if order.time is not None:
            roles[TIME] = (order.time,)
        return Dataset.from_arrays(
            **arrays,
            **bounds,
            env_id=given.options.get("env"),
            name=f"table:{reference}",
            provenance={"source": "table", "file": path.name} | described(columns, roles, order, arrays),
        )


def _parse(reference: str) -> tuple[str, ColumnMap]:
    """Take a reference apart into the file and what its columns are."""
    place, mark, said = reference.rpartition("#")
    if not mark or "=" not in said:
        return reference, ColumnMap({}, {})
    columns: dict[str, tuple[str, ...]] = {}
    options: dict[str, str] = {}
    for part in said.split(","):
        key, equals, value = (text.strip() for text in part.partition("="))
        if key not in (*ROLES, *_OPTIONS) or not (equals and value):
            close = difflib.get_close_matches(key, (*ROLES, *_OPTIONS), n=1)
            hint = f"did you mean {close[0]!r}? " if close and close[0] != key else ""
            raise DatasetError(
                f"table:{reference}: cannot read {part!r}; {hint}write ROLE=COLUMN, or COLUMN+COLUMN for several, with "
                f"roles {', '.join(ROLES)}; options are {', '.join(_OPTIONS)}"
            )
        if key in columns or key in options:
            raise DatasetError(f"table:{reference}: {key} is given twice")
        if key in ROLES or key == TIME:
            columns[key] = tuple(name.strip() for name in value.split("+"))
        else:
            options[key] = value
    return place, ColumnMap(columns, options)


def check_table(reference: str) -> None:
    """Raise `DatasetError` for a column map that cannot be read."""
    _parse(reference)


def _complete(arrays: dict[str, Any], rows: int, names: Mapping[str, str]) -> None:
    """Write constants out and combine ends; in place. names: columns of the table by our names."""
    for name in ("rewards", "terminals", "timeouts", "done"):
        if name in arrays and not isinstance(arrays[name], np.ndarray):
            arrays[name] = np.full(rows, arrays[name])
    for name in ("observations", "actions", "next_observations", "episode_ids"):
        if name in arrays and not isinstance(arrays[name], np.ndarray):
            raise DatasetError(f"{name} must be columns, not the number {arrays[name]:g}")
    read_ends(arrays, names)
    arrays.setdefault("terminals", np.zeros(rows, bool))


def _cut(arrays: dict[str, Any]) -> None:
    """Mark where named episodes were cut, if nothing else says so; in place."""
    ids = arrays.get("episode_ids")
    if ids is not None and "timeouts" not in arrays:
        last = np.append(ids[1:] != ids[:-1], True)
        arrays["timeouts"] = last & ~(np.asarray(arrays["terminals"]) != 0)


def _bounds(name: str, text: str) -> float | list[float]:
    """One number, or one per dimension joined by "+", such as "-1+-0.5"."""
    values = [number(part.strip()) for part in re.split(r"(?<=[\d.])\+", text)]
    if any(value is None for value in values):
        raise DatasetError(f"{name} must be one number, or one per dimension joined by +, not {text!r}")
    numbers: Iterable[float] = (value for value in values if value is not None)
    several = list(numbers)
    return several[0] if len(several) == 1 else several


__all__ = ["ROLES", "SUFFIXES", "check_table", "load_table"]
