"""Collecting data: recording, choosing whole episodes, the file and its manifest."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import check_trainable, load_dataset
from adaptive_constraints.data.collecting import collect as collecting
from adaptive_constraints.data.collecting.collect import collect, collect_random, collect_replay
from adaptive_constraints.errors import DatasetError, DependencyError


def test_bundled_manifest_describes_the_bundled_set() -> None:
    folder = resources.files("adaptive_constraints.data") / "bundled"
    manifest = json.loads((folder / "hopper.json").read_text())
    data = load_dataset("bundled:hopper")
    assert manifest["command"].startswith("adaptive-constraints collect sac:Hopper-v5 --steps ")
    assert manifest["command"] == data.provenance["command"]
    assert (manifest["rows"], manifest["episodes"], manifest["seed"]) == (len(data), data.episodes, 0)
    assert manifest["fingerprint"] == data.fingerprint
    assert manifest["return_mean"] == round(float(data.episode_returns().mean()), 2)
    assert len((folder / "hopper.npz").read_bytes()) < 5_000_000
    early, late = manifest["return_mean_by_tenth_of_collection"][0], manifest["return_mean_by_tenth_of_collection"][-1]
    assert late > 3 * early


def test_evenly_spaced_takes_whole_episodes_from_the_whole_run() -> None:
    episodes: list[Any] = [range(20)] * 50 + [range(1000)] * 10  # only their lengths count
    chosen = collecting.evenly_spaced(episodes, 5500, 11000)
    lengths = [len(episode) for episode in chosen]
    assert 4500 < sum(lengths) <= 5500
    assert lengths == sorted(lengths)  # in order of time
    assert lengths.count(20) == pytest.approx(25, abs=2)  # half of the rows, so half of each kind
    assert lengths.count(1000) == 5
    assert collecting.evenly_spaced(episodes, 11000, 11000) == episodes


def test_evenly_spaced_refuses_what_cannot_be_kept() -> None:
    nothing: list[Any] = []
    with pytest.raises(DatasetError, match="no episode ended within 7 steps"):
        collecting.evenly_spaced(nothing, 10, 7)
    long: list[Any] = [range(1000)]
    with pytest.raises(DatasetError, match="no episode fits into 10 rows"):
        collecting.evenly_spaced(long, 10, 1000)


@pytest.mark.parametrize("source", ["Hopper-v5", "ppo:Hopper-v5", "sac:", "random"])
def test_unknown_sources(source: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"unknown source .*; use one of: sac:ENV_ID, random:ENV_ID"):
        collect(source, tmp_path / "set.npz", steps=10, keep=10)


@pytest.mark.parametrize("out", ["set.hdf5", "nowhere/set.npz"])
def test_bad_targets_are_refused_before_any_work(out: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot write .*ending in \.npz"):
        collect("random:Hopper-v5", tmp_path / out, steps=10, keep=10)


def test_missing_dependency_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)  # importing it raises ImportError
    with pytest.raises(DependencyError, match=r'pip install "adaptive-constraints\[collect\]"'):
        collect_random("Hopper-v5", 10)


def test_unknown_environments() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(DatasetError, match="cannot make the environment 'Hoper-v5'"):
        collect_random("Hoper-v5", 10)
    with pytest.raises(DatasetError, match=r"CartPole-v1: its action space is Discrete\(2\)"):
        collect_random("CartPole-v1", 10)
    with pytest.raises(DatasetError, match="steps must be at least 1"):
        collect_random("Pendulum-v1", 0)


def test_time_limits_are_timeouts_and_unfinished_episodes_are_left_out() -> None:
    pytest.importorskip("gymnasium")
    data = collect_random("Pendulum-v1", 450)
    assert data.episode_lengths().tolist() == [200, 200]
    assert np.flatnonzero(data.timeouts).tolist() == [199, 399]
    assert not data.terminals.any()
    assert (data.action_low.tolist(), data.action_high.tolist()) == ([-2.0], [2.0])
    assert data.task is None
    with pytest.raises(DatasetError, match="no episode ended within 100 steps"):
        collect_random("Pendulum-v1", 100)


def test_random_hopper_is_what_the_environment_says() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    data = collect_random("Hopper-v5", 200, seed=3)
    assert (data.env_id, data.task) == ("Hopper-v5", "hopper")
    check_trainable(data)
    assert data.fingerprint == collect_random("Hopper-v5", 200, seed=3).fingerprint
    assert data.fingerprint != collect_random("Hopper-v5", 200, seed=4).fingerprint
    env = gymnasium.make("Hopper-v5")
    observation, _ = env.reset(seed=3)
    for row in range(data.episode_lengths()[0]):
        np.testing.assert_array_equal(data.observations[row], observation.astype(np.float32))
        observation, reward, terminated, truncated, _ = env.step(data.actions[row])
        np.testing.assert_array_equal(data.next_observations[row], observation.astype(np.float32))
        assert data.rewards[row] == np.float32(reward)
        assert (data.terminals[row], data.timeouts[row]) == (terminated, truncated)


def test_collect_writes_the_set_and_its_manifest(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    seen: list[tuple[int, int]] = []
    data = collect(
        "random:Hopper-v5", tmp_path / "set.npz", 300, 150, 5, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(300, 300)]
    again = load_dataset(f"npz:{tmp_path / 'set.npz'}")
    assert again.fingerprint == data.fingerprint
    manifest = json.loads((tmp_path / "set.json").read_text())
    assert manifest["fingerprint"] == data.fingerprint
    assert manifest["command"] == (
        "adaptive-constraints collect random:Hopper-v5 --steps 300 --keep 150 --seed 5 --out set.npz"
    )
    assert manifest["rows"] == len(data) <= 150
    assert manifest["score_mean"] < 5
    assert {"python", "torch", "numpy", "gymnasium", "mujoco", "adaptive-constraints"} <= set(manifest["versions"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.json", "set.npz"]


def test_sac_learns_is_reproducible_and_leaves_the_thread_count_alone(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("mujoco")
    pytest.importorskip("stable_baselines3")
    threads = torch.get_num_threads()
    data = collect("sac:Hopper-v5", tmp_path / "set.npz", steps=1100, keep=1100, seed=1)
    assert torch.get_num_threads() == threads
    check_trainable(data)
    assert 1000 < len(data) <= 1100
    again = collect_replay("Hopper-v5", total_steps=1100, keep=1100, seed=1)
    assert again.fingerprint == data.fingerprint


def test_an_interrupted_run_equals_a_shorter_one(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("stable_baselines3")

    def interrupt(done: int, total: int) -> None:
        if total == 5000:
            raise KeyboardInterrupt

    cut = collect("sac:Hopper-v5", tmp_path / "set.npz", steps=5000, keep=900, seed=2, progress=interrupt)
    whole = collect_replay("Hopper-v5", total_steps=1000, keep=900, seed=2)
    assert cut.fingerprint == whole.fingerprint
    assert "--steps 1000 --keep 900" in json.loads((tmp_path / "set.json").read_text())["command"]
