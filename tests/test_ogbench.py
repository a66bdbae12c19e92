"""OGBench's single-task sets: files in its layout, made here in its own environment, read with its own rewards."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from adaptive_constraints import load_dataset, wrap
from adaptive_constraints.baselines import FQL
from adaptive_constraints.data import doctor, list_datasets
from adaptive_constraints.data.references import SUCCESS
from adaptive_constraints.errors import DatasetError, DependencyError

ogbench = pytest.importorskip("ogbench")
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered", "ignore:.*DISPLAY")  # of its environments

NAME = "cube-single-play-singletask-v0"
STEPS = 6
SOLVED = (2, 9)
"""Rows of the file, one in each recording, whose cube lies where the task wants it."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """OGBench's folder, empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = tmp_path / ".ogbench" / "data"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def file(folder) -> Path:
    """Two recordings of random actions, of `STEPS` states each."""
    columns: dict[str, list[object]] = {name: [] for name in ("observations", "actions", "terminals", "qpos")}
    env = ogbench.make_env_and_datasets(NAME, env_only=True)
    env.action_space.seed(0)
    for seed in (0, 1):
        observation, _ = env.reset(seed=seed)
        for step in range(STEPS):
            action, position = env.action_space.sample(), env.unwrapped._data.qpos.copy()
            if len(columns["qpos"]) in SOLVED:
                position[14:17] = env.unwrapped._data.mocap_pos[0]
            for name, value in zip(columns, (observation, action, step == STEPS - 1, position), strict=True):
                columns[name].append(value)
            observation = env.step(action)[0]
    env.close()
    path = folder / "cube-single-play-v0.npz"
    np.savez(path, **{name: np.array(column, np.float32) for name, column in columns.items()})
    return path


def test_transitions_rewards_and_ends(file):
    with np.load(file) as there:
        observations = there["observations"]
    data, starts = load_dataset(f"ogbench:{NAME}"), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(data.observations, observations[starts])
    np.testing.assert_array_equal(data.next_observations, observations[[row + 1 for row in starts]])
    solved = [row in SOLVED for row in starts]
    assert data.rewards.tolist() == [0.0 if at_goal else -1.0 for at_goal in solved]
    assert data.terminals.tolist() == solved
    assert np.flatnonzero(data.timeouts).tolist() == [4, 9], "where a recording ends"
    assert data.episode_lengths().tolist() == [5, 5], "recordings, which go on where the task is solved"
    assert data.provenance["ogbench"] == importlib.metadata.version("ogbench")
    assert doctor(data).errors == () and data.env_id == "ogbench:cube-single-singletask-v0"


def test_the_sets_that_are_here_are_listed(file):
    for name in ("scene-play-v0", "cube-single-play-v0-val", "visual-cube-single-play-v0"):
        (file.parent / f"{name}.npz").touch()
    listed = [reference for reference in list_datasets() if reference.startswith("ogbench:")]
    assert listed == [f"ogbench:{NAME}", "ogbench:scene-play-singletask-v0"]


def test_another_task_of_the_same_file_has_other_rewards(file):
    other = load_dataset("ogbench:cube-single-play-singletask-task4-v0")
    assert (other.rewards == -1).all() and not other.terminals.any()
    assert other.env_id == "ogbench:cube-single-singletask-task4-v0"


def test_a_learner_trains_and_is_evaluated_there(file):
    agent = wrap(FQL(hidden=8, layers=2, batch_size=8))
    agent.fit(load_dataset(f"ogbench:{NAME}"), steps=4, traced=False, eval_env="auto", eval_episodes=1, progress=False)
    (evaluation,) = agent.history.evaluations
    assert -200 <= evaluation.mean_return[0] <= 0
    assert evaluation.success is not None and evaluation.reference == SUCCESS
    assert evaluation.score.tolist() == evaluation.success_rate.tolist() == [100.0 * evaluation.success[0, 0]]
    assert agent.history.summary().measure == "score"


@pytest.mark.parametrize("version", ["1.1.5", "1.0.1", "0.9"])
def test_versions_with_other_rewards_are_refused(file, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(DependencyError, match=rf"ogbench {version} rewards single tasks otherwise.*ogbench>=1\.2"):
        load_dataset(f"ogbench:{NAME}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (NAME, "cube-single-play-v0.npz, which is not there. Pass download=True"),
        ("cube-single-play-v0", "is not of one task, so it has no rewards: name a task, such as"),
        ("visual-cube-single-play-singletask-v0", "has images"),
    ],
)
def test_what_cannot_be_loaded(folder, name, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"ogbench:{name}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # OGBench leaves the damaged file open
def test_a_file_that_is_damaged_or_of_no_environment(file):
    (file.parent / "brick-single-play-v0.npz").write_bytes(file.read_bytes())
    with pytest.raises(DatasetError, match="no environment 'brick-single-singletask-v0'"):
        load_dataset("ogbench:brick-single-play-singletask-v0")
    whole = file.read_bytes()
    assert b"'shape': (12," in whole
    for damaged in (whole[:200], whole.replace(b"'shape': (12,", b"'shape': (11,")):  # the latter: a row goes missing
        file.write_bytes(damaged)
        with pytest.raises(DatasetError, match="is not a readable file of OGBench"):
            load_dataset(f"ogbench:{NAME}")


def test_it_is_fetched_only_when_that_is_asked_for(file, monkeypatch):
    content, asked = file.read_bytes(), []

    def fetch(names, folder):
        asked.append((names, folder))
        file.write_bytes(content)

    monkeypatch.setattr(ogbench, "download_datasets", fetch)
    file.unlink()
    assert len(load_dataset(f"ogbench:{NAME}", download=True)) == 10
    load_dataset(f"ogbench:{NAME}", download=True)
    assert asked == [(["cube-single-play-v0"], str(file.parent))]

    def unreachable(names, folder):
        raise OSError("no network")

    monkeypatch.setattr(ogbench, "download_datasets", unreachable)
    file.unlink()
    with pytest.raises(DatasetError, match="OGBench cannot fetch 'cube-single-play-v0': no network"):
        load_dataset(f"ogbench:{NAME}", download=True)
