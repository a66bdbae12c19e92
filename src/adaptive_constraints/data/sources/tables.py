"""Data sets in tables: CSV, Parquet, Arrow, folders of them, Hugging Face data sets, LeRobot v3.

``table:FILE#obs=x+y+angle,action=u,reward=r,episode=id,terminal=crashed`` says which columns are what; what is not said
is found by its name. pyarrow reads the files.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.files import import_extra, listed, reading, suggest
from adaptive_constraints.data.sources.layouts import OTHER_NAMES, read_ends
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

ROLES = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminal": "terminals",
    "timeout": "timeouts",
    "done": "done",
    "episode": "episode_ids",
}
"""What columns are for, as references write it, and our names of the arrays."""
_OPTIONS = ("time", "action_low", "action_high", "env")
_USUAL = {
    **{role: (role, ours, *OTHER_NAMES.get(ours, ())) for role, ours in ROLES.items()},
    "episode": ("episode", "episode_id", "episode_ids", "episode_index", "trajectory", "trajectory_id"),
}
"""Names by which columns are found that a reference says nothing of."""
_LEROBOT = {
    "obs": ("observation.state", "observation.environment_state"),
    "action": ("action",),
    "reward": ("next.reward",),
    "done": ("next.done",),
    "timeout": ("next.truncated",),
    "episode": ("episode_index",),
    "time": ("frame_index",),
}
"""Columns of LeRobot's format; of the first two lists, all that are there."""
SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
"""Kinds of tables, in the order in which a folder is searched for them."""


@dataclass(frozen=True)
class ColumnMap:
    """Columns by what they are for, and the options of a reference."""

    columns: Mapping[str, tuple[str, ...]]
    """Names, or patterns of names, by role."""
    options: Mapping[str, str]


