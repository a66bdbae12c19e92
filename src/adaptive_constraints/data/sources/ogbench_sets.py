"""OGBench's single-task data sets: recorded play, with the rewards and ends of one task as OGBench computes them."""

from __future__ import annotations

import importlib.metadata
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.files import check_npz
from adaptive_constraints.errors import DatasetError, DependencyError

_WORD = "singletask"
"""In the names of sets that have rewards; the others are for learning to reach goals."""
_IMAGES = ("visual", "powderworld")
"""First words of sets that are not of state vectors."""
_OLDEST = (1, 2)
"""Version from which on environments of single tasks reward the state that a step begins in."""
_FOLDER = Path("~/.ogbench/data")
"""Folder in which OGBench keeps its files."""


def local_names() -> list[str]:
    """Sets whose file is here, each by the default task of its environment."""
    stems = [file.stem for file in _FOLDER.expanduser().glob("*-*-v*.npz") if not file.stem.endswith("-val")]
    named = [(stem.rsplit("-", 1), stem.split("-")[0]) for stem in sorted(stems)]
    return [f"{front}-{_WORD}-{version}" for (front, version), first in named if first not in _IMAGES]


def load_single_task(ogbench: Any, name: str, download: bool) -> Dataset:
    """The set of a checked name, from OGBench's own folder of files; fetched there only if ``download``.

    An episode is a recording. A row whose observation has the task solved is terminal, as for OGBench's reference
    learners, although the recording goes on. A recording's own end is a timeout, unless the task is solved there.
    """
    version = _checked_version()
    words = name.split("-")
    kind = words.index(_WORD) - 1  # of behaviour, such as "play", which the environment's name does not have
    env_name = "-".join(words[:kind] + words[kind + 1 :])
    arrays = _read(ogbench, _file(ogbench, name, "-".join([*words[: kind + 1], words[-1]]), download))
    spec = _add_rewards(ogbench, name, env_name, arrays)
    terminals, ends = arrays["masks"] == 0, arrays["terminals"] == 1
    return Dataset.from_arrays(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        next_observations=arrays["next_observations"],
        terminals=terminals,
        timeouts=ends & ~terminals,
        episode_ids=np.cumsum(np.append(False, ends[:-1])),
        env_id=f"ogbench:{env_name}",
        env_spec=spec,
        name=f"ogbench:{name}",
        provenance={"source": "OGBench", "task": env_name, "ogbench": version},
    )


def _checked_version() -> str:
    """The version of OGBench, which must reward a state by itself, as the data is relabelled; older ones do not."""
    version = importlib.metadata.version("ogbench")
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < _OLDEST:
        raise DependencyError(
            f"ogbench {version} rewards single tasks otherwise (by the state after the step) than 1.2 and later do: "
            'pip install "ogbench>=1.2"'
        )
    return version


def check_name(name: str) -> None:
    """Raise `DatasetError` for a set that has no rewards, or images."""
    words = name.split("-")
    if re.search(r"[^\w.-]", name):  # such as a colon, after which Gymnasium would import what stands before it
        raise DatasetError(f"ogbench:{name} is no name of a set: it has letters, digits, points and hyphens only")
    if _WORD not in words[2:-1]:
        raise DatasetError(
            f"ogbench:{name} is not of one task, so it has no rewards: name a task, such as "
            f"ogbench:cube-single-play-{_WORD}-v0 (its default one) or ogbench:cube-single-play-{_WORD}-task2-v0"
        )
    if words[0] in _IMAGES:
        raise DatasetError(f"ogbench:{name} has images; only sets of state vectors can be learned from")


def _file(ogbench: Any, name: str, stem: str, download: bool) -> Path:
    folder = _FOLDER.expanduser()
    file = folder / f"{stem}.npz"
    if not file.is_file():
        if not download:
            raise DatasetError(
                f"ogbench:{name} needs {file}, which is not there. "
                "Pass download=True (on the command line: --download) to fetch it"
            )
        try:
            ogbench.download_datasets([stem], str(folder))
        except OSError as error:  # of urllib: no network, or no such set
            raise DatasetError(f"OGBench cannot fetch {stem!r}: {error}") from error
    return file


def _read(ogbench: Any, file: Path) -> dict[str, Any]:
    try:
        check_npz(file)
        arrays: dict[str, Any] = ogbench.load_dataset(str(file), add_info=True)
    except (DatasetError, ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{file} is not a readable file of OGBench: {error}") from error
    return arrays


def _add_rewards(ogbench: Any, name: str, env_name: str, arrays: dict[str, Any]) -> Any:
    """Add "rewards" and "masks" (0 where the task is solved), in place; the task's specification."""
    import gymnasium

    try:
        env = gymnasium.make(env_name)
    except gymnasium.error.Error as error:
        raise DatasetError(f"OGBench has no environment {env_name!r} for ogbench:{name}: {error}") from error
    try:
        ogbench.relabel_utils.relabel_dataset(env_name, env, arrays)
    except (ValueError, KeyError) as error:
        raise DatasetError(f"OGBench cannot tell the rewards of ogbench:{name}: {error!r}") from error
    finally:
        env.close()
    return env.spec
