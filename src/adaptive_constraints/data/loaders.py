"""`load_dataset("scheme:reference")` for every kind of source, and `save_npz` for the one that we write."""

from __future__ import annotations

import difflib
import importlib.resources
import importlib.util
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints._arguments import checked
from adaptive_constraints._files import replacing
from adaptive_constraints.data import ogbench_sets
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.mazes import find_maze, scripted_names
from adaptive_constraints.data.references import task_of_env, task_of_file
from adaptive_constraints.errors import DatasetError, DependencyError

Array = NDArray[Any]

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_RECORDED = ("recorded_returns", "recorded_lengths", "recorded_success")  # of rows that are not there
_OPTIONAL = ("next_observations", "timeouts", "episode_ids", "action_low", "action_high", *_RECORDED)
#: Version of the layout that `save_npz` writes, stored in the file's metadata.
_NPZ_LAYOUT = 1


@checked(DatasetError)
def load_dataset(reference: str, *, download: bool = False) -> Dataset:
    """Load a data set by reference; raises `DatasetError` listing what is there if it cannot be found or read.

    - `bundled:hopper`: shipped with this package.
    - `scripted:pointmaze/umaze` (medium, large): collected here on first use and kept in the cache folder.
    - `minari:NAMESPACE/NAME-v0`: from Minari's local folder (`MINARI_DATASETS_PATH`); fetched only if `download`.
    - `ogbench:NAME-singletask-v0`: from OGBench's folder, with one task's rewards; fetched only if `download`.
    - `d4rl:FILE.hdf5`: a file in D4RL's layout, read without the d4rl package.
    - `npz:FILE`: arrays named as in `Dataset`, or what `save_npz` wrote.
    """
    check_reference(reference)
    scheme, _, rest = reference.partition(":")
    fetching = _FETCHING_SCHEMES.get(scheme)
    return fetching(rest, download) if fetching else _LOCAL_SCHEMES[scheme](rest)


def check_reference(reference: str) -> None:
    """Raise `DatasetError` for what can be no data reference, without looking whether files are here."""
    scheme, colon, rest = reference.partition(":")
    if not (colon and rest and scheme in {*_FETCHING_SCHEMES, *_LOCAL_SCHEMES}):
        raise DatasetError(f"unknown data reference {reference!r}; use one of: {', '.join(_USAGES)}")
    if scheme == "bundled" and rest not in (names := _bundled_names()):
        raise DatasetError(f"no bundled data set {rest!r}; {_suggest(rest, names)}")
    if scheme == "scripted":
        find_maze(rest)
    if scheme == "ogbench":
        ogbench_sets.check_name(rest)


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
        "task": dataset.task,
        "provenance": dict(dataset.provenance),
    }
    arrays["metadata"] = np.array(json.dumps(metadata))
    with replacing(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _is_next_row(dataset: Dataset) -> Array:
    """[N] bool: the next observation is, bit for bit, the observation of the next row (of any episode)."""
    same = (dataset.next_observations[:-1].view(np.uint32) == dataset.observations[1:].view(np.uint32)).all(axis=1)
    return np.append(same, False)


def _load_npz(file: str) -> Dataset:
    path = _existing_file(file, (".npz",))
    try:
        if not zipfile.is_zipfile(path):  # np.load would take a bare npy file for what it is
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path} is not a readable npz file without pickled objects: {error}") from error
    return _from_npz_arrays(arrays, path, f"npz:{file}")


def _from_npz_arrays(arrays: dict[str, Any], path: Path, reference: str) -> Dataset:
    metadata = _npz_metadata(arrays.pop("metadata", None), path)
    if "next_observation_rows" in arrays:
        _expand_next_observations(arrays, path)
    extra = {key.removeprefix("extra/"): arrays.pop(key) for key in list(arrays) if key.startswith("extra/")}
    _require(arrays, path)
    unknown = sorted(set(arrays) - set(_REQUIRED) - set(_OPTIONAL))
    if unknown:
        raise DatasetError(
            f"{path} holds arrays of unknown meaning: {', '.join(unknown)}; name further columns 'extra/NAME'. "
            f"Known: {', '.join(_REQUIRED + _OPTIONAL)}"
        )
    return Dataset.from_arrays(
        **arrays,
        env_id=metadata.get("env_id"),
        task=metadata.get("task"),
        name=reference,
        extra=extra,
        provenance=metadata.get("provenance", {}),
    )


def _npz_metadata(entry: Array | None, path: Path) -> dict[str, Any]:
    if entry is None:
        return {}
    try:
        metadata = json.loads(str(entry))
    except json.JSONDecodeError as error:
        raise DatasetError(f"the metadata of {path} is not JSON ({error}); write the file with save_npz") from error
    if metadata.get("layout") != _NPZ_LAYOUT:
        raise DatasetError(
            f"{path} has layout {metadata.get('layout')!r}, but this version reads layout {_NPZ_LAYOUT}; "
            "use the version of adaptive-constraints that wrote it"
        )
    return dict(metadata)


