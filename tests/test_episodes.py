"""Episodes are recordings: flags that repeat, rows that are dropped, ends on the limit's step, parts of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.adapters.trust import by_rank, by_return, by_success
from adaptive_constraints.data import (
    Dataset,
    Preprocessor,
    check_trainable,
    doctor,
    load_dataset,
    relabel_timeouts,
    save_npz,
    split_at_joins,
)
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.runs.online import offline_rows
from adaptive_constraints.runs.settings import OnlineSettings


def walks(lengths: list[int], dimensions: int = 3, offset: float = 0.0, scale: float = 1.0, seed: int = 0) -> Any:
    """Random walks [T + 1, D] from far-apart starts, one per recording, and actions and rewards for their rows."""
    draw = np.random.default_rng(seed)
    made = [
        offset + scale * (np.cumsum(draw.normal(0, 0.1, (length + 1, dimensions)), 0) + draw.normal(0, 3, dimensions))
        for length in lengths
    ]
    return made, {"actions": draw.uniform(-1, 1, (sum(lengths), 2)), "rewards": draw.normal(size=sum(lengths))}


def columns(made: Any, following: str) -> dict[str, Any]:
    """Observations of recordings, with true next observations, a shifted column of them, or none."""
    observations = np.concatenate([walk[:-1] for walk in made])
    arrays = {"observations": observations}
    if following == "true":
        arrays["next_observations"] = np.concatenate([walk[1:] for walk in made])
    if following == "shifted":
        arrays["next_observations"] = np.roll(observations, -1, axis=0)
    return arrays


def goal_flags(recordings: int, length: int, visits: list[tuple[int, int]]) -> np.ndarray:
    """Rows from and up to which the goal is reached, the same in each recording."""
    flags = np.zeros((recordings, length), bool)
    for first, end in visits:
        flags[:, first:end] = True
    return flags.ravel()


VISITS = ([(30, 37)], [(20, 24), (30, 31), (40, 60)], [(53, 60)])


@pytest.mark.parametrize("visits", VISITS, ids=str)
@pytest.mark.parametrize("following", ["true", "shifted", "none"])
@pytest.mark.parametrize(("dimensions", "offset", "scale"), [(3, 0.0, 1.0), (1, 0.0, 10.0), (20, 5e5, 1e3)])
def test_flags_that_repeat_do_not_end_recordings(visits, following, dimensions, offset, scale):
    made, more = walks([60] * 30, dimensions, offset, scale)
    flags, last = goal_flags(30, 60, visits), np.tile(np.arange(60) == 59, 30)
    data = Dataset.from_arrays(
        **columns(made, following), **more | {"rewards": flags}, terminals=flags, timeouts=last & ~flags
    )
    if dimensions > 1:  # a single dimension tells resets and steps apart only mostly
        assert data.episodes == 30
    assert data.episodes < 60
    assert data.terminals.sum() == flags.sum(), "they stay on their rows"
    assert data.episode_ends[data.terminals].all() and not data.column("next_action_mask")[data.terminals].any()
    if dimensions > 1:
        assert data.episode_returns().tolist() == [flags.sum() / 30] * 30
        assert data.column("success").all(), "it was reached, whether it was left again or not"
        kept = next(finding for finding in doctor(data).findings if finding.code == "terminal_inside_episode")
        assert (kept.severity, kept.count) == ("note", flags.sum() - 30 * bool(flags[59]))
        check_trainable(data)


@pytest.mark.parametrize("following", ["true", "shifted", "none"])
@pytest.mark.parametrize("dimensions", [1, 2, 11])
def test_falls_that_a_reset_follows_end_episodes(following, dimensions):
    lengths = [20 + 7 * (number % 9) for number in range(60)]
    made, more = walks(lengths, dimensions, seed=dimensions)
    falls = np.isin(np.arange(sum(lengths)), np.cumsum(lengths)[::2] - 1)
    cuts = np.isin(np.arange(sum(lengths)), np.cumsum(lengths)[1::2] - 1)
    data = Dataset.from_arrays(**columns(made, following), **more, terminals=falls, timeouts=cuts)
    assert data.episodes == 60
    assert "terminal_inside_episode" not in doctor(data).codes


@pytest.mark.parametrize("following", ["rolled on", "rolled back", "own", "none"])
def test_one_row_episodes_stay_apart(following):
    draw = np.random.default_rng(0)
    observations = draw.normal(size=(200, 3))
    given = {
        "rolled on": {"next_observations": np.roll(observations, -1, 0)},
        "rolled back": {"next_observations": np.roll(observations, 1, 0)},
        "own": {"next_observations": observations},
        "none": {},
    }[following]
    more: dict[str, Any] = {
        "actions": draw.uniform(-1, 1, (200, 1)),
        "rewards": draw.normal(size=200),
        "terminals": np.ones(200),
    }
    data = Dataset.from_arrays(observations=observations, **given, **more)
    assert data.episodes == len(data) == 200
    assert Preprocessor.fit(data, reward_scale="return_range").reward_scale > 0, "their returns are known"


def test_given_ids_are_kept_with_terminals_inside_and_timeouts_inside_are_refused():
    made, more = walks([50] * 4)
    flags = goal_flags(4, 50, [(10, 13), (20, 21)])
    given = columns(made, "true") | more | {"terminals": flags, "episode_ids": np.repeat(np.arange(4), 50)}
    data = Dataset.from_arrays(**given)
    assert data.episodes == 4 and doctor(data).codes == ("terminal_inside_episode",)
    cut = Dataset.from_arrays(**given, timeouts=np.arange(200) == 30)
    assert [finding.code for finding in doctor(cut).errors] == ["mark_inside_episode"]
    given["next_observations"] = given["next_observations"].copy()
    given["next_observations"][12] += 1
    wrong = doctor(Dataset.from_arrays(**given)).errors
    assert [(finding.code, finding.rows) for finding in wrong] == [("mark_inside_episode", (12,))]


@pytest.mark.parametrize("following", ["true", "shifted"])
def test_a_goal_held_up_to_the_limit_is_no_time_limit(following):
    made, more = walks([60] * 30)
    flags, last = goal_flags(30, 60, [(40, 60)]), np.tile(np.arange(60) == 59, 30)
    data = Dataset.from_arrays(
        **columns(made, following), **more, terminals=flags, timeouts=last, episode_ids=np.repeat(np.arange(30), 60)
    )
    codes = set(doctor(data).codes)
    assert not codes & {"terminal_and_timeout", "timeouts_as_terminals", "terminals_at_limit"}
    assert relabel_timeouts(data).terminals.tolist() == flags.tolist()


@pytest.mark.parametrize("offset", [0.0, 1e7, 1.7e9])
def test_joins_are_found_at_any_offset(offset):
    draw = np.random.default_rng(1)
    made = [offset + draw.normal(0, 3, 3) + np.cumsum(draw.normal(0, 0.1, (51, 3)), 0) for _ in range(4)]
    actions, last = draw.uniform(-1, 1, (200, 2)), np.arange(200) == 199
    joined = Dataset.from_arrays(
        **columns(made, "true"), actions=actions, rewards=np.zeros(200), terminals=last, timeouts=np.zeros(200)
    )
    join = next(finding for finding in doctor(joined).findings if finding.code == "segment_join")
    assert join.rows == (49, 99, 149)
    assert split_at_joins(joined).episodes == 4


# Rows that are dropped


@pytest.mark.parametrize("length", [2, 5, 100])
def test_rewards_and_steps_of_dropped_rows_stay_known(length, tmp_path: Path):
    made, more = walks([length] * 10)
    rewards, last = np.zeros((10, length)), np.tile(np.arange(length) == length - 1, 10)
    rewards[:7, -1] = [1, 2, 3, 4, 5, 6, 7]
    data = Dataset.from_arrays(
        **columns(made, "none"), **more | {"rewards": rewards.ravel()}, terminals=np.zeros(10 * length), timeouts=last
    )
    assert len(data) == 10 * (length - 1)
    assert data.episode_returns().tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0]
    assert data.recorded.lengths.tolist() == [length] * 10
    assert data.episode_success().tolist() == [True] * 7 + [False] * 3
    assert float(Preprocessor.fit(data, reward_scale="return_range").reward_scale) == pytest.approx(1000 / 7)
    assert "dropped_rewards" in doctor(data).codes
    settings = OnlineSettings("none", 10, 1, "part", 2, 10)
    assert set(data.episode_ids[offline_rows(settings, data)]) == {5, 6}
    assert set(data.episode_ids[by_return(data, 4.5)]) == {4, 5, 6}
    assert set(data.episode_ids[by_rank(data, 0.1)]) == {6}
    assert set(data.episode_ids[by_success(data)]) == set(range(7))
    save_npz(data, tmp_path / "set.npz")
    again = load_dataset(f"npz:{tmp_path / 'set.npz'}")
    assert again.fingerprint == data.fingerprint
    assert again.episode_returns().tolist() == data.episode_returns().tolist()
    part = again.subset(again.episode_ids != 3)
    assert part.episode_returns().tolist() == [1, 2, 3, 5, 6, 7, 0, 0, 0]


def test_facts_that_the_rows_say_are_no_part_of_a_set():
    data = load_dataset("bundled:hopper")
    assert data.fingerprint == "55e9010420fd058e"
    assert data.recorded_returns is None
    whole = data.subset(data.episode_ids < 7)
    assert whole.recorded_returns is None and not any(name.startswith("recorded") for name in whole.arrays())
    facts = {f"recorded_{name}": array for name, array in data.recorded._asdict().items()}
    columns = {key: array for key, array in data.arrays().items() if "/" not in key}
    assert Dataset.from_arrays(**columns, **facts).fingerprint == data.fingerprint
    with pytest.raises(DatasetError, match="one entry for each of the 210 episodes"):
        Dataset.from_arrays(**columns, **{key: array[1:] for key, array in facts.items()})
    derived = {key: array for key, array in columns.items() if key != "next_observations"}
    with pytest.raises(DatasetError, match="one entry for each of the 210 episodes, but have 209"):
        Dataset.from_arrays(**derived, **{key: array[1:] for key, array in facts.items()})
    with pytest.raises(DatasetError, match="one entry for each of the 210 episodes, but have 211"):
        Dataset.from_arrays(**derived, **{key: np.append(array, array[:1]) for key, array in facts.items()})
    with pytest.raises(DatasetError, match="extra must be none or a dictionary, not"):
        Dataset.from_arrays(**columns, extra=[1])
    with pytest.raises(DatasetError, match="give all or none"):
        Dataset.from_arrays(**columns, recorded_returns=facts["recorded_returns"])


# The time limit


@pytest.mark.parametrize("following", ["true", "none"])
def test_a_fall_on_the_last_allowed_step_is_an_end(following):
    lengths = [100, 40, 100, 100, 100, 73]
    made, more = walks(lengths)
    last = np.cumsum(lengths) - 1
    falls = np.isin(np.arange(sum(lengths)), last[[0, 2]])
    cuts = np.isin(np.arange(sum(lengths)), last[[1, 3, 4, 5]])
    for both in (False, True):  # some recorders mark the fall a timeout too
        timeouts = cuts | falls if both else cuts
        data = Dataset.from_arrays(**columns(made, following), **more, terminals=falls, timeouts=timeouts)
        check_trainable(data)
        assert all(finding.severity == "note" for finding in doctor(data).findings)
        assert data.terminals.sum() == 2


@pytest.mark.parametrize("marked", ["terminal", "both"])
@pytest.mark.parametrize(("length", "shorter"), [(100, 0), (250, 0), (100, 3)])
def test_a_time_limit_marked_terminal_is_refused(marked, length, shorter):
    lengths = [length] * 5 + [length // 3] * shorter
    made, more = walks(lengths)
    last = np.cumsum(lengths) - 1
    terminals = np.isin(np.arange(sum(lengths)), last[:5])
    timeouts = np.isin(np.arange(sum(lengths)), last if marked == "both" else last[5:])
    data = Dataset.from_arrays(**columns(made, "true"), **more, terminals=terminals, timeouts=timeouts)
    with pytest.raises(DatasetError, match=r"relabel_timeouts\(dataset\), on the command line .* --relabel-timeouts"):
        check_trainable(data)
    check_trainable(relabel_timeouts(data))


def test_one_fall_on_the_last_step_beside_earlier_falls_is_an_end():
    made, more = walks([30, 100, 60])
    terminals = np.isin(np.arange(190), [29, 129, 189])
    data = Dataset.from_arrays(**columns(made, "true"), **more, terminals=terminals, timeouts=np.arange(190) == 129)
    assert [(finding.severity, finding.code) for finding in doctor(data).findings] == [("note", "terminal_and_timeout")]


# Parts of recordings


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_random_rows_of_a_set_know_the_returns_of_its_recordings(share, tmp_path: Path):
    whole = load_dataset("bundled:hopper")
    part = whole.subset(np.random.default_rng(0).random(len(whole)) < share)
    split = split_at_joins(part)
    assert split.episodes > part.episodes
    check_trainable(split)
    for data in (part, split):
        scale = Preprocessor.fit(data, reward_scale="return_range").reward_scale
        assert float(scale) == pytest.approx(float(Preprocessor.fit(whole, reward_scale="return_range").reward_scale))
    save_npz(split, tmp_path / "part.npz")
    assert load_dataset(f"npz:{tmp_path / 'part.npz'}").column("return").tolist() == split.column("return").tolist()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_random_rows_that_nothing_more_is_known_of_are_refused_where_returns_are_read(share):
    made, more = walks([200] * 20)
    rows = np.random.default_rng(0).random(4000) < share
    given = columns(made, "true") | more | {"terminals": np.zeros(4000), "timeouts": np.arange(4000) % 200 == 199}
    ids = np.repeat(np.arange(20), 200)[rows]
    data = split_at_joins(Dataset.from_arrays(**{key: array[rows] for key, array in given.items()}, episode_ids=ids))
    assert "returns not known" in repr(data)
    assert "pieces" in doctor(data).codes
    check_trainable(data)
    readers = (
        data.episode_returns,
        lambda: data.column("success"),
        lambda: Preprocessor.fit(data, reward_scale="return_range"),
        lambda: offline_rows(OnlineSettings("none", 10, 1, "part", 2, 10), data),
        lambda: by_rank(data, 0.1),
        lambda: by_success(data),
    )
    for reader in readers:
        with pytest.raises(DatasetError, match=r"pieces of recordings.*Use the whole recordings"):
            reader()
    Preprocessor.fit(data, normalize_observations=True, reward_scale="dataset_std")


@pytest.mark.parametrize("length", [20, 200])
def test_recordings_that_were_joined_have_returns_of_their_own_after_splitting(length):
    made, more = walks([length] * 6)
    given = columns(made, "true") | more
    joined = Dataset.from_arrays(
        **given, terminals=np.zeros(6 * length), timeouts=np.arange(6 * length) == 6 * length - 1
    )
    split = split_at_joins(joined)
    assert split.episode_lengths().tolist() == [length] * 6
    np.testing.assert_allclose(split.episode_returns(), more["rewards"].reshape(6, -1).sum(1), rtol=1e-4)


# Goals that are held


HEAVY = {
    "normal": lambda draw, size: draw.normal(size=size) * 0.1,
    "heavy": lambda draw, size: draw.standard_t(2, size=size) * 0.05,
    "heavier": lambda draw, size: draw.standard_t(1.5, size=size) * 0.03,
    "contacts": lambda draw, size: draw.normal(size=size) * 0.05 + (draw.random() < 0.05) * draw.normal(size=size),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", ["next", "timeouts", "both"])
@pytest.mark.parametrize(("kind", "dimensions", "offset"), [(k, d, o) for k in HEAVY for d, o in ((3, 0.0), (7, 1e4))])
def test_a_held_goal_is_one_recording_whatever_the_steps(kind, dimensions, offset, given, seed):
    """Single steps out of the ordinary do not end a recording that its next observations or its neighbours continue."""
    if (kind, given) == ("contacts", "timeouts") and dimensions == 3:
        pytest.skip("steps there are no shorter than those between recordings")
    draw = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {"observations": [], "next_observations": [], "terminals": [], "timeouts": []}
    lengths = draw.integers(40, 60, size=11)
    for length in lengths:
        state = offset + draw.normal(size=dimensions) * 3
        for number in range(length):
            following = state + HEAVY[kind](draw, dimensions)
            row = (state, following, number >= 18, number == length - 1)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            state = following
    if given == "next":
        del columns["timeouts"]
    if given == "timeouts":
        del columns["next_observations"]
    rewards = np.array(columns["terminals"], float)
    data = Dataset.from_arrays(**columns, rewards=rewards, actions=draw.uniform(-1, 1, (len(rewards), 2)))
    assert data.recorded.lengths.tolist() == lengths.tolist()
    assert data.recorded.returns.tolist() == (lengths - 18).tolist()
    assert not doctor(data).errors


def test_recorded_lengths_are_no_shorter_than_the_rows():
    draw = np.random.default_rng(0)
    given: dict[str, Any] = {
        "observations": draw.normal(size=(20, 2)),
        "next_observations": draw.normal(size=(20, 2)),
        "actions": draw.uniform(-1, 1, (20, 1)),
        "rewards": draw.normal(size=20),
        "terminals": np.arange(20) % 10 == 9,
        "recorded_returns": [1.0, 2.0],
        "recorded_success": [True, False],
    }
    assert Dataset.from_arrays(**given, recorded_lengths=[10, 15]).recorded.lengths.tolist() == [10, 15]
    for lengths in ([-4, 10], [10, 9]):
        with pytest.raises(DatasetError, match="recorded_lengths says .* rows"):
            Dataset.from_arrays(**given, recorded_lengths=lengths)
