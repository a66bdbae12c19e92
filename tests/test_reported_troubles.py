"""Troubles that users of other libraries reported in public, made again with the values that showed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from adaptive_constraints import Dataset, doctor, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import IQL, TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.data import Preprocessor, normalized_score, split_at_joins
from adaptive_constraints.data.references import task_of_file
from adaptive_constraints.errors import DatasetError, EvaluationError, TrainingError

from .foreign import QUIET, line_agent, line_data

h5py = pytest.importorskip("h5py")


def walks(lengths: list[int], seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random walks of three dimensions, one after the other, and the number of each one's last row."""
    draw = np.random.default_rng(seed)
    steps = [np.cumsum(draw.normal(0, 0.1, (n, 3)), 0) + draw.normal(0, 1, 3) for n in lengths]
    return np.concatenate(steps).astype("f4"), np.cumsum(lengths) - 1


def hdf5(path: Path, **arrays: Any) -> Dataset:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return load_dataset(f"d4rl:{path}")


def rows_of(data: Dataset) -> set[int]:
    return {row for finding in doctor(data).findings for row in finding.rows}


def test_recordings_that_end_without_a_mark(tmp_path):
    """D4RL issue 146: no next observations, no timeouts; three transitions jump into another recording."""
    observations, last = walks([1000, 700, 1000, 1000, 900, 1000])
    draw, rows = np.random.default_rng(1), len(observations)
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[last[[1, 4]]], timeouts[last[[0, 2, 3, 5]]] = True, True
    columns = {
        "observations": observations,
        "actions": draw.uniform(-1, 1, (rows, 2)).astype("f4"),
        "rewards": draw.normal(size=rows).astype("f4"),
        "terminals": terminals,
    }
    joined, marked = hdf5(tmp_path / "a.hdf5", **columns), hdf5(tmp_path / "b.hdf5", **columns, timeouts=timeouts)
    assert joined.episodes == 3 and {999, 2699, 3699} <= rows_of(joined)
    assert marked.episodes == 6 and not doctor(marked).findings
    assert split_at_joins(joined).episodes == 6


def test_joined_recordings_and_other_bounds_come_to_a_run(tmp_path, capsys):
    """CORL issue 63 and others: recordings joined without a mark, actions from 0 to 100."""
    draw = np.random.default_rng(0)
    states = (np.cumsum(draw.normal(0, 0.1, (6, 201, 3)), 1) + draw.normal(0, 1, (6, 1, 3))).astype("f4")
    terminals = np.zeros((6, 200), bool)
    terminals[[1, 4], -1] = True
    actions = (draw.uniform(-1, 1, (1200, 2)) * 50 + 50).astype("f4")
    file, good = tmp_path / "joined.hdf5", tmp_path / "good.npz"
    hdf5(
        file,
        observations=states[:, :-1].reshape(-1, 3),
        next_observations=states[:, 1:].reshape(-1, 3),
        actions=actions,
        rewards=draw.normal(size=1200).astype("f4"),
        terminals=terminals.ravel(),
        timeouts=np.zeros(1200, bool),
    )
    train = ("--learner", "TD3BC", "hidden=8", "--steps", "2", "--eval-env", "none", "--quiet", "--out")
    assert main(["train", "--data", f"d4rl:{file}", *train, str(tmp_path / "refused")]) == 2
    said = capsys.readouterr().err
    assert "adaptive-constraints repair" in said and "--split-at-joins" in said and "--action-low" in said
    bounds = ("--action-low", "0", "--action-high", "100")
    assert main(["repair", f"d4rl:{file}", str(good), "--split-at-joins", *bounds]) == 0
    assert main(["train", "--data", f"npz:{good}", *train, str(tmp_path / "run")]) == 0
    mended = load_dataset(f"npz:{good}")
    assert mended.episodes == 6 and (mended.episode_lengths() == 200).all()
    learner_space = Preprocessor.fit(mended).actions(torch.tensor(mended.actions))
    torch.testing.assert_close(learner_space, torch.tensor((actions - 50) / 50), rtol=0, atol=1e-6)