def _expand_next_observations(arrays: dict[str, Array], path: Path) -> None:
    """Undo `save_npz`'s sharing of observations, in place."""
    _require(arrays, path, (*_REQUIRED, "next_observation_values"))
    rows, values = arrays.pop("next_observation_rows"), arrays.pop("next_observation_values")
    following = np.roll(arrays["observations"], -1, axis=0)
    try:
        following[rows] = values
    except (IndexError, ValueError) as error:
        raise DatasetError(f"{path} is inconsistent ({error}); write it again with save_npz") from error
    arrays["next_observations"] = following


def _load_d4rl(file: str) -> Dataset:
    h5py = _import("h5py", "minari")
    path = _existing_file(file, (".hdf5", ".h5"))
    keys = (*_REQUIRED, "timeouts", "next_observations")
    try:
        with h5py.File(path, "r") as content:
            groups = [key for key in keys if key in content and not isinstance(content[key], h5py.Dataset)]
            if groups:
                raise DatasetError(f"{path} is not in D4RL's layout: {', '.join(groups)} must be arrays, not groups")
            arrays = {key: content[key][()] for key in keys if key in content}
    except OSError as error:
        raise DatasetError(f"{path} is not a readable HDF5 file: {error}") from error
    _require(arrays, path)
    task, env_id = task_of_file(path.name)
    provenance = {"source": "D4RL HDF5 file", "file": path.name}
    return Dataset.from_arrays(**arrays, task=task, env_id=env_id, name=f"d4rl:{file}", provenance=provenance)


def _load_minari(name: str, download: bool) -> Dataset:
    minari = _import("minari", "minari")
    local = _local_minari_names()
    if name not in local and not download:
        raise DatasetError(
            f"Minari has no local data set {name!r}; {_suggest(name, local)}. "
            "Pass download=True (on the command line: --download) to fetch it, "
            "or set MINARI_DATASETS_PATH to the folder that holds it"
        )
    try:
        source = minari.load_dataset(name, download=download)
    except Exception as error:  # minari raises bare exceptions of many types for a wrong name and for a lost network
        raise DatasetError(f"Minari cannot load {name!r}: {error}") from error
    return _from_minari(source, name)


def _from_minari(source: Any, name: str) -> Dataset:
    from gymnasium.spaces import Box

    spaces = {"observation": source.observation_space, "action": source.action_space}
    for kind, space in spaces.items():
        if not (isinstance(space, Box) and len(space.shape) == 1):
            raise DatasetError(f"minari:{name} has the {kind} space {space}; only flat Box spaces can be learned from")
    columns: dict[str, list[Array]] = {key: [] for key in (*_REQUIRED, "timeouts", "next_observations", "episode_ids")}
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
    env_id = source.env_spec.id if source.env_spec is not None else None
    arrays: dict[str, Any] = {key: np.concatenate(parts) for key, parts in columns.items()}
    return Dataset.from_arrays(
        **arrays,
        action_low=spaces["action"].low,
        action_high=spaces["action"].high,
        env_id=env_id,
        task=task_of_env(env_id),
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
    return ogbench_sets.load_single_task(_import("ogbench", "ogbench"), name, download)


def _load_bundled(name: str) -> Dataset:
    resource = importlib.resources.files("adaptive_constraints.data") / "bundled" / f"{name}.npz"
    with importlib.resources.as_file(resource) as path, np.load(path, allow_pickle=False) as archive:
        return _from_npz_arrays({key: archive[key] for key in archive.files}, path, f"bundled:{name}")


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
        minari = _import("minari", "minari")
    except DependencyError:
        return []
    return sorted(minari.list_local_datasets())


def _local_ogbench_names() -> list[str]:
    return ogbench_sets.local_names() if importlib.util.find_spec("ogbench") else []


_LOCAL_SCHEMES: dict[str, Callable[[str], Dataset]] = {
    "bundled": _load_bundled,
    "scripted": _load_scripted,
    "d4rl": _load_d4rl,
    "npz": _load_npz,
}
_FETCHING_SCHEMES: dict[str, Callable[[str, bool], Dataset]] = {"minari": _load_minari, "ogbench": _load_ogbench}
_USAGES = (
    "bundled:NAME",
    "scripted:pointmaze/NAME",
    "minari:NAMESPACE/NAME-v0",
    "ogbench:NAME-singletask-v0",
    "d4rl:FILE.hdf5",
    "npz:FILE.npz",
)


def _require(arrays: Mapping[str, Array], path: Path, keys: tuple[str, ...] = _REQUIRED) -> None:
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise DatasetError(f"{path} lacks the arrays {', '.join(missing)}; it holds: {', '.join(arrays) or 'nothing'}")


def _existing_file(file: str, suffixes: tuple[str, ...]) -> Path:
    path = Path(file).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise DatasetError(f"{path} is a folder: name a file in it")
    folder = path.parent
    if not folder.is_dir():
        raise DatasetError(f"no file {path}: the folder {folder} does not exist")
    there = sorted(entry.name for entry in folder.iterdir() if entry.suffix in suffixes)
    raise DatasetError(f"no file {path}; in {folder}, {_suggest(path.name, there)}")


def _suggest(name: str, there: Iterable[str], limit: int = 12) -> str:
    """What is there, the closest first."""
    names = list(there)
    if not names:
        return "there is none"
    close = difflib.get_close_matches(name, names, n=3)
    listed = close + [other for other in names if other not in close]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}there: {', '.join(listed[:limit])}{more}"


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f'this needs {module}: pip install "adaptive-constraints[{extra}]"') from error
