"""The doctor on transitions that never happened, absurd values, and settings that do not fit the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import (
    Dataset,
    Preprocessor,
    advise,
    check_trainable,
    doctor,
    load_dataset,
    split_at_joins,
)
from adaptive_constraints.data.references import REFERENCE_SCORES, TASK_OF_ENV, task_of_file
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.testing import made_data

LENGTHS = [300, 210, 300, 290, 300]
LAST = np.cumsum(LENGTHS) - 1
ROWS = sum(LENGTHS)


def recorded(make_walk: Any, marked: bool, seed: int = 0, **more: Any) -> Dataset:
    """Recordings without next observations, whose ends are marked as timeouts, or not but for the last."""
    draw = np.random.default_rng(seed)
    given: dict[str, Any] = {
        "observations": np.concatenate([make_walk(draw, length) for length in LENGTHS]),
        "actions": draw.uniform(-1, 1, (ROWS, 2)),
        "rewards": draw.normal(size=ROWS),
        "terminals": np.zeros(ROWS, bool),
        "timeouts": np.isin(np.arange(ROWS), LAST if marked else LAST[-1:]),
    }
    return Dataset.from_arrays(**given | more)


def walk(dimensions: int = 3, offset: float = 0.0, scale: float = 1.0) -> Any:
    """Maker of random walks [T, D] from starts far apart."""

    def make(draw: np.random.Generator, length: int) -> np.ndarray:
        steps = np.cumsum(draw.normal(0, 0.1, (length, dimensions)), 0)
        return offset + scale * (steps + draw.choice([-1, 1], dimensions) * draw.uniform(4, 9, dimensions))

    return make


def warned(data: Dataset) -> dict[str, tuple[int, ...]]:
    """Rows by code of every finding that is not a note."""
    return {finding.code: finding.rows for finding in doctor(data).findings if finding.severity != "note"}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("dimensions", "offset", "scale"), [(1, 0, 1), (2, -3, 1e-4), (3, 5e5, 1), (8, 1.7e9, 1e3), (20, 0, 1e6)]
)
def test_steps_into_an_unmarked_recording_are_named_and_split(dimensions, offset, scale, seed):
    make = walk(dimensions, offset, scale)
    assert warned(recorded(make, marked=True, seed=seed)) == {}
    data = recorded(make, marked=False, seed=seed)
    assert set(warned(data)["outlying_step"]) <= set(LAST[:-1])
    if dimensions > 1:  # in one dimension, two recordings may pass each other
        assert set(warned(data)["outlying_step"]) == set(LAST[:-1])
        split = split_at_joins(data)
        assert split.episode_lengths().tolist() == [length - 1 for length in LENGTHS]
        assert split.recorded.lengths.tolist() == LENGTHS
        np.testing.assert_allclose(split.episode_returns(), np.add.reduceat(data.rewards, [0, *LAST[:-1] + 1]), atol=3)
        assert warned(split) == {}
        gone = {row.tobytes() for row in data.observations[LAST[:-1]]}
        assert not gone & {row.tobytes() for row in split.observations}, "where they led is not known"
        assert split_at_joins(data, steps=False).fingerprint == data.fingerprint


def heavy(draw: np.random.Generator, length: int) -> np.ndarray:
    return np.cumsum(draw.standard_t(2, (length, 3)), 0)


def bouncing(draw: np.random.Generator, length: int) -> np.ndarray:
    """Height and velocity of a ball, which reverses at the ground."""
    height, velocity, rows = draw.uniform(0.5, 2), 0.0, []
    for _ in range(length):
        velocity -= 0.05
        height += 0.05 * velocity
        if height < 0:
            height, velocity = -height, -0.95 * velocity
        rows.append((height, velocity))
    return np.array(rows)


def cells(draw: np.random.Generator, length: int) -> np.ndarray:
    return np.clip(np.cumsum(draw.integers(-1, 2, (length, 2)), 0), 0, 9)


def one_hot(draw: np.random.Generator, length: int) -> np.ndarray:
    return np.eye(10)[cells(draw, length)[:, 0]]


def starts_and_stops(draw: np.random.Generator, length: int) -> np.ndarray:
    moving = np.repeat(draw.random(-(-length // 25)) < 0.1, 25)[:length, None]
    return np.cumsum(np.where(moving, 0.5, 0.001) * draw.normal(size=(length, 3)), 0)


def turning(draw: np.random.Generator, length: int) -> np.ndarray:
    return (np.cumsum(draw.normal(0.2, 0.05, (length, 2)), 0) + np.pi) % (2 * np.pi) - np.pi


def independent(draw: np.random.Generator, length: int) -> np.ndarray:
    return draw.normal(size=(length, 4))


ORDINARY = [heavy, bouncing, cells, one_hot, starts_and_stops, turning, independent]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", ORDINARY)
def test_no_alarm_on_steps_that_recordings_make(make, seed):
    assert "outlying_step" not in warned(recorded(make, marked=True, seed=seed))


def test_no_alarm_on_good_data():
    hopper = load_dataset("bundled:hopper")
    assert doctor(hopper).findings == doctor(made_data()).findings == doctor(made_data(3000)).findings == ()
    given = {key: getattr(hopper, key) for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    derived = Dataset.from_arrays(**given)
    assert derived.episodes == 210 and doctor(derived).findings == ()
    np.testing.assert_array_equal(derived.episode_returns(), hopper.episode_returns())


def test_every_end_of_real_data_that_is_not_marked_is_found_but_a_few():
    hopper = load_dataset("bundled:hopper")
    rows = np.arange(len(hopper))
    data = Dataset.from_arrays(
        observations=hopper.observations, actions=hopper.actions, rewards=hopper.rewards,
        terminals=np.zeros(len(rows)), timeouts=rows == rows[-1],
    )  # fmt: skip
    split = split_at_joins(data)
    starts = {hopper.observations[row].tobytes() for row in hopper.episode_starts}
    assert 200 <= split.episodes <= 210
    assert all(split.observations[row].tobytes() in starts for row in split.episode_starts)


@pytest.mark.parametrize("cut", [5, 50])
@pytest.mark.parametrize("dimensions", [1, 4])
def test_ends_that_repeat_their_observation_are_named(cut, dimensions):
    walks = np.cumsum(np.random.default_rng(0).normal(size=(10, cut, dimensions)), 1)
    following = np.concatenate([walks[:, 1:], walks[:, -1:]], 1)
    last = np.tile(np.arange(cut) == cut - 1, 10)
    draw = np.random.default_rng(1)
    given: dict[str, Any] = {
        "observations": walks.reshape(-1, dimensions), "actions": draw.uniform(-1, 1, (10 * cut, 1)),
        "rewards": draw.normal(size=10 * cut), "terminals": np.zeros(10 * cut), "timeouts": last,
    }  # fmt: skip
    data = Dataset.from_arrays(**given, next_observations=following.reshape(-1, dimensions))
    finding = next(finding for finding in doctor(data).findings if finding.code == "repeated_observation")
    assert (finding.count, finding.rows) == (10, tuple(np.flatnonzero(last)[:5]))
    assert "--split-at-joins" in finding.remedy
    split, derived = split_at_joins(data), Dataset.from_arrays(**given)
    assert split.fingerprint == derived.fingerprint
    true_ends: dict[str, Any] = given | {"terminals": last, "timeouts": np.zeros(10 * cut)}
    ended = Dataset.from_arrays(**true_ends, next_observations=following.reshape(-1, dimensions))
    assert "repeated_observation" not in doctor(ended).codes, "a true end's next observation is never read"


@pytest.mark.parametrize("still", [2, 30])
def test_states_that_stand_still_are_no_repeated_ends(still):
    draw = np.random.default_rng(0)
    walks = np.repeat(np.cumsum(draw.normal(size=(10, 60 // still + 1, 2)), 1), still, axis=1)[:, :61]
    data = Dataset.from_arrays(
        observations=walks[:, :-1].reshape(-1, 2), next_observations=walks[:, 1:].reshape(-1, 2),
        actions=draw.uniform(-1, 1, (len(walks[0, 1:]) * 10, 1)), rewards=draw.normal(size=len(walks[0, 1:]) * 10),
        terminals=np.zeros(len(walks[0, 1:]) * 10), episode_ids=np.repeat(np.arange(10), len(walks[0, 1:])),
    )  # fmt: skip
    assert "repeated_observation" not in doctor(data).codes


# Absurd values


@pytest.mark.parametrize(("row", "value"), [(3, 1e20), (411, -1e10), (0, 3e38), (ROWS - 2, 1e6)])
def test_absurd_rewards_are_named(row, value):
    rewards = np.random.default_rng(1).normal(size=ROWS)
    rewards[row] = value
    finding = next(f for f in doctor(recorded(walk(), True, rewards=rewards)).findings if f.code == "reward_outliers")
    assert finding.rows == (row - sum(row > LAST),) and f"{np.float32(value):g}" in finding.message


@pytest.mark.parametrize("others", [0, 1, 8])
@pytest.mark.parametrize("value", [1e12, -3e10])
def test_an_absurd_reward_among_zeros_is_named(value, others):
    rewards = np.zeros(ROWS)
    rewards[7], rewards[20 : 20 + others] = value, 1
    finding = next(f for f in doctor(recorded(walk(), True, rewards=rewards)).findings if f.code == "reward_outliers")
    assert finding.rows == (7,)


@pytest.mark.parametrize(("count", "value"), [(1, 1e12), (60, 1e20)])
def test_absurd_observations_are_named(count, value):
    data = recorded(walk(), True)
    observations = data.observations.copy()
    rows = np.random.default_rng(0).choice(len(data), count, replace=False)
    observations[rows, 1] = value
    columns = {key: array for key, array in data.arrays().items() if not key.startswith("recorded")}
    finding = next(
        finding
        for finding in doctor(Dataset.from_arrays(**columns | {"observations": observations})).findings
        if finding.code == "observation_outliers"
    )
    assert finding.count == count and set(finding.rows) <= set(rows) and "[1]" in finding.message


@pytest.mark.parametrize(
    "rewards",
    [
        np.arange(ROWS) % 500 == 0,
        np.where(np.arange(ROWS) % 100 == 99, 1000.0, -0.1),
        np.random.default_rng(0).standard_t(2, ROWS),
        np.zeros(ROWS),
        np.where(np.arange(ROWS) == 500, 1000.0, 0.0),
        np.where(np.arange(ROWS) % 400 == 5, 1e5, 0.0),
    ],
)
def test_no_alarm_on_sparse_or_heavy_rewards(rewards):
    assert "reward_outliers" not in warned(recorded(walk(), True, rewards=rewards))


@pytest.mark.parametrize("key", ["observations", "rewards"])
def test_values_beyond_float32_and_nan_are_refused_in_words(key):
    data = recorded(walk(), True)
    columns = {name: array for name, array in data.arrays().items() if not name.startswith("recorded")}
    for value in (1e300, -1e300, np.nan):
        array = columns[key].astype(np.float64)
        array[7] = value
        broken = Dataset.from_arrays(**columns | {key: array})
        with pytest.raises(DatasetError, match=rf"{key} has NaN or infinity in 1 rows \(rows 7\).*--drop-bad-rows"):
            check_trainable(broken)
        doctor(broken)
        advise(broken, normalize_observations=True)


def test_infinite_bounds_load_and_are_refused_where_policies_need_them():
    for low, high in ((-np.inf, np.inf), ([-1, -np.inf], [1, 1]), (-1, [np.inf, 1])):
        data = recorded(walk(), True, action_low=low, action_high=high)
        match = r"infinite in dimensions .*in the data they reach -\d.*action_low=.*--action-low"
        with pytest.raises(DatasetError, match=match):
            check_trainable(data)
        with pytest.raises(DatasetError, match="bounds of .* are infinite"):
            Preprocessor.fit(data)


# Settings that do not fit the data


@pytest.mark.parametrize(
    ("rewards", "settings", "told"),
    [
        ((-1, 0), {"reward_shift": -1.0}, True),
        ((-1, 0), {"reward_scale": 10.0, "reward_shift": -5.0}, True),
        ((-1, 0), {"reward_scale": 4.0, "reward_shift": -2.0}, True),
        ((-1, 0), {}, False),
        ((-1, 0), {"reward_scale": "return_range", "reward_shift": "dataset_mean"}, False),
        ((0, 1), {"reward_shift": -1.0}, False),
        ((0, 1), {"reward_scale": 10.0, "reward_shift": -5.0}, False),
        ((-2, -1), {"reward_shift": -1.0}, False),
    ],
)
def test_shifting_rewards_twice_is_advised_against(rewards, settings, told):
    goal = np.arange(ROWS) % 40 == 0
    data = recorded(walk(), True, rewards=np.where(goal, rewards[1], rewards[0]))
    assert ("shifted_rewards" in [finding.code for finding in advise(data, **settings)]) == told


def test_advice_is_the_warnings_of_the_doctor():
    data = recorded(lambda draw, length: np.append(walk()(draw, length), np.ones((length, 1)), 1), marked=True)
    assert [finding.code for finding in advise(data)] == ["constant_dimensions"]
    assert all(finding.severity == "warning" for finding in advise(recorded(walk(), marked=False)))


@pytest.mark.parametrize("constant", [0.3, -7e4, 0.0])
def test_a_dimension_that_never_changes_is_not_blown_up(constant):
    data = recorded(lambda draw, n: np.append(walk()(draw, n), np.full((n, 1), constant), 1), marked=True)
    fitted = Preprocessor.fit(data, normalize_observations=True)
    table = fitted.table(data)
    assert not table["observation"][:, 3].any()
    assert float(fitted.observation_std[3]) == 1.0


# Names


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("mini_kitchen_microwave_kettle_light_slider-v0.hdf5", "kitchen"),
        ("kitchen_microwave_kettle_bottomburner_light-v0.hdf5", "kitchen"),
        ("kitchen-complete-v0.hdf5", "kitchen"),
        ("walker_mixed.hdf5", "walker2d"),
        ("halfcheetah_mixed.hdf5", "halfcheetah"),
        ("ant_random_expert.hdf5", "ant"),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse.hdf5", "antmaze"),
        ("pen-v0_demos_clipped.hdf5", "pen"),
        ("relocate-demos-v0-bc-combined.hdf5", "relocate"),
        ("bullet-hopper_medium.hdf5", None),
    ],
)
def test_names_of_old_files(file, task):
    assert task_of_file(file)[0] == task


def test_every_task_of_the_table_can_be_reached():
    names = [
        f"{task}{rest}" for task in REFERENCE_SCORES for rest in ("_medium-v2.hdf5", "-sparse-v1.hdf5", "-v1.hdf5")
    ]
    tasks = {task_of_file(name)[0] for name in names} | set(TASK_OF_ENV.values())
    of_layouts = {task for task in REFERENCE_SCORES if task.startswith("neorl2-")}  # which name their environment
    assert (tasks - {None}) | of_layouts | {"pendulum"} == set(REFERENCE_SCORES)  # named by scripted:pendulum/...
    assert REFERENCE_SCORES["kitchen"].score(2) == 50.0


def test_remedies_of_episodes_name_their_commands():
    draw = np.random.default_rng(0)
    rows = 60

    def remedy(code: str, **more: Any) -> str:
        states = np.cumsum(draw.normal(size=(rows + 1, 3)), 0)
        given: dict[str, Any] = {
            "observations": states[:-1],
            "next_observations": states[1:],
            "actions": draw.uniform(-1, 1, (rows, 2)),
            "rewards": draw.normal(size=rows),
            "terminals": np.zeros(rows),
        }
        return next(
            finding.remedy for finding in doctor(Dataset.from_arrays(**given | more)).findings if finding.code == code
        )

    for code, more, option in (
        ("episode_ids", {"episode_ids": np.arange(rows) // 10 % 2}, "--renumber-episodes"),
        ("episode_ids", {"episode_ids": np.arange(rows) // 10 % 2}, "--ignore episode_ids"),
        (
            "mark_inside_episode",
            {"episode_ids": np.zeros(rows), "timeouts": np.arange(rows) == 7},
            "--ignore episode_ids",
        ),
        ("no_marks", {"episode_ids": np.zeros(rows)}, "--mark-ends"),
        ("no_marks", {"episode_ids": np.arange(rows) // 20}, "--mark-ends"),
    ):
        assert f"adaptive-constraints repair IN OUT {option}" in remedy(code, **more), (code, option)


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_an_end_after_an_end_is_named_where_most_episodes_are_so(share):
    rows, draw = 300, np.random.default_rng(1)
    data = Dataset.from_arrays(
        observations=draw.normal(size=(rows, 3)),
        next_observations=draw.normal(size=(rows, 3)),
        actions=draw.uniform(-1, 1, (rows, 2)),
        rewards=np.ones(rows),
        terminals=draw.uniform(size=rows) < share,
    )
    told = warned(data).get("repeated_end", ())
    repeated = [row for row in range(1, rows) if data.terminals[row] and data.terminals[row - 1]]
    assert told == (tuple(repeated[: len(told)]) if share > 0.5 else ()) and bool(told) == (share > 0.5)
