"""`load_dataset("scheme:reference")` for every kind of source, and `save_npz` for the one that we write."""

from __future__ import annotations

import dataclasses
import importlib.resources
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints._arguments import checked
from adaptive_constraints._files import replacing
from adaptive_constraints.data import ogbench_sets
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.files import (
    ArrayFile,
    existing_file,
    import_extra,
    open_hdf5,
    open_npz,
    reading,
    suggest,
)
from adaptive_constraints.data.layouts import REQUIRED, read_columns, require
from adaptive_constraints.data.mazes import find_maze, scripted_names
from adaptive_constraints.data.mending import Repairs
from adaptive_constraints.data.references import task_of_file, task_of_spec
from adaptive_constraints.errors import DatasetError, DependencyError

Array = NDArray[Any]

#: Version of the layout that `save_npz` writes, stored in the file's metadata.
_NPZ_LAYOUT = 1
_SHARED = ("next_observation_rows", "next_observation_values")
_WRITTEN = ("observations", "actions", "rewards", "terminals", "timeouts", "episode_ids", "action_low", "action_high")
"""What every file of `save_npz` holds, beside `_SHARED`."""


@checked(DatasetError)
def load_dataset(
    reference: str,
    *,
    download: bool = False,
    ignore: Sequence[str] = (),
    action_low: float | Sequence[float] | None = None,
    action_high: float | Sequence[float] | None = None,
    renumber_episodes: bool = False,
    mark_ends: bool = False,
    split_at_joins: bool = False,
    relabel_timeouts: bool = False,
    derive_next_observations: bool = False,
    drop_bad_rows: bool = False,
    clip_actions: bool = False,
) -> Dataset:
    """Load a data set by reference; raises `DatasetError` listing what is there if it cannot be found or read.

    - `bundled:hopper`: shipped with this package.
    - `scripted:pointmaze/umaze` (medium, large): collected here on first use and kept in the cache folder.
    - `minari:NAMESPACE/NAME-v0`: from Minari's local folder (`MINARI_DATASETS_PATH`); fetched only if `download`.
    - `ogbench:NAME-singletask-v0`: from OGBench's folder, with one task's rewards; fetched only if `download`.
    - `d4rl:FILE.hdf5`: a file in D4RL's layout, read without the d4rl package, or one of d3rlpy (1 or 2).
    - `npz:FILE`: arrays named as in `Dataset`, or what `save_npz` wrote.

    Files may also name their arrays obs, act, rew, done, terminated, truncated, next_obs and the like.

    ignore: arrays or groups of a file to leave out; `*` stands for any text. Others of unknown meaning are an error.
    action_low and all that follows: see `Repairs`, whose fields they are; nothing is mended unasked. The command
    `adaptive-constraints repair` does the same and writes the result as npz.
    """
    check_reference(reference)
    repairs = Repairs(
        action_low=action_low,
        action_high=action_high,
        renumber_episodes=renumber_episodes,
        mark_ends=mark_ends,
        split_at_joins=split_at_joins,
        relabel_timeouts=relabel_timeouts,
        derive_next_observations=derive_next_observations,
        drop_bad_rows=drop_bad_rows,
        clip_actions=clip_actions,
    )
    return repairs.apply(_load(reference, download, ignore))[0]


def _load(reference: str, download: bool, ignore: Sequence[str]) -> Dataset:
    """What a checked reference names, as it is."""
    scheme, _, rest = reference.partition(":")
    if scheme in _FILE_SCHEMES:
        return _FILE_SCHEMES[scheme](rest, ignore)
    if ignore:
        raise DatasetError(f"ignore is for arrays of a file ({', '.join(_FILE_SCHEMES)}), not for {reference}")
    fetching = _FETCHING_SCHEMES.get(scheme)
    return fetching(rest, download) if fetching else _LOCAL_SCHEMES[scheme](rest)


