"""Files and folders of tables, read by pyarrow: CSV, Parquet, Arrow, Hugging Face's and LeRobot's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptive_constraints.data.sources.files import import_extra, listed, suggest
from adaptive_constraints.errors import DatasetError

_UNNAMED = "Unnamed: 0"
SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
"""Kinds of tables, in the order in which a folder is searched for them."""


def read_table(path: Path) -> tuple[Any, bool]:
    """A pyarrow table with struct columns flattened, and whether it is a LeRobot data set."""
    import_extra("pyarrow", "table")
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DatasetError(f"no file or folder {path}; {suggest(path.name, there)}")
    return _flattened(_read_file(path)), False


def _read_folder(path: Path) -> tuple[Any, bool]:
    import pyarrow

    if (path / "meta" / "info.json").is_file():
        return _flattened(_read_lerobot(path)), True
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
    return _flattened(pyarrow.concat_tables(tables, promote_options="default")), False


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
    if "" in table.column_names:  # pandas writes its index without a name, and reads it by this one
        table = table.rename_columns([name or _UNNAMED for name in table.column_names])
    if len(set(table.column_names)) != len(table.column_names):
        doubled = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise DatasetError(f"column names that occur twice: {listed(doubled)}")
    return table


__all__ = ["SUFFIXES", "read_table"]
