"""Data sets in npz files: written by `save_npz`, read bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.files import Array, ArrayFile, existing_file, open_npz
from adaptive_constraints.data.sources.layouts import REQUIRED, read_columns, require
from adaptive_constraints.data.sources.neorl import is_neorl, neorl_task
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.files import replacing

#: Version of the layout that `save_npz` writes, stored in the file's metadata.
_NPZ_LAYOUT = 1


_SHARED = ("next_observation_rows", "next_observation_values")


_WRITTEN = ("observations", "actions", "rewards", "terminals", "timeouts", "episode_ids", "action_low", "action_high")
"""Arrays that every file of `save_npz` holds, beside `_SHARED`."""


@checked(DatasetError)
def save_npz(dataset: Dataset, path: str | Path) -> None:
    """Write a data set so that `npz:PATH` reads back every number bit for bit; the old file stays if writing fails.

    Observations are stored once: only next observations that differ from the following row's observation (an
    episode's last one) are stored beside them.
    """
    arrays = dataset.arrays()
    following = arrays.pop("next_observations")
    rows = np.flatnonzero(~_is_next_row(dataset))
    arrays["next_observation_rows"] = rows
    arrays["next_observation_values"] = following[rows]
    metadata = {
        "layout": _NPZ_LAYOUT,
        "env_id": dataset.env_id,
        "env_spec": dataset.env_spec,
        "task": dataset.task,
        "provenance": dict(dataset.provenance),
        "arrays": sorted(arrays),
    }
    arrays["metadata"] = np.array(_json(metadata))
    with replacing(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _is_next_row(dataset: Dataset) -> Array:
    """[N] bool: the next observation is, bit for bit, the observation of the next row (of any episode)."""
    same = (dataset.next_observations[:-1].view(np.uint32) == dataset.observations[1:].view(np.uint32)).all(axis=1)
    return np.append(same, False)


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"the provenance of a data set must be text ({error}): {metadata['provenance']}") from error


def load_npz(file: str, ignore: Sequence[str] = ()) -> Dataset:
    """The data set of an npz file, but for the arrays that ``ignore`` names."""
    return read_npz(existing_file(file, (".npz",)), f"npz:{file}", ignore)


def read_npz(path: Path, reference: str, ignore: Sequence[str] = ()) -> Dataset:
    """The data set of an npz file under the name ``reference``."""
    with open_npz(path) as file:
        metadata = _npz_metadata(file)
        require(file, file.names, metadata.get("arrays", ()))
        columns = read_columns(_less(file, ("metadata", *_SHARED)), ignore)
        if _SHARED[0] in file.names:
            columns["next_observations"] = _next_observations(file, columns)
        task, env_id = neorl_task(path.name) if is_neorl(file.names) else (metadata.get("task"), metadata.get("env_id"))
        return Dataset.from_arrays(
            **columns,
            env_id=env_id,
            task=task,
            name=reference,
            provenance=metadata.get("provenance", {}),
            env_spec=metadata.get("env_spec"),
        )


def _less(file: ArrayFile, names: Sequence[str]) -> ArrayFile:
    """The file as if it did not hold the arrays of these names."""
    return dataclasses.replace(file, names=tuple(name for name in file.names if name not in names))


def _npz_metadata(file: ArrayFile) -> dict[str, Any]:
    """The metadata of `save_npz`, with "arrays", the names of those it wrote; {} of a file of others."""
    if "metadata" not in file.names:
        return {}
    try:
        metadata = json.loads(str(file.read("metadata")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(
            f"the metadata of {file.path} is not JSON ({error}); write the file with save_npz"
        ) from error
    if not isinstance(metadata, dict):
        raise DatasetError(f"the metadata of {file.path} is not a JSON object; write the file with save_npz")
    if metadata.get("layout") != _NPZ_LAYOUT:
        raise DatasetError(
            f"{file.path} has layout {metadata.get('layout')!r}, but this version reads layout {_NPZ_LAYOUT}; "
            "use the version of adaptive-constraints that wrote it"
        )
    for key, fits in _METADATA_FITS.items():
        if key in metadata and not fits(metadata[key]):
            raise DatasetError(f"the metadata of {file.path} is damaged: {key} cannot be {metadata[key]!r}")
    return {"arrays": [*_WRITTEN, *_SHARED]} | metadata


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


_METADATA_FITS: dict[str, Callable[[Any], bool]] = {
    "env_id": lambda value: value is None or _is_text(value),
    "env_spec": lambda value: value is None or isinstance(value, dict),
    "task": lambda value: value is None or _is_text(value),
    "provenance": lambda value: (
        isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_text, value.values()))
    ),
    "arrays": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}


def _next_observations(file: ArrayFile, columns: Mapping[str, Any]) -> Array:
    """[N, D] what `save_npz` made two arrays of: the next row's observation, but for some rows.

    Raises `DatasetError` where the two do not fit the observations: numpy would repeat or wrap around.
    """
    require(file, file.names, (*REQUIRED, *_SHARED))
    rows, values = (file.read(name) for name in _SHARED)
    observations = columns["observations"]
    numbered = rows.dtype.kind in "iu" and rows.ndim == 1 and len(rows) > 0 and observations.ndim == 2
    fits = numbered and (values.shape, values.dtype) == ((len(rows), observations.shape[1]), observations.dtype)
    ascending = fits and rows[0] >= 0 and (rows[1:] > rows[:-1]).all() and rows[-1] == len(observations) - 1
    if not ascending or "next_observations" in columns:
        raise DatasetError(
            f"{file.path} is inconsistent (next observations of {list(values.shape)} for rows {list(rows.shape)} of "
            f"{list(observations.shape)}); write it again with save_npz"
        )
    following = np.concatenate([observations[1:], observations[:1]])
    following[rows] = values
    return following