def check_reference(reference: str) -> None:
    """Raise `DatasetError` for what can be no data reference, without looking whether files are here."""
    scheme, colon, rest = reference.partition(":")
    if not (colon and rest and scheme in {*_FETCHING_SCHEMES, *_LOCAL_SCHEMES, *_FILE_SCHEMES}):
        hint = _meant(reference)
        raise DatasetError(f"unknown data reference {reference!r}; {hint}use one of: {', '.join(_USAGES)}")
    if scheme == "bundled" and rest not in (names := _bundled_names()):
        raise DatasetError(f"no bundled data set {rest!r}; {suggest(rest, names)}")
    if scheme == "scripted":
        find_maze(rest)
    if scheme == "ogbench":
        ogbench_sets.check_name(rest)


def _meant(reference: str) -> str:
    """A question that names the reference of a file, if one is there; "" otherwise."""
    for name in (reference, reference.partition(":")[2]):
        scheme = _SCHEME_OF_SUFFIX.get(Path(name).suffix)
        with suppress(OSError, RuntimeError):  # names too long, folders that may not be looked at
            if scheme and Path(name).expanduser().is_file():
                return f"did you mean {scheme}:{name}? "
    return ""


def list_datasets() -> list[str]:
    """References that load without a download: bundled sets, then those that the installed extras can make or read."""
    bundled = [f"bundled:{name}" for name in _bundled_names()]
    minari = [f"minari:{name}" for name in _local_minari_names()]
    return bundled + scripted_names() + minari + [f"ogbench:{name}" for name in _local_ogbench_names()]


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


def _load_npz(file: str, ignore: Sequence[str] = ()) -> Dataset:
    return _read_npz(existing_file(file, (".npz",)), f"npz:{file}", ignore)


def _read_npz(path: Path, reference: str, ignore: Sequence[str] = ()) -> Dataset:
    with open_npz(path) as file:
        metadata = _npz_metadata(file)
        require(file, file.names, metadata.get("arrays", ()))
        columns = read_columns(_less(file, ("metadata", *_SHARED)), ignore)
        if _SHARED[0] in file.names:
            columns["next_observations"] = _next_observations(file, columns)
        return Dataset.from_arrays(
            **columns,
            env_id=metadata.get("env_id"),
            task=metadata.get("task"),
            name=reference,
            provenance=metadata.get("provenance", {}),
            env_spec=metadata.get("env_spec"),
        )


def _less(file: ArrayFile, names: Sequence[str]) -> ArrayFile:
    """The file as if it did not hold the arrays of these names."""
    return dataclasses.replace(file, names=tuple(name for name in file.names if name not in names))


def _npz_metadata(file: ArrayFile) -> dict[str, Any]:
    """What `save_npz` wrote beside the arrays, with "arrays", the names of those it wrote; {} of a file of others."""
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


def _load_hdf5(file: str, ignore: Sequence[str] = ()) -> Dataset:
    import_extra("h5py", "minari")
    path = existing_file(file, (".hdf5", ".h5"))
    task, env_id = task_of_file(path.name)
    provenance = {"source": "HDF5 file", "file": path.name}
    with open_hdf5(path) as content:
        columns = read_columns(content, ignore)
        return Dataset.from_arrays(**columns, task=task, env_id=env_id, name=f"d4rl:{file}", provenance=provenance)


def _load_minari(name: str, download: bool) -> Dataset:
    minari = import_extra("minari", "minari")
    if not download and name not in (local := _local_minari_names()):
        raise DatasetError(
            f"Minari has no local data set {name!r}; {suggest(name, local)}. "
            "Pass download=True (on the command line: --download) to fetch it, "
            "or set MINARI_DATASETS_PATH to the folder that holds it"
        )
    try:
        source = minari.load_dataset(name, download=download)
    except Exception as error:  # minari raises bare exceptions of many types for a wrong name and for a lost network
        raise DatasetError(f"Minari cannot load {name!r}: {error}") from error
    with reading(f"minari:{name}", "data set of Minari"):
        return _from_minari(source, name)