def test_a_reward_on_a_dropped_row_counts(tmp_path):
    """OfflineRL-Kit issue 14, IQL-PyTorch issue 4: the last row of 7 of 10 recordings is rewarded, and dropped."""
    rewards, timeouts = np.zeros((10, 100), "f4"), np.zeros((10, 100), bool)
    rewards[:7, -1], timeouts[:, -1] = 1, True
    draw = np.random.default_rng(0)
    data = hdf5(
        tmp_path / "last.hdf5",
        observations=np.cumsum(draw.normal(size=(1000, 2)), 0).astype("f4"),
        actions=draw.uniform(-1, 1, (1000, 1)).astype("f4"),
        rewards=rewards.ravel(),
        terminals=np.zeros(1000, bool),
        timeouts=timeouts.ravel(),
    )
    assert data.episode_returns().sum() == 7 and data.episode_returns().mean() == pytest.approx(0.7)


def test_an_environment_without_a_limit_ends():
    """d3rlpy issue 209: evaluation in an environment that never ends returns."""
    evaluation = line_agent().evaluate("tests/Endless-v0", episodes=1, eval_max_steps=10)
    assert evaluation.returns.shape == (1, 1) and evaluation.returns[0, 0] <= 10
    with pytest.raises(EvaluationError, match="tests/Endless-v0"):
        line_agent(line_data(length=1, truly=True)).evaluate("tests/Endless-v0", episodes=1)


def test_rescaled_actions_are_an_error_that_names_both_bounds():
    """ray issue 27335: data in -1 .. 1, an environment that takes -2 .. 2."""
    narrow = line_data(action_low=-1.0, action_high=1.0)
    narrow = Dataset.from_arrays(
        **{name: getattr(narrow, name) for name in ("observations", "next_observations", "rewards", "episode_ids")},
        actions=narrow.actions / 2,
        terminals=narrow.terminals,
        timeouts=narrow.timeouts,
    )
    with pytest.raises(EvaluationError, match=r"\[-1\.0\].*\[1\.0\].*\[-2\.0\].*\[2\.0\]"):
        line_agent(narrow, eval_env="tests/Line-v0", eval_episodes=1)
    line_agent(line_data(), eval_env="tests/Line-v0", eval_episodes=1)


def test_marks_and_names_of_other_libraries(tmp_path):
    """d3rlpy issue 166 (episode_terminals), DI-engine issue 68 (obs, act, rew)."""
    draw = np.random.default_rng(0)
    terminals, ends = np.zeros((10, 50), "f4"), np.zeros((10, 50), "f4")
    terminals[[2, 6], -1], ends[:, -1] = 1, 1
    columns = {
        "observations": draw.normal(size=(500, 2)).astype("f4"),
        "actions": draw.uniform(-1, 1, (500, 1)).astype("f4"),
        "rewards": draw.normal(size=500).astype("f4"),
        "terminals": terminals.ravel(),
    }
    assert hdf5(tmp_path / "a.hdf5", **columns, episode_terminals=ends.ravel()).episodes == 10
    with pytest.raises(DatasetError, match=r"mystery"):
        hdf5(tmp_path / "b.hdf5", **columns, mystery=ends.ravel())
    with pytest.raises(DatasetError, match=r"act.*obs.*rew"):
        hdf5(tmp_path / "c.hdf5", obs=np.zeros((5, 2)), act=np.zeros((5, 1)), rew=np.zeros(5))


def test_a_tenth_of_the_rows_keeps_the_scale_of_returns():
    """After IQL-PyTorch issue 4: 1000 over the range of returns read off rows that are no episodes."""

    def scale(data: Dataset) -> float:
        return float(Preprocessor.fit(data, reward_scale="return_range").reward_scale)

    whole = load_dataset("bundled:hopper")
    part = split_at_joins(whole.subset(np.random.default_rng(0).random(len(whole)) < 0.1))
    assert scale(whole) == pytest.approx(0.3146, abs=1e-4) and scale(part) == pytest.approx(0.3146, rel=0.2)


class _Foreign:
    observation_space, action_space = Box(-9, 9, (2,), np.float32), Box(-2, 2, (1,), np.float32)
    zero, count = np.zeros(2, np.float32), 0

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        return self.zero, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.zero, np.array([1.0]), False, self.count >= 7, {}

    def close(self) -> None:
        pass


class _WithoutSeed(_Foreign):
    def reset(self) -> Any:  # type: ignore[override]
        return self.zero


class _FourValues(_Foreign):
    def step(self, action: Any) -> Any:
        return self.zero, 1.0, True, {}


class _Int32(_Foreign):
    def reset(self, seed: Any = None, options: Any = None) -> Any:
        np.int32(seed)
        return self.zero, {}

    def step(self, action: Any) -> Any:
        return self.zero, 1.0, True, False, {}


