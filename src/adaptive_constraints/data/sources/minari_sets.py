"""Data sets from Minari's local folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import task_of_spec
from adaptive_constraints.data.sources.files import Array, import_extra, reading, suggest
from adaptive_constraints.data.sources.layouts import REQUIRED
from adaptive_constraints.errors import DatasetError, DependencyError


def load_minari(name: str, download: bool) -> Dataset:
    """The set of this name; fetched only if ``download``."""
    minari = import_extra("minari", "minari")
    if not download and name not in (local := local_minari_names()):
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
    """Statements of the data set about itself, its own reference returns included, as text."""
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


def local_minari_names() -> list[str]:
    """Sets in Minari's local folder; none where Minari is not installed."""
    try:
        minari = import_extra("minari", "minari")
    except DependencyError:
        return []
    with reading("MINARI_DATASETS_PATH", "folder of Minari's data sets"):
        return sorted(minari.list_local_datasets())
