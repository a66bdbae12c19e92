"""References to data: bundled sets, unknown names, D4RL files, Minari."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import check_trainable, doctor, list_datasets, load_dataset, reference_of, save_npz
from adaptive_constraints.errors import DatasetError, DependencyError

from .small_data import LENGTHS, assert_same, make, make_arrays


def test_bundled_set_is_healthy_and_worth_learning_from() -> None:
    data = load_dataset("bundled:hopper")
    assert (data.env_id, data.task, data.observation_dim, data.action_dim) == ("Hopper-v5", "hopper", 11, 3)
    assert 40_000 < len(data) <= 50_000
    assert not doctor(data).errors
    assert data.episode_returns().min() < 50
    assert data.episode_returns().max() > 1500
    assert "bundled:hopper" in list_datasets()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hopper", "unknown data reference 'hopper'; use one of: bundled:NAME"),
        ("ftp:hopper", "unknown data reference"),
        ("npz:", "unknown data reference"),
        ("bundled:hoper", "no bundled data set 'hoper'; did you mean 'hopper'"),
        ("npz:nowhere/set.npz", "folder nowhere does not exist"),
    ],
)
def test_unknown_references(reference: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(reference)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is none"):
        load_dataset(f"npz:{tmp_path / 'hopper.npz'}")
    save_npz(make(), tmp_path / "hoppers.npz")
    with pytest.raises(DatasetError, match=r"did you mean 'hoppers\.npz'"):
        load_dataset(f"npz:{tmp_path / 'hopper.npz'}")


def test_missing_dependency_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("minari", "h5py"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    for extra, reference in (("minari", "minari:hopper-v0"), ("d4rl", f"d4rl:{tmp_path / 'set.hdf5'}")):
        with pytest.raises(DependencyError, match=rf'pip install "adaptive-constraints\[{extra}\]"'):
            load_dataset(reference)
    assert not any(reference.startswith("minari:") for reference in list_datasets())


def test_data_needs_no_extra() -> None:
    block = "import sys; sys.modules |= dict.fromkeys(['gymnasium', 'minari', 'h5py', 'stable_baselines3', 'mujoco'])"
    check = "import adaptive_constraints.data as d; print(len(d.load_dataset('bundled:hopper')), d.list_datasets())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", f"{block}; {check}"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = done.stdout.split(" ", 1)[1]
    assert listed.startswith("['bundled:hopper', 'scripted:pendulum/random'") and "pointmaze" not in listed


# D4RL files


def write_hdf5(path: Path, arrays: dict[str, Any]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
        file["infos/qpos"] = np.zeros((12, 6))


def test_d4rl_file(tmp_path: Path) -> None:
    path = tmp_path / "hopper_medium-v2.hdf5"
    write_hdf5(path, make_arrays())
    data = load_dataset(f"d4rl:{path}")
    assert_same(data, make())
    assert (data.task, data.env_id, data.name) == ("hopper", "Hopper-v4", f"d4rl:{path}")


def test_d4rl_file_without_timeouts_and_next_observations(tmp_path: Path) -> None:
    arrays = make_arrays(timeouts=())
    del arrays["timeouts"], arrays["next_observations"]
    write_hdf5(tmp_path / "mine.hdf5", arrays)
    data = load_dataset(f"d4rl:{tmp_path / 'mine.hdf5'}")
    assert (len(data), data.task, data.env_id) == (12, None, None)
    assert data.episode_lengths().tolist() == list(LENGTHS)


def test_d4rl_file_that_cannot_be_read(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "short.hdf5", {"observations": np.zeros((12, 3))})
    with pytest.raises(DatasetError, match="lacks the arrays actions, rewards, terminals; it holds: observations"):
        load_dataset(f"d4rl:{tmp_path / 'short.hdf5'}")
    write_hdf5(tmp_path / "nested.hdf5", {"observations/state": np.zeros((12, 3))})
    with pytest.raises(DatasetError, match="not in D4RL's layout: observations must be arrays, not groups"):
        load_dataset(f"d4rl:{tmp_path / 'nested.hdf5'}")
    (tmp_path / "bad.hdf5").write_text("hello")
    with pytest.raises(DatasetError, match="not a readable HDF5 file"):
        load_dataset(f"d4rl:{tmp_path / 'bad.hdf5'}")


# Minari


@pytest.fixture
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local Minari folder with one set: a death, a time limit, and a recording that just stops."""
    minari = pytest.importorskip("minari")
    import gymnasium
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    buffers = []
    for index, (length, ending) in enumerate([(4, "terminal"), (3, "timeout"), (5, "open")]):
        last = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=rng.normal(size=(length + 1, 3)).astype(np.float32),
                actions=rng.uniform(-2, 2, size=(length, 1)).astype(np.float32),
                rewards=rng.normal(size=length),
                terminations=last & (ending == "terminal"),
                truncations=last & (ending == "timeout"),
                infos={},
            )
        )
    minari.create_dataset_from_buffers(
        "toy/walk/random-v0",
        buffers,
        env=gymnasium.make("Pendulum-v1"),
        observation_space=Box(-np.inf, np.inf, (3,), np.float32),
        action_space=Box(-2.0, 2.0, (1,), np.float32),
        ref_min_score=-5.0,
        ref_max_score=15.0,
        algorithm_name="noise",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
        description="three short walks",
    )
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_set(minari_folder: Path) -> None:
    data = load_dataset("minari:toy/walk/random-v0")
    assert data.episode_lengths().tolist() == [4, 3, 5]
    assert np.flatnonzero(data.terminals).tolist() == [3]
    assert np.flatnonzero(data.timeouts).tolist() == [6, 11]  # the recording that just stops is no death
    np.testing.assert_array_equal(data.next_observations[:3], data.observations[1:4])
    assert not (data.next_observations[3] == data.observations[4]).any()
    assert (data.action_low.tolist(), data.action_high.tolist()) == ([-2], [2])
    assert (data.env_id, data.task) == ("Pendulum-v1", None)
    reference = reference_of(data)
    assert reference is not None
    assert (reference.random, reference.expert) == (-5.0, 15.0)
    assert reference.score([5.0]).tolist() == [50.0]
    assert "minari:toy/walk/random-v0" in list_datasets()
    check_trainable(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_unknown_name_is_not_fetched(minari_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"did you mean 'toy/walk/random-v0'.*download=True"):
        load_dataset("minari:toy/walk/rendom-v0")
