"""Files of NeoRL-2: columns of transitions, and where recordings begin."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.files import ArrayFile
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

_COLUMNS = {"obs": "observations", "next_obs": "next_observations", "action": "actions", "reward": "rewards"}
_ENDS = ("truncated", "index")
_FILE = re.compile(r"(\w+)-(train|val)\.npz")


def is_neorl(names: Iterable[str]) -> bool:
    """Tell by its arrays whether a file is one of NeoRL (1 or 2): done, and beside it truncated or index."""
    held, needed = set(names), {*_COLUMNS, "done"}
    return needed < held <= needed | set(_ENDS)


def read_neorl(file: ArrayFile) -> dict[str, Any]:
    """The arguments of `Dataset.from_arrays`.

    ``done`` is a true end unless every truncated row is marked by it too: then it is Gym's old flag. ``index`` [E] is
    the first row of each recording; one that is not done at its last row was cut there.
    """
    columns: dict[str, Any] = {ours: file.read(name) for name, ours in _COLUMNS.items()}
    rows = len(columns["rewards"])
    done = _flags(file, "done", rows)
    cut = _flags(file, "truncated", rows) if "truncated" in file.names else np.zeros(rows, bool)
    terminals = done & ~cut if cut.any() and done[cut].all() else done
    if "index" in file.names:
        starts = _starts(file, rows)
        columns["episode_ids"] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, rows)))
        last = np.append(starts[1:], rows) - 1
        cut[last] |= ~terminals[last]
    return columns | {"terminals": terminals, "timeouts": cut & ~terminals}


def _flags(file: ArrayFile, name: str, rows: int) -> Array:
    flags = file.read(name).reshape(-1)
    if len(flags) != rows or not ((flags == 0) | (flags == 1)).all():
        raise DatasetError(
            f"{name} must hold 0 or 1 in each of {rows} rows, but has shape {list(file.read(name).shape)}"
        )
    return flags == 1


def _starts(file: ArrayFile, rows: int) -> Array:
    starts = file.read("index").reshape(-1)
    whole = len(starts) > 0 and (starts == starts.astype(np.int64)).all()
    if not whole or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= rows:
        raise DatasetError(f"index must hold the first row of each recording: 0, then ascending below {rows}")
    return starts.astype(np.int64)


def neorl_task(file_name: str) -> tuple[str | None, str | None]:
    """Task and environment of a file by its name: "Pipeline-train.npz" -> ("neorl2-Pipeline", "neorl2:Pipeline")."""
    match = _FILE.fullmatch(file_name)
    return (f"neorl2-{match[1]}", f"neorl2:{match[1]}") if match else (None, None)


__all__ = ["is_neorl", "neorl_task", "read_neorl"]
