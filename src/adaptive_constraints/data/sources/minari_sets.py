"""Data sets from Minari's local folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import task_of_spec
from adaptive_constraints.data.sources.files import Array, import_extra, reading, suggest
from adaptive_constraints.data.sources.layouts import REQUIRED
from adaptive_constraints.environments.specs import FLATTEN_KEYS, plain_env_spec
from adaptive_constraints.errors import DatasetError, DependencyError
from adaptive_constraints.support.outside import DISCRETE, PIXELS


def load_minari(reference: str, download: bool) -> Dataset:
    """The set of this name; fetched only if ``download``.

    Observations that are dictionaries become vectors: ``NAME#obs=achieved_goal+observation`` names the parts and their
    order, and without it all parts stand in the order of their names. Evaluation joins them in the same way.
    """
    name, keys = _parse(reference)
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
        return _from_minari(source, reference, keys)


def _parse(reference: str) -> tuple[str, tuple[str, ...]]:
    """Name and parts of observations."""
    name, mark, said = reference.partition("#")
    key, _, parts = said.partition("=")
    keys = tuple(part.strip() for part in parts.split("+"))
    if mark and (key.strip() != "obs" or not all(keys)):
        raise DatasetError(
            f"minari:{reference}: cannot read {said!r}; parts of observations are named by #obs=PART+PART, such as "
            f"minari:{name}#obs=achieved_goal+observation"
        )
    return name, keys if mark else ()


def check_minari(reference: str) -> None:
    """Raise `DatasetError` for parts of observations that cannot be read."""
    _parse(reference)


def _from_minari(source: Any, name: str, keys: Sequence[str]) -> Dataset:
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

    spaces = {"observation": source.observation_space, "action": source.action_space}
    parted = isinstance(spaces["observation"], Dict)
    for kind, space in spaces.items():
        if not (isinstance(space, Box) and len(space.shape) == 1) and not (parted and kind == "observation"):
            images = kind == "observation" and isinstance(space, Box) and len(space.shape) > 1
            discrete = kind == "action" and isinstance(space, Discrete | MultiDiscrete | MultiBinary)
            why = PIXELS if images else DISCRETE if discrete else "only flat Box spaces can be learned from"
            raise DatasetError(f"minari:{name} has the {kind} space {space}, but {why}")
    if keys and not parted:
        raise DatasetError(f"minari:{name}: observations are one vector here, which has no parts: leave #obs= out")
    order = _Order(spaces["observation"], keys) if parted else None
    columns: dict[str, list[Array]] = {key: [] for key in (*REQUIRED, "timeouts", "next_observations", "episode_ids")}
    for index, episode in enumerate(source.iterate_episodes()):
        timeouts = np.array(episode.truncations, bool)
        timeouts[-1] |= not episode.terminations[-1]  # recording stopped without saying why: not a death
        observations = order(episode.observations, len(timeouts) + 1) if order else episode.observations
        columns["observations"].append(observations[:-1])
        columns["next_observations"].append(observations[1:])
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
        env_spec=order.of_environment(env_spec) if order and env_spec is not None else env_spec,
        task=task_of_spec(env_spec),
        name=f"minari:{name}",
        provenance=_minari_provenance(source.storage.metadata) | ({"observations": order.text} if order else {}),
    )


class _Order:
    """The map from dictionaries to vectors."""

    def __init__(self, space: Any, keys: Sequence[str]) -> None:
        from adaptive_constraints.environments.flat_observations import order_text, parts_of

        self.parts = parts_of(space, keys)
        self.text = order_text(self.parts)

    def __call__(self, observations: Mapping[str, Any], rows: int) -> Array:
        """Join the parts: [rows, D]."""
        from adaptive_constraints.environments.flat_observations import joined

        return joined(self.parts, observations, (rows,))

    def of_environment(self, spec: Any) -> dict[str, Any]:
        """The specification of an environment that answers such vectors."""
        plain = plain_env_spec(spec)
        ((name, entry_point),) = FLATTEN_KEYS.items()
        wrapper = {"name": name, "entry_point": entry_point, "kwargs": {"keys": [part.name for part in self.parts]}}
        return plain | {"additional_wrappers": [*plain["additional_wrappers"], wrapper]}


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
