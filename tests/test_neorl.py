"""Files of NeoRL-2: done, truncated and index, in every combination in which they occur."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, check_trainable, load_dataset, reference_of
from adaptive_constraints.errors import DatasetError

LENGTHS = (4, 6, 3, 5)
CUT = np.isin(np.arange(4), (1, 2))
"""Which recordings ran out of time."""


def columns() -> dict[str, Any]:
    """The arrays of a file, rewards and flags as columns [N, 1], as NeoRL-2 keeps some of them."""
    draw, rows = np.random.default_rng(0), sum(LENGTHS)
    walks = [np.cumsum(draw.normal(size=(length + 1, 3)), axis=0).astype(np.float32) for length in LENGTHS]
    last = np.cumsum(LENGTHS) - 1
    return {
        "obs": np.concatenate([walk[:-1] for walk in walks]),
        "next_obs": np.concatenate([walk[1:] for walk in walks]),
        "action": draw.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "reward": draw.normal(size=(rows, 1)),
        "done": np.isin(np.arange(rows), last[~CUT])[:, None],
        "truncated": np.isin(np.arange(rows), last[CUT]),
        "index": np.append(0, np.cumsum(LENGTHS)[:-1]),
    }


ARRAYS = columns()


def expected() -> Dataset:
    return Dataset.from_arrays(
        observations=ARRAYS["obs"],
        next_observations=ARRAYS["next_obs"],
        actions=ARRAYS["action"],
        rewards=ARRAYS["reward"],
        terminals=ARRAYS["done"],
        timeouts=ARRAYS["truncated"],
    )


def write(path: Path, **changes: Any) -> str:
    arrays = {key: array for key, array in (ARRAYS | changes).items() if array is not None}
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"index": None},
        {"truncated": None},
        {"done": ARRAYS["done"].astype(np.float32), "truncated": ARRAYS["truncated"].astype(np.int8)},
        {"done": ARRAYS["done"][:, 0] | ARRAYS["truncated"]},  # Gym's old flag
    ],
    ids=["all", "no index", "no truncated", "numbers", "done as Gym had it"],
)
def test_recordings_and_their_ends(changes, tmp_path):
    data = load_dataset(write(tmp_path / "mine.npz", **changes))
    assert data.fingerprint == expected().fingerprint
    assert (data.task, data.env_id) == (None, None)
    check_trainable(data)


@pytest.mark.parametrize(
    ("name", "task", "ends"),
    [("Pipeline-train.npz", "neorl2-Pipeline", (-296, 751)), ("DMSD-val.npz", "neorl2-DMSD", (30.6, 849.51))],
)
def test_file_names_give_task_environment_and_references(name, task, ends, tmp_path):
    data = load_dataset(write(tmp_path / name))
    reference = reference_of(data)
    assert (data.task, data.env_id) == (task, f"neorl2:{task.removeprefix('neorl2-')}")
    assert (reference.random, reference.expert) == ends and "NeoRL-2" in reference.source


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": np.array([1, 4])}, "index must hold the first row of each recording: 0, then ascending below 18"),
        ({"index": np.array([0, 4, 4])}, "index must hold"),
        ({"index": np.array([0, 99])}, "index must hold"),
        ({"index": np.array([0, 4.5])}, "index must hold"),
        ({"done": np.full(18, 0.5)}, "done must hold 0 or 1 in each of 18 rows"),
        ({"truncated": np.zeros(5)}, "truncated must hold 0 or 1 in each of 18 rows"),
        ({"action": np.zeros((5, 2))}, "same number of rows"),
        ({"speed": np.zeros(18)}, "arrays of unknown meaning: .*speed"),
    ],
)
def test_what_does_not_fit_is_said(changes, said, tmp_path):
    with pytest.raises(DatasetError, match=said):
        load_dataset(write(tmp_path / "Pipeline-train.npz", **changes))
