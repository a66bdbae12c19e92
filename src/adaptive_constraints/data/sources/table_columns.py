"""Columns of a table as arrays of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.files import listed, suggest
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.outside import PIXELS

Array = NDArray[Any]


class Columns:
    """Columns of a table as arrays of numbers."""

    def __init__(self, place: str, table: Any) -> None:
        self.place, self.table = place, table
        self.names: list[str] = table.column_names

    def matching(self, pattern: str) -> list[str]:
        """Columns of this name, or of this pattern, in the order of the table."""
        if pattern in self.names:
            return [pattern]
        found = [name for name in self.names if fnmatchcase(name, pattern)]
        if not found:
            raise DatasetError(f"table:{self.place} has no column {pattern!r}; {suggest(pattern, self.names)}")
        return found

    def expanded(self, names: Sequence[str]) -> list[str]:
        """Columns of several names or patterns; a number that stands for itself is none."""
        columns = (name for name in names if name in self.names or number(name) is None)
        return [column for name in columns for column in self.matching(name)]

    def read(self, role: str, names: Sequence[str]) -> Any:
        """What columns hold: [N, D] for observations and actions, [N] for others; a number stands for itself."""
        if len(names) == 1 and (constant := number(names[0])) is not None and names[0] not in self.names:
            return constant
        parts = [self._array(name, role) for pattern in names for name in self.matching(pattern)]
        if role in ("obs", "next_obs", "action"):
            return np.concatenate([part if part.ndim == 2 else part[:, None] for part in parts], axis=1)
        if len(parts) > 1:
            raise DatasetError(f"table:{self.place}: {role} is one column, not {listed(names)}")
        (part,) = parts
        if part.ndim == 2 and part.shape[1] == 1:
            part = part[:, 0]
        if part.ndim != 1:
            raise DatasetError(
                f"table:{self.place}: {role} needs one value per row, but {names[0]} has {part.shape[1]}"
            )
        return part

    def time(self, name: str) -> Array | None:
        """[N] of a column that may hold times, NaN where it has no value; None where it holds no such numbers."""
        import pyarrow
        from pyarrow import types

        column = self._plain(name)
        kind = column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_temporal(kind) or types.is_decimal(kind)):
            return None
        if column.null_count:
            column = (_ticks(column) if types.is_temporal(kind) else column).cast(pyarrow.float64(), safe=False)
            return np.asarray(column.to_numpy(zero_copy_only=False))
        return self._array(name, "time")

    def flag(self, name: str) -> Array | None:
        """[N] bool of a column of 0 and 1 that is 1 somewhere; None for any other, and for one with holes."""
        from pyarrow import types

        column = self._plain(name)
        kind = column.type
        if column.null_count or not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
            return None
        values = np.asarray(column.to_numpy(zero_copy_only=False))
        return values == 1 if ((values == 0) | (values == 1)).all() and (values == 1).any() else None

    def _plain(self, name: str) -> Any:
        """A column as one array of pyarrow's, without an extension around it."""
        import pyarrow

        column = self.table[name].combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):  # of several chunks, or of none
            column = pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
        return column.storage if isinstance(column, pyarrow.ExtensionArray) else column

    def _array(self, name: str, role: str) -> Array:
        import pyarrow

        column = self._plain(name)
        kind = column.type
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
            raise DatasetError(
                f"column {name!r} has no value in {column.null_count} rows (the first: {rows[0]}): fill them in, or "
                "drop them and end the episode there"
            )
        if role == "episode":
            return np.asarray(column.dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)
        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
            return self._stacked(name, column)
        if pyarrow.types.is_temporal(kind) and role == "time":
            return np.asarray(_ticks(column).to_numpy(zero_copy_only=False), np.int64)
        if pyarrow.types.is_decimal(kind):
            column = column.cast(pyarrow.float64())
        values = self._numbers(name, column)
        return values.astype(np.int64) if role == "time" and values.dtype.kind in "ub" else values

    def _stacked(self, name: str, column: Any) -> Array:
        """[N, D] of a column of lists, which must all have D numbers."""
        lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False), np.int64)
        if len(lengths) and (lengths != lengths[0]).any():
            row = int(np.argmax(lengths != lengths[0]))
            raise DatasetError(
                f"column {name!r} has lists of several lengths: {lengths[0]} in row 0, {lengths[row]} in row {row}"
            )
        values = column.flatten()
        if values.null_count:
            raise DatasetError(f"column {name!r} has {values.null_count} entries without a value in its lists")
        return self._numbers(name, values).reshape(len(lengths), -1)

    def _numbers(self, name: str, values: Any) -> Array:
        import pyarrow

        kind = values.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
            nested = f" (lists of lists, such as images, are not read: {PIXELS})" if "list" in str(kind) else ""
            raise DatasetError(f"column {name!r} must hold numbers, but its type is {kind}{nested}; convert it first")
        return np.asarray(values.to_numpy(zero_copy_only=False))


def _ticks(column: Any) -> Any:
    """Times as whole numbers; of dates and of times of day pyarrow makes those of their own width only."""
    import pyarrow

    return column.cast(pyarrow.int32() if column.type.bit_width == 32 else pyarrow.int64())


def number(text: str) -> float | None:
    """A number that a text says; None where it says none."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) else None


__all__ = ["Columns", "number"]