def load_table(reference: str, ignore: Sequence[str] = ()) -> Dataset:
    """The data set of a table or of a folder of tables; ``ignore`` is of no use here and must be empty.

    Rows of an episode are put together in the order in which they stand, or in that of ``time``. Episodes begin where
    the episode's name changes; without such a column they end at marked rows. Where episodes are named and no ends
    are, nothing is a true end: each was cut.
    """
    if ignore:
        raise DatasetError("ignore is not for tables: a table's columns are those that the reference names")
    place, given = _parse(reference)
    path = Path(place).expanduser()
    with reading(f"table:{place}", "table"):
        table, usual = _read(path)
        columns = _Columns(place, table)
        roles = _resolved(columns, given, usual)
        arrays: dict[str, Any] = {
            ROLES[role]: columns.read(role, names) for role, names in roles.items() if role in ROLES
        }
        order = _order(arrays, columns.read("time", roles["time"]) if "time" in roles else None)
        if order is not None:
            arrays = {name: array[order] if isinstance(array, np.ndarray) else array for name, array in arrays.items()}
        arrays |= {
            name: _bounds(name, given.options[name]) for name in ("action_low", "action_high") if name in given.options
        }
        _fill(arrays, table.num_rows)
        said = ",".join(f"{role}={'+'.join(names)}" for role, names in roles.items())
        return Dataset.from_arrays(
            **arrays,
            env_id=given.options.get("env"),
            name=f"table:{reference}",
            provenance={"source": "table", "file": path.name, "columns": said},
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
            raise DatasetError(f"table:{reference}: {key} stands there twice")
        if key in ROLES or key == "time":
            columns[key] = tuple(name.strip() for name in value.split("+"))
        else:
            options[key] = value
    return place, ColumnMap(columns, options)


def check_table(reference: str) -> None:
    """Raise `DatasetError` for a column map that cannot be read."""
    _parse(reference)


# -- files --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[Any, Mapping[str, tuple[str, ...]]]:
    """A pyarrow table with struct columns flattened, and the names that such a source usually has."""
    import_extra("pyarrow", "table")
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DatasetError(f"no file or folder {path}; {suggest(path.name, there)}")
    return _flattened(_read_file(path)), _USUAL


def _read_folder(path: Path) -> tuple[Any, Mapping[str, tuple[str, ...]]]:
    import pyarrow

    if (path / "meta" / "info.json").is_file():
        return _flattened(_read_lerobot(path)), _LEROBOT
    if (path / "state.json").is_file():  # Hugging Face's save_to_disk
        state = json.loads((path / "state.json").read_text())
        files = [path / entry["filename"] for entry in state["_data_files"]]
    elif (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        raise DatasetError(
            f"{path} holds several splits: name one of {', '.join(f'{path / split}' for split in splits)}"
        )
    else:
        found = [sorted(path.rglob(f"*{suffix}")) for suffix in SUFFIXES]
        files = next((group for group in found if group), [])
    if not files:
        raise DatasetError(f"{path} holds no tables ({', '.join(SUFFIXES)})")
    tables = [_read_file(file) for file in files]
    return _flattened(pyarrow.concat_tables(tables, promote_options="default")), _USUAL


def _read_lerobot(path: Path) -> Any:
    """The frames of a LeRobot data set of version 3, less what is kept as images or videos."""
    import pyarrow

    info = json.loads((path / "meta" / "info.json").read_text())
    version = str(info.get("codebase_version", "none"))
    if not version.startswith("v3."):
        raise DatasetError(
            f"{path} is a LeRobot data set of version {version}, but version 3 is read: convert it with LeRobot's "
            "convert_dataset_v21_to_v30"
        )
    features = info.get("features", {})
    shown = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    files = sorted((path / "data").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{path} has no frames: {path / 'data'} holds no chunk-000/file-000.parquet")
    tables = [_read_file(file) for file in files]
    table = pyarrow.concat_tables(tables, promote_options="default")
    return table.drop_columns([name for name in shown if name in table.column_names])


def _read_file(path: Path) -> Any:
    from pyarrow import csv, feather, ipc, parquet

    suffix = path.suffix.lower()
    if suffix == ".gz":
        suffix = path.with_suffix("").suffix.lower()
    if suffix in (".csv", ".tsv"):
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ","))
    if suffix == ".parquet":
        return parquet.read_table(path)
    if suffix in (".arrow", ".feather"):
        try:
            return feather.read_table(path)
        except Exception:  # Arrow's other format, which Hugging Face writes, is not a file but a stream
            with ipc.open_stream(path.read_bytes()) as stream:
                return stream.read_all()
    raise DatasetError(f"{path} is no table of a known kind ({', '.join(SUFFIXES)})")


def _flattened(table: Any) -> Any:
    """The table with the fields of its struct columns as columns of their own: ``state.x``."""
    import pyarrow

    while any(pyarrow.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    if len(set(table.column_names)) != len(table.column_names):
        doubled = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise DatasetError(f"columns stand there twice: {listed(doubled)}")
    return table


# -- columns ------------------------------------------------------------------------------------------------------


class _Columns:
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

    def read(self, role: str, names: Sequence[str]) -> Any:
        """What columns hold: [N, D] for observations and actions, [N] for others; a number stands for itself."""
        if len(names) == 1 and (constant := _number(names[0])) is not None and names[0] not in self.names:
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

    def _array(self, name: str, role: str) -> Array:
        import pyarrow

        column = self.table[name].combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):  # of several chunks, or of none
            column = pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
        kind = column.type
        if isinstance(column, pyarrow.ExtensionArray):
            column, kind = column.storage, column.storage.type
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
            return np.asarray(column.cast(pyarrow.int64()).to_numpy(zero_copy_only=False))
        if pyarrow.types.is_decimal(kind):
            column = column.cast(pyarrow.float64())
        return self._numbers(name, column)

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
            nested = " (lists of lists, such as images, are not read)" if "list" in str(kind) else ""
            raise DatasetError(f"column {name!r} must hold numbers, but its type is {kind}{nested}; convert it first")
        return np.asarray(values.to_numpy(zero_copy_only=False))


def _resolved(columns: _Columns, given: ColumnMap, usual: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Columns by role: those that the reference names, then those found by their names."""
    roles = dict(given.columns)
    ends = {"terminal", "timeout", "done"} & roles.keys()
    for role, names in usual.items():
        there = tuple(name for name in names if name in columns.names)
        unsaid = role not in roles and not (ends and role in ("terminal", "timeout", "done"))
        if unsaid and there:
            roles[role] = there if usual is _LEROBOT else there[:1]
    missing = [role for role in ("obs", "action", "reward") if role not in roles]
    if missing:
        wanted = ",".join(f"{role}=..." for role in missing)
        constant = "; reward=0 stands for no rewards (imitation only)" if "reward" in missing else ""
        raise DatasetError(
            f"table:{columns.place}: nothing says which columns are {', '.join(missing)}; name them: "
            f"table:{columns.place}#{wanted}{constant}. Columns: {listed(columns.names, 40)}"
        )
    return roles


def _order(arrays: Mapping[str, Any], time: Any) -> Array | None:
    """The order [N] that puts the rows of an episode together, in order of time; None where they are so already."""
    ids = arrays.get("episode_ids")
    if ids is None and time is None:
        return None
    rows = len(time if ids is None else ids)
    keys = [key for key in (time, ids) if isinstance(key, np.ndarray)]
    order = np.lexsort(keys) if keys else np.arange(rows)  # stable; the last key counts most
    return None if (order == np.arange(rows)).all() else order


def _fill(arrays: dict[str, Any], rows: int) -> None:
    """Write constants out, combine ends, and mark where named episodes were cut; in place."""
    for name in ("rewards", "terminals", "timeouts", "done"):
        if name in arrays and not isinstance(arrays[name], np.ndarray):
            arrays[name] = np.full(rows, arrays[name])
    for name in ("observations", "actions", "next_observations", "episode_ids"):
        if name in arrays and not isinstance(arrays[name], np.ndarray):
            raise DatasetError(f"{name} must be columns, not the number {arrays[name]:g}")
    read_ends(arrays)
    ids = arrays.get("episode_ids")
    arrays.setdefault("terminals", np.zeros(rows, bool))
    if ids is not None and "timeouts" not in arrays:
        last = np.append(ids[1:] != ids[:-1], True)
        arrays["timeouts"] = last & ~(np.asarray(arrays["terminals"]) != 0)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) else None


def _bounds(name: str, text: str) -> float | list[float]:
    """One number, or one per dimension joined by "+", such as "-1+-0.5"."""
    values = [_number(part.strip()) for part in re.split(r"(?<=[\d.])\+", text)]
    if any(value is None for value in values):
        raise DatasetError(f"{name} must be one number, or one per dimension joined by +, not {text!r}")
    numbers: Iterable[float] = (value for value in values if value is not None)
    several = list(numbers)
    return several[0] if len(several) == 1 else several


__all__ = ["ROLES", "SUFFIXES", "check_table", "load_table"]