def _from_minari(source: Any, name: str) -> Dataset:
    from gymnasium.spaces import Box

    spaces = {"observation": source.observation_space, "action": source.action_space}
    for kind, space in spaces.items():
        if not (isinstance(space, Box) and len(space.shape) == 1):
            raise DatasetError(f"minari:{name} has the {kind} space {space}; only flat Box spaces can be learned from")
    columns: dict[str, list[Array]] = {key: [] for key in (*REQUIRED, "timeouts", "next_observations", "episode_ids")}
    for index, episode in enumerate(source.iterate_episodes()):
        timeouts = np.array(episode.truncations, bool)
        timeouts[-1] |= not episode.terminations[-1]  # recording stopped without saying why: not a death
        columns["observations"].append(episode.observations[:-1])
        columns["next_observations"].append(episode.observations[1:])
        columns["actions"].append(episode.actions)
        columns["rewards"].append(episode.rewards)
        columns["terminals"].append(episode.terminations)
        columns["timeouts"].append(timeouts)
        columns["episode_ids"].append(np.full(len(timeouts), index))
    if not columns["rewards"]:
        raise DatasetError(f"minari:{name} is empty: it has no episodes; record it again")
    for_evaluation = source.storage.metadata.get("eval_env_spec")  # where there is one, its authors evaluate in it
    env_spec = json.loads(for_evaluation) if for_evaluation else source.env_spec
    arrays: dict[str, Any] = {key: np.concatenate(parts) for key, parts in columns.items()}
    return Dataset.from_arrays(
        **arrays,
        action_low=spaces["action"].low,
        action_high=spaces["action"].high,
        env_spec=env_spec,
        task=task_of_spec(env_spec),
        name=f"minari:{name}",
        provenance=_minari_provenance(source.storage.metadata),
    )


def _minari_provenance(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What the data set says about itself, its own reference returns included, as text."""
    keys = (
        "dataset_id",
        "algorithm_name",
        "author",
        "code_permalink",
        "minari_version",
        "ref_min_score",
        "ref_max_score",
    )
    return {"source": "Minari", **{key: str(metadata[key]) for key in keys if metadata.get(key) is not None}}


def _load_ogbench(name: str, download: bool) -> Dataset:
    ogbench = import_extra("ogbench", "ogbench")
    with reading(f"ogbench:{name}", "data set of OGBench"):
        return ogbench_sets.load_single_task(ogbench, name, download)


def _load_bundled(name: str) -> Dataset:
    resource = importlib.resources.files("adaptive_constraints.data") / "bundled" / f"{name}.npz"
    with importlib.resources.as_file(resource) as path:
        return _read_npz(path, f"bundled:{name}")


def _bundled_names() -> list[str]:
    folder = importlib.resources.files("adaptive_constraints.data") / "bundled"
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".npz") for entry in folder.iterdir() if entry.name.endswith(".npz"))


def _load_scripted(name: str) -> Dataset:
    from adaptive_constraints.data.scripted import load_scripted  # which collects, and so imports this module

    return load_scripted(name)


def _local_minari_names() -> list[str]:
    try:
        minari = import_extra("minari", "minari")
    except DependencyError:
        return []
    with reading("MINARI_DATASETS_PATH", "folder of Minari's data sets"):
        return sorted(minari.list_local_datasets())


def _local_ogbench_names() -> list[str]:
    return ogbench_sets.local_names() if importlib.util.find_spec("ogbench") else []


_LOCAL_SCHEMES: dict[str, Callable[[str], Dataset]] = {"bundled": _load_bundled, "scripted": _load_scripted}
_FILE_SCHEMES: dict[str, Callable[[str, Sequence[str]], Dataset]] = {"d4rl": _load_hdf5, "npz": _load_npz}
_FETCHING_SCHEMES: dict[str, Callable[[str, bool], Dataset]] = {"minari": _load_minari, "ogbench": _load_ogbench}
_SCHEME_OF_SUFFIX = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl"}
_USAGES = (
    "bundled:NAME",
    "scripted:pointmaze/NAME",
    "minari:NAMESPACE/NAME-v0",
    "ogbench:NAME-singletask-v0",
    "d4rl:FILE.hdf5",
    "npz:FILE.npz",
)
