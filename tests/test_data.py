"""The container of data: what it takes, refuses, derives and fingerprints, and its columns."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, check_trainable
from adaptive_constraints.errors import DatasetError

from .small_data import LENGTHS, assert_same, make, make_arrays

# The container


def test_from_arrays_converts_and_names_episodes() -> None:
    data = make()
    assert (len(data), data.observation_dim, data.action_dim, data.episodes) == (12, 3, 2, 3)
    assert data.episode_ids.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    assert data.episode_lengths().tolist() == list(LENGTHS)
    assert {array.dtype.name for array in data.arrays().values()} == {"float32", "bool", "int64"}
    assert "12 rows, 3 episodes" in repr(data)
    with pytest.raises(ValueError, match="read-only"):
        data.rewards[0] = 1.0


def test_from_arrays_copies_the_callers_arrays() -> None:
    rewards = np.ones(12, np.float32)
    data = make(rewards=rewards)
    rewards[:] = 5.0
    assert data.rewards.tolist() == [1.0] * 12


def test_a_set_survives_pickling() -> None:
    data = make(extra={"note": np.arange(12)})
    assert_same(pickle.loads(pickle.dumps(data)), data)


def test_episode_returns_are_raw_sums() -> None:
    data = make(rewards=np.arange(12))
    assert data.episode_returns().tolist() == [0 + 1 + 2 + 3, 4 + 5 + 6, 7 + 8 + 9 + 10 + 11]


def test_missing_next_observations_are_derived_and_rows_without_one_dropped() -> None:
    arrays = make_arrays()
    data = make(next_observations=None)
    kept = [row for row in range(12) if row != 6]  # the timeout row: where it led was not recorded
    assert len(data) == 11
    np.testing.assert_array_equal(data.observations, arrays["observations"][kept].astype(np.float32))
    assert np.flatnonzero(data.timeouts).tolist() == [5]  # the mark moved to the row before
    assert np.flatnonzero(data.terminals).tolist() == [3, 10]
    inside = ~data.terminals
    np.testing.assert_array_equal(
        data.next_observations[inside], arrays["next_observations"][kept][inside].astype(np.float32)
    )
    np.testing.assert_array_equal(data.next_observations[3], data.observations[3])
    check_trainable(data)


def test_one_row_episodes_without_next_observation_leave_their_neighbours_alone() -> None:
    data = Dataset.from_arrays(
        observations=np.arange(5)[:, None],
        actions=np.zeros((5, 1)),
        rewards=np.arange(5),
        terminals=[0, 1, 0, 0, 1],
        timeouts=[0, 0, 1, 0, 0],
    )
    assert data.rewards.tolist() == [0, 1, 3, 4]
    assert not data.timeouts.any()
    with pytest.raises(DatasetError, match="no row is left"):
        Dataset.from_arrays(observations=[[1.0]], actions=[[0.0]], rewards=[0.0], terminals=[False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros(12)}, r"observations must have shape \[N, dimensions\], but has \[12\]"),
        ({"actions": np.zeros((11, 2))}, "same number of rows.*actions 11"),
        ({"rewards": np.zeros((12, 2))}, r"rewards must have shape \[N\]"),
        ({"next_observations": np.zeros((12, 4))}, "next_observations has shape"),
        ({"observations": np.array([["a"] * 3] * 12)}, "must hold numbers"),
        ({"observations": [[0.0] * 3] * 11 + [[0.0]]}, "observations cannot be made an array.*the same length"),
        ({"terminals": np.arange(12)}, "terminals must hold 0 or 1, but row 2 does not"),
        ({"episode_ids": np.linspace(0, 1, 12)}, "episode_ids must hold integers"),
        ({"actions": np.zeros((12, 0))}, "actions has no dimensions"),
        ({"action_low": [-1.0, -1.0, -1.0]}, "action_low must be one number"),
        ({"action_high": np.nan}, "bounds must be numbers"),
        ({"action_low": 1.0}, "low < high"),
        ({"extra": {"note": np.zeros(3)}}, "extra column 'note' 3"),
        ({"extra": {"note": np.array([None] * 12)}}, "extra column 'note' must hold numbers"),
    ],
)
def test_from_arrays_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        make(**changes)


def test_from_arrays_refuses_an_empty_set() -> None:
    with pytest.raises(DatasetError, match="empty"):
        Dataset.from_arrays(observations=np.zeros((0, 3)), actions=np.zeros((0, 2)), rewards=[], terminals=[])


def test_fingerprint_follows_content_and_not_names() -> None:
    data = make()
    assert len(data.fingerprint) == 16
    assert make(name="other", env_id="Hopper-v5").fingerprint == data.fingerprint
    for key in ("observations", "actions", "rewards", "next_observations"):
        changed = make_arrays()[key].copy()
        changed.flat[3] += 0.5
        assert make(**{key: changed}).fingerprint != data.fingerprint, key
    assert make(terminals=np.zeros(12, bool), episode_ids=data.episode_ids).fingerprint != data.fingerprint
    assert make(action_high=2.0).fingerprint != data.fingerprint
    assert make(extra={"note": np.zeros(12)}).fingerprint != data.fingerprint


# Columns


def test_next_action_stops_at_every_episode_end() -> None:
    data = make()
    mask, following = data.column("next_action_mask"), data.column("next_action")
    assert np.flatnonzero(mask == 0).tolist() == [3, 6, 11]  # terminal, timeout, terminal
    assert not following[mask == 0].any()
    for row in np.flatnonzero(mask):
        np.testing.assert_array_equal(following[row], data.actions[row + 1])


def test_next_action_stops_where_ids_change_without_a_mark() -> None:
    data = make(terminals=np.zeros(12), timeouts=None, episode_ids=np.arange(12) // 6)
    assert np.flatnonzero(data.column("next_action_mask") == 0).tolist() == [5, 11]


def test_return_success_and_extra_columns() -> None:
    rewards = np.zeros(12)
    rewards[[3, 5, 11]] = 1.0  # the last rows are 3, 6 and 11
    data = make(rewards=rewards, extra={"note": np.arange(12)})
    assert data.column("return").tolist() == [1.0] * 12
    assert data.column("success").tolist() == [1.0] * 4 + [0.0] * 3 + [1.0] * 5
    assert data.column("note").tolist() == list(range(12))
    with pytest.raises(DatasetError, match=r"no column 'nothing'.*next_action.*note"):
        data.column("nothing")


def test_subset_keeps_whole_episodes() -> None:
    data = make(extra={"note": np.arange(12)})
    part = data.subset(data.episode_ids != 1)
    assert part.episode_lengths().tolist() == [4, 5]
    assert part.extra["note"].tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11]
    with pytest.raises(DatasetError, match="ascending"):
        data.subset([3, 2])
