"""Data sets written into Minari's local folder."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import reference_of
from adaptive_constraints.data.sources.files import import_extra
from adaptive_constraints.environments.boundary import EnvironmentWarning
from adaptive_constraints.environments.making import RecordedEnv
from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError

if TYPE_CHECKING:
    from adaptive_constraints.environments.making import Environment

Array = NDArray[Any]
_DETAILS = ("author", "author_email", "algorithm_name", "code_permalink", "description")
"""What Minari keeps of a set beside its rows, and the caller knows."""
_FOLDER = "MINARI_DATASETS_PATH"
"""Environment variable that names Minari's folder."""


def write_minari(dataset: Dataset, name: str, **details: str) -> None:
    """Write a data set into Minari's local folder; see `Dataset.to_minari`."""
    _check_details(details)
    minari = import_extra("minari", "minari")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    _check_name(name)
    if len(joined := np.flatnonzero(~_leads_on(dataset))):
        raise DatasetError(
            f"{len(joined)} rows of {dataset.name!r} do not lead to the following row of their episode (the first: "
            f"{joined[0]}), and Minari keeps episodes as unbroken recordings: use split_at_joins(dataset) first"
        )
    ends = np.append(dataset.episode_starts[1:], len(dataset))
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=np.concatenate([dataset.observations[start:end], dataset.next_observations[end - 1 : end]]),
            actions=dataset.actions[start:end],
            rewards=dataset.rewards[start:end],
            terminations=dataset.terminals[start:end],
            truncations=dataset.timeouts[start:end],
            infos={},
        )
        for index, (start, end) in enumerate(zip(dataset.episode_starts, ends, strict=True))
    ]
    reference = reference_of(dataset)
    said = "; ".join(f"{key}: {value}" for key, value in dataset.provenance.items())
    observations = dataset.observations
    options: dict[str, Any] = {"description": f"{dataset.name} ({len(dataset)} rows). {said}"} | details
    if reference is not None:
        options |= {"ref_min_score": reference.random, "ref_max_score": reference.expert}
    try:
        with _made_env(dataset) as env, _finished_folder(name), warnings.catch_warnings():
            # Details that are left out are the caller's choice; that evaluation is in env is what is meant.
            warnings.filterwarnings("ignore", r"`\w+` is set to None|env_spec is None", UserWarning)
            minari.create_dataset_from_buffers(
                name,
                buffers,
                env=env,
                observation_space=Box(-np.inf, np.inf, observations.shape[1:], observations.dtype.type),
                action_space=Box(dataset.action_low, dataset.action_high, dtype=np.float32),
                **options,
            )
    except AdaptiveConstraintsError:
        raise
    except Exception as error:  # minari raises bare exceptions of many types
        raise DatasetError(f"Minari cannot write {name!r}: {error}") from error


def _check_details(details: Mapping[str, object]) -> None:
    """Raise `DatasetError` for details that Minari does not keep, or that are no texts."""
    for key, value in details.items():
        if key not in _DETAILS:
            close = difflib.get_close_matches(key, _DETAILS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DatasetError(f"to_minari: no detail {key!r}; {hint}there: {', '.join(_DETAILS)}")
        if not isinstance(value, str):
            raise DatasetError(f"to_minari: {key} must be a text, not {value!r}")


def _check_name(name: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name!r} is no name of a set of Minari: write NAMESPACE/NAME-v0") from error
    if get_dataset_path(name).exists():
        raise DatasetError(f"Minari has a local data set {name!r} already: give another name or version")


@contextlib.contextmanager
def _finished_folder(name: str) -> Iterator[None]:
    """Have Minari write into a hidden folder, and put what it wrote in its place once it is whole.

    A set that is written in half makes Minari's list of sets fail.
    """
    from minari.storage.datasets_root_dir import get_dataset_path

    root, before = get_dataset_path(), os.environ.get(_FOLDER)
    hidden = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    try:
        os.environ[_FOLDER] = str(hidden)
        yield
        for described in hidden.rglob("*"):  # namespaces, which may have a description of their own
            place = root / described.relative_to(hidden)
            if described.is_file() and hidden / name not in described.parents and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(described, place)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(hidden / name, root / name)
    finally:
        if before is None:
            os.environ.pop(_FOLDER, None)
        else:
            os.environ[_FOLDER] = before
        shutil.rmtree(hidden, ignore_errors=True)


def _leads_on(dataset: Dataset) -> Array:
    """[N] bool: the next observation is the following row's, or the row is its episode's last."""
    same = (dataset.next_observations[:-1] == dataset.observations[1:]).all(axis=1)
    last = dataset.episode_ids[1:] != dataset.episode_ids[:-1]
    return np.append(same | last, True)


@contextlib.contextmanager
def _made_env(dataset: Dataset) -> Iterator[Environment | None]:
    """The environment of the data; None, with a warning, where it cannot be made here."""
    env: Environment | None = None
    if dataset.env_id is not None:
        try:
            env = RecordedEnv(dataset.env_id, dataset.env_spec)()
        except (AdaptiveConstraintsError, ImportError) as error:
            text = f"the environment {dataset.env_id} is not written, so that evaluation has to name it: {error}"
            warnings.warn(text, EnvironmentWarning, stacklevel=5)
    try:
        yield env
    finally:
        if env is not None:
            env.close()


__all__ = ["write_minari"]