def test_environments_of_others():
    """OSRL issue 27, d3rlpy issue 395, tianshou issue 865, grid2op issue 331."""
    agent = line_agent()
    assert agent.evaluate(_Foreign, episodes=1).returns.tolist() == [[7.0]]
    assert agent.evaluate(_Int32, episodes=10).returns.tolist() == [[1.0] * 10]
    for kind in (_WithoutSeed, _FourValues):
        with pytest.raises(EvaluationError, match=kind.__name__):
            agent.evaluate(kind, episodes=1)


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("mini_kitchen_microwave_kettle_light_slider-v0.hdf5", "kitchen"),
        ("kitchen_microwave_kettle_light_slider-v0.hdf5", "kitchen"),
        ("kitchen_microwave_kettle_bottomburner_light-v0.hdf5", "kitchen"),
        ("walker_mixed.hdf5", "walker2d"),
    ],
)
def test_names_of_old_files_lead_to_their_scores(file, task):
    """D4RL issue 48."""
    assert task_of_file(file)[0] == task
    assert task != "kitchen" or normalized_score(task, 2.0) == pytest.approx(50.0)


def test_a_dimension_that_never_changes_does_not_rule_actions(capsys):
    """wall-x issue 113: 0.30 in all of the data, 0.31 at evaluation."""
    draw = np.random.default_rng(0)
    observations = np.concatenate([draw.normal(size=(500, 3)), np.full((500, 1), 0.3)], 1)
    data = Dataset.from_arrays(
        observations=observations,
        next_observations=np.roll(observations, 1, 0),
        actions=draw.uniform(-1, 1, (500, 2)),
        rewards=draw.normal(size=500),
        terminals=np.ones(500),
    )
    agent = wrap(IQL(hidden=64))
    agent.fit(data, steps=200, device="cpu")
    assert "never change" in capsys.readouterr().err
    there = data.observations[:50].copy()
    moved = there.copy()
    moved[:, 3] = 0.31
    assert np.abs(agent.act(there) - agent.act(moved)).max() < 0.05


def test_one_absurd_reward_is_named_before_and_after(tmp_path):
    """d3rlpy issue 255: a reward of 1e20 in row 3, a sensor's fill value."""
    draw = np.random.default_rng(0)
    rewards, timeouts = draw.normal(size=500), np.zeros(500, bool)
    rewards[3], timeouts[49::50] = 1e20, True
    states = np.cumsum(draw.normal(size=(501, 2)), 0)
    data = Dataset.from_arrays(
        observations=states[:-1],
        next_observations=states[1:],
        actions=draw.uniform(-1, 1, (500, 1)),
        rewards=rewards,
        terminals=np.zeros(500),
        timeouts=timeouts,
    )
    assert any(3 in finding.rows for finding in doctor(data).findings if finding.code != "next_episode")
    agent = wrap(TD3BC(hidden=8, batch_size=256))
    with (
        pytest.warns(UserWarning, match="doubtful data|is lost"),
        pytest.raises(TrainingError, match=r"rewards reach 1e\+20 in row 3"),
    ):
        agent.fit(data, steps=50, log_every=1, **QUIET)


def test_last_observations_that_repeat_themselves_are_named():
    """d3rlpy issue 164: a loader had no following row and wrote the row's own observation."""
    draw = np.random.default_rng(0)
    states = np.cumsum(draw.normal(size=(10, 50, 2)), 1)
    following, timeouts = np.concatenate([states[:, 1:], states[:, -1:]], 1), np.zeros((10, 50), bool)
    timeouts[:, -1] = True
    columns = {
        "observations": states.reshape(-1, 2),
        "actions": draw.uniform(-1, 1, (500, 1)),
        "rewards": draw.normal(size=500),
        "terminals": np.zeros(500),
        "timeouts": timeouts.ravel(),
    }
    given = Dataset.from_arrays(next_observations=following.reshape(-1, 2), **columns)
    assert {49, 99} <= rows_of(given)
    assert len(Dataset.from_arrays(**columns)) == 490


def test_a_saved_agent_of_such_data_acts(tmp_path):
    """The whole way once: mended data, a run, a file, an action within the environment's bounds."""
    agent = line_agent()
    agent.save(tmp_path / "agent.npz")
    action = load_agent(tmp_path / "agent.npz", device="cpu").act(np.zeros(2, np.float32))
    assert action.shape == (1,) and -2 <= float(action[0]) <= 2
