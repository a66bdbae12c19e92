"""Three short episodes of random arrays, whole or with some of them changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptive_constraints.data import Dataset

LENGTHS = (4, 3, 5)  # episode 1 ends by a timeout, the others by a terminal


def make_arrays(lengths: tuple[int, ...] = LENGTHS, timeouts: tuple[int, ...] = (1,), seed: int = 0) -> dict[str, Any]:
    """Consistent random arrays; the episodes named in `timeouts` end by a timeout, the others by a terminal."""
    rng = np.random.default_rng(seed)
    walks = [rng.normal(size=(length + 1, 3)) for length in lengths]
    last = np.cumsum(lengths) - 1
    cut = np.isin(np.arange(len(lengths)), timeouts)
    rows = sum(lengths)
    return {
        "observations": np.concatenate([walk[:-1] for walk in walks]),
        "next_observations": np.concatenate([walk[1:] for walk in walks]),
        "actions": rng.uniform(-1, 1, size=(rows, 2)),
        "rewards": rng.normal(size=rows),
        "terminals": np.isin(np.arange(rows), last[~cut]),
        "timeouts": np.isin(np.arange(rows), last[cut]),
    }


def make(**changes: Any) -> Dataset:
    """A healthy set with some arrays replaced, or left out where the change is None."""
    return Dataset.from_arrays(**{key: value for key, value in (make_arrays() | changes).items() if value is not None})


def assert_same(one: Dataset, other: Dataset) -> None:
    """Every array equal bit for bit, dtypes included."""
    assert one.arrays().keys() == other.arrays().keys()
    for key, array in one.arrays().items():
        assert array.dtype == other.arrays()[key].dtype, key
        assert array.tobytes() == other.arrays()[key].tobytes(), key
