"""Looking at data, and making it ready for training, needs little memory beside the data itself."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from adaptive_constraints.data import Dataset, Preprocessor, advise, check_trainable
from adaptive_constraints.engine.batches import batches_of
from adaptive_constraints.engine.noise import NoiseTables

ROWS = 400_000
"""Many times what is looked at together."""


@pytest.fixture(scope="module")
def data() -> Dataset:
    """About 45 MB of recordings, some rows of which are there twice."""
    draw = np.random.default_rng(0)
    states = draw.normal(size=(ROWS + 1, 11)).astype(np.float32)
    actions = draw.uniform(-1, 1, (ROWS, 3)).astype(np.float32)
    ends = np.arange(ROWS) % 1000 == 999
    following = states[1:].copy()
    following[ends] += 1
    return Dataset.from_arrays(
        observations=states[:-1], next_observations=following, actions=actions,
        rewards=draw.normal(size=ROWS).astype(np.float32), terminals=np.zeros(ROWS, bool), timeouts=ends,
    )  # fmt: skip


def peak(work: Callable[[], object]) -> int:
    """Bytes that numpy and Python hold at most during some work, beside what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def size(data: Dataset) -> int:
    return sum(array.nbytes for array in data.arrays().values())


@pytest.mark.parametrize(
    ("work", "share"),
    [
        (lambda data: advise(data, normalize_observations=True), 1.0),
        (check_trainable, 0.6),
        (lambda data: Preprocessor.fit(data, normalize_observations=True, reward_scale="dataset_std"), 0.5),
        (lambda data: data.fingerprint, 0.05),
    ],
)
def test_looking_at_data_needs_less_than_the_data(data, work, share):
    assert peak(lambda: work(data)) < share * size(data)


def test_making_a_set_needs_little_beside_the_copy(data):
    columns = {key: array for key, array in data.arrays().items() if not key.startswith("action_")}
    assert peak(lambda: Dataset.from_arrays(**columns)) < 1.7 * size(data)
    del columns["next_observations"]
    assert peak(lambda: Dataset.from_arrays(**columns)) < 2 * size(data)


def test_minibatches_are_drawn_from_the_table_itself(data):
    small = data.subset(np.arange(3000))
    fitted = Preprocessor.fit(small, normalize_observations=True)
    more = {
        "adapter.weight": torch.rand(3000),
        "adapter.pair": torch.rand(3000, 2),
        "adapter.square": torch.rand(3000, 2, 2),
    }
    packed = fitted.packed_table(small, ("next_action", "next_action_mask"), more)
    separate = fitted.table(small, ("next_action", "next_action_mask")) | more
    assert packed.keys() == separate.keys()
    for name, column in separate.items():
        assert torch.equal(packed[name], column), name
    noise = NoiseTables((0, 1), torch.device("cpu"), torch.float32)
    made = [batches_of(table, {}, noise, 8, torch.device("cpu"), torch.float32) for table in (packed, separate)]
    assert made[0].packed.data_ptr() == packed["observation"].data_ptr(), "nothing was copied"
    one, other = (batches.at(3) for batches in made)
    for name, column in one.items():
        assert torch.equal(column, other[name]) and column.shape == other[name].shape, name
    doubled = batches_of(packed, {}, noise, 8, torch.device("cpu"), torch.float64)
    assert torch.equal(doubled.at(3)["adapter.pair"], one["adapter.pair"].double())
    part = {name: packed[name] for name in ("observation", "reward")}
    assert torch.equal(
        batches_of(part, {}, noise, 8, torch.device("cpu"), torch.float32).at(3)["reward"], one["reward"]
    )


@pytest.mark.parametrize("dimensions", [1, 2, 5, 20])
@pytest.mark.parametrize("rows", [5, 65_536, 100_001])
def test_statistics_are_those_of_numpy_bit_for_bit(dimensions, rows):
    draw = np.random.default_rng(0)
    data = Dataset.from_arrays(
        observations=(7 + draw.normal(size=(rows, dimensions))).astype(np.float32),
        actions=np.zeros((rows, 1)), rewards=np.zeros(rows), terminals=np.ones(rows),
    )  # fmt: skip
    fitted = Preprocessor.fit(data, normalize_observations=True)
    assert fitted.observation_mean.tolist() == data.observations.mean(0, dtype="f8").astype("f4").tolist()
    assert fitted.observation_std.tolist() == (data.observations.std(0, dtype="f8") + 1e-3).astype("f4").tolist()


@pytest.mark.parametrize("copies", [0.0, 0.3, 1.0])
def test_repeated_rows_are_those_that_comparing_all_finds(copies):
    draw = np.random.default_rng(0)
    rows = np.arange(5000)
    origin = np.where(draw.random(5000) < copies, draw.integers(0, 40, 5000), rows)
    columns = {
        "observations": (5000, 2),
        "next_observations": (5000, 2),
        "actions": (5000, 1),
        "rewards": (5000,),
    }
    given = {key: draw.integers(0, 9, shape).astype(np.float32)[origin] / 9 for key, shape in columns.items()}
    data = Dataset.from_arrays(**given, terminals=np.ones(5000))
    packed = np.concatenate([given[key].reshape(5000, -1) for key in columns], axis=1)
    _, first = np.unique(packed, axis=0, return_index=True)
    repeated = [finding for finding in advise(data) if finding.code == "duplicates"]
    wanted = np.setdiff1d(rows, first)
    assert [finding.count for finding in repeated] == [len(wanted)] * (len(wanted) > 50)
