"""`scripted:pointmaze/umaze`: data that is collected here on first use, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

from adaptive_constraints.data.collecting.collect import collect, default_size, versions
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.npz import load_npz
from adaptive_constraints.environments.maze_tasks import find_maze
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.files import cache_folder, locked
from adaptive_constraints.support.typed import damage

_SEED = 0
_DECIDING = ("adaptive-constraints", "numpy", "gymnasium", "gymnasium-robotics", "mujoco")
"""Packages whose versions may change the rows."""


def load_scripted(source: str) -> Dataset:
    """Rows that `adaptive-constraints collect` makes of a source (pointmaze/umaze) by default, cached where possible.

    The same versions give the same rows. A damaged file is made anew; of two processes, the second waits. Raises
    `DatasetError` for an unknown source and `DependencyError` where the extra `robotics` is missing.
    """
    find_maze(source)
    file = kept_file(source)
    data, _ = what_is_kept(file)
    if data is None:
        with locked(file.parent, lambda _: None, name=f".{file.stem}.lock"):
            data, reason = what_is_kept(file)  # another process may have collected it meanwhile
            if data is None:
                if os.path.isfile(file):  # False, not an error, where the folder may not be looked at
                    print(f"what is kept is damaged and made anew: {reason}", file=sys.stderr, flush=True)
                data = collect_anew(source, file)
    return dataclasses.replace(data, name=f"scripted:{source}")


def what_is_kept(file: Path) -> tuple[Dataset | None, str]:
    """The file that the cache keeps; None and the reason where there is none, or not as its manifest says."""
    manifest = file.with_suffix(".json")
    try:
        data = load_npz(str(file))
        with damage(DatasetError, f"{manifest} is not the manifest of {file}", "it was changed"):
            if json.loads(manifest.read_bytes())["fingerprint"] != data.fingerprint:
                raise ValueError("another fingerprint")
    except DatasetError as error:
        return None, str(error)
    return data, ""


def collect_anew(source: str, file: Path) -> Dataset:
    """Collect a source and keep it in this file."""
    steps, keep = default_size(source)
    print(f"collecting scripted:{source}, {steps:,} steps, once; it is kept in {file}", file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    return collect(source, file, steps, keep, _SEED)


def kept_file(source: str) -> Path:
    """Name the file of the cache that keeps a source, as these versions of the simulators collect it."""
    installed = versions()
    key = [source, default_size(source), _SEED, {name: installed[name] for name in _DECIDING}]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    return cache_folder() / f"scripted-{source.replace('/', '-')}-{digest}.npz"
