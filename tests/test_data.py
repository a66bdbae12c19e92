"""Data: the container, the loaders, the doctor, the map into learner space, the table of references."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints.data import (
    Dataset,
    Preprocessor,
    ReferenceScore,
    check_trainable,
    doctor,
    list_datasets,
    load_dataset,
    normalized_score,
    reference_of,
    reference_score,
    relabel_timeouts,
    save_npz,
    split_at_joins,
)
from adaptive_constraints.errors import DatasetError, DependencyError

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


# npz


def test_npz_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["next_observations"][8] += 1.0  # a join inside an episode must survive too, for the doctor to see
    arrays["observations"][2, 0] = np.nan
    arrays["next_observations"][1, 0] = -np.nan
    arrays["observations"][5, 1], arrays["next_observations"][4, 1] = 0.0, -0.0
    data = Dataset.from_arrays(
        **arrays,
        action_low=[-1.0, -2.0],
        action_high=[1.0, 2.0],
        env_id="Hopper-v5",
        task="hopper",
        extra={"note": np.arange(24, dtype=np.int16).reshape(12, 2)},
        provenance={"made": "here"},
    )
    save_npz(data, tmp_path / "set.npz")
    again = load_dataset(f"npz:{tmp_path / 'set.npz'}")
    assert_same(data, again)
    assert (again.env_id, again.task, dict(again.provenance)) == ("Hopper-v5", "hopper", {"made": "here"})
    assert again.fingerprint == data.fingerprint


def test_npz_stores_observations_once(tmp_path: Path) -> None:
    data = make()
    save_npz(data, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as archive:
        assert "next_observations" not in archive.files
        assert archive["next_observation_rows"].tolist() == [3, 6, 11]


def test_npz_of_plain_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", **make_arrays())
    assert_same(load_dataset(f"npz:{tmp_path / 'plain.npz'}"), make())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"actions": None}, "lacks the arrays actions; it holds: observations"),
        ({"weights": np.zeros(12)}, "unknown meaning: weights"),
        ({"next_observation_rows": np.array([3])}, "lacks the arrays next_observation_values"),
        (
            {"next_observation_rows": np.array([99]), "next_observation_values": np.zeros((1, 3))},
            r"is inconsistent .*; write it again",
        ),
        ({"rewards": np.array([None] * 12)}, "not a readable npz file without pickled objects"),
        ({"metadata": np.array('{"layout": 99}')}, "has layout 99"),
        ({"metadata": np.array("hello")}, "metadata of .* is not JSON"),
    ],
)
def test_npz_refuses(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    content = {key: value for key, value in (make_arrays() | arrays).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"npz:{tmp_path / 'bad.npz'}")


@pytest.mark.parametrize("damage", ["text", "npy", "cut", "flipped"])
def test_npz_that_is_damaged(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.npz"
    save_npz(make(), path)
    content = bytearray(path.read_bytes())
    content[100:110] = b"0123456789"  # inside the first array's compressed bytes
    with path.open("wb") as file:
        if damage == "npy":
            np.save(file, np.zeros(3))
        else:
            file.write({"text": b"hello", "cut": path.read_bytes()[:500], "flipped": bytes(content)}[damage])
    with pytest.raises(DatasetError, match="not a readable npz file"):
        load_dataset(f"npz:{path}")


def test_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.npz"
    save_npz(make(), path)
    before = path.read_bytes()

    def half_written(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("numpy.savez_compressed", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_npz(make(rewards=np.zeros(12)), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["set.npz"]


def test_save_makes_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "set.npz"
    save_npz(make(), path)
    assert load_dataset(f"npz:{path}").fingerprint == make().fingerprint


# References to data


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
    for reference in ("minari:hopper-v0", f"d4rl:{tmp_path / 'set.hdf5'}"):
        with pytest.raises(DependencyError, match=r'pip install "adaptive-constraints\[minari\]"'):
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
    assert done.stdout.split(" ", 1)[1] == "['bundled:hopper']\n"


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


# The doctor


def long_arrays(marks: str) -> dict[str, Any]:
    """Three episodes of 100 steps, all ends marked alike."""
    arrays = make_arrays((100, 100, 100), timeouts=())
    if marks == "timeouts":
        arrays["terminals"], arrays["timeouts"] = arrays["timeouts"], arrays["terminals"]
    return arrays


def test_healthy_set_has_no_findings() -> None:
    diagnosis = doctor(make())
    assert diagnosis.findings == ()
    assert "nothing to report" in str(diagnosis)
    check_trainable(make())
    assert not doctor(Dataset.from_arrays(**long_arrays("timeouts"))).findings


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_doctor_names_rows_that_are_not_finite(key: str) -> None:
    array = make_arrays()[key].copy()
    array[[5, 7]] = [[np.nan], [np.inf]] if array.ndim == 2 else [np.nan, np.inf]
    finding = next(finding for finding in doctor(make(**{key: array})).errors if finding.code == "not_finite")
    assert (finding.count, finding.rows) == (2, (5, 7))
    with pytest.raises(DatasetError, match=rf"{key} has NaN or infinity in 2 rows \(rows 5, 7\)"):
        check_trainable(make(**{key: array}))


def test_doctor_finds_actions_beyond_bounds_but_allows_rounding() -> None:
    actions = make_arrays()["actions"].copy()
    actions[4, 1] = 1.0001
    assert doctor(make(actions=actions)).findings == ()
    actions[4, 1] = 1.01
    finding = doctor(make(actions=actions)).errors[0]
    assert (finding.code, finding.rows) == ("action_bounds", (4,))
    assert doctor(make(actions=actions, action_high=2.0)).findings == ()
    with pytest.raises(DatasetError, match="clip them"):
        check_trainable(make(actions=actions))


def test_doctor_finds_a_time_limit_marked_terminal_and_relabelling_cures_it() -> None:
    data = Dataset.from_arrays(**long_arrays("terminals"))
    finding = doctor(data).errors[0]
    assert (finding.code, finding.rows) == ("timeouts_as_terminals", (99, 199, 299))
    with pytest.raises(DatasetError, match=r"after exactly 100 steps.*relabel_timeouts"):
        check_trainable(data)
    cured = relabel_timeouts(data)
    assert np.flatnonzero(cured.timeouts).tolist() == [99, 199, 299]
    assert not cured.terminals.any()
    assert cured.fingerprint != data.fingerprint
    assert doctor(cured).findings == ()


def test_doctor_allows_equal_short_episodes_and_suspects_mixed_ones() -> None:
    assert doctor(Dataset.from_arrays(**make_arrays((99, 99), timeouts=()))).findings == ()
    mixed = Dataset.from_arrays(**make_arrays((100, 40, 100), timeouts=()))
    assert doctor(mixed).codes == ("terminals_at_limit",)
    check_trainable(mixed)
    assert np.flatnonzero(relabel_timeouts(mixed).terminals).tolist() == [139]


def test_doctor_finds_rows_that_are_terminal_and_timeout() -> None:
    ends = np.isin(np.arange(12), [3, 6, 11])
    every = make(terminals=ends, timeouts=np.isin(np.arange(12), [6]))
    assert doctor(every).errors[0].code == "terminal_and_timeout"
    assert not relabel_timeouts(every).terminals[6]
    some = make(terminals=np.isin(np.arange(12), [3, 6]), timeouts=np.isin(np.arange(12), [6, 11]))
    assert [(finding.severity, finding.code) for finding in doctor(some).findings] == [
        ("warning", "terminal_and_timeout")
    ]


def test_doctor_finds_missing_marks() -> None:
    one = make(terminals=np.zeros(12), timeouts=None)
    assert "no_marks" in [finding.code for finding in doctor(one).errors]
    several = make(terminals=np.zeros(12), timeouts=None, episode_ids=np.repeat([0, 1, 2], LENGTHS))
    assert doctor(several).codes == ("no_marks",)
    check_trainable(several)


def test_doctor_finds_joins_and_splitting_cures_them() -> None:
    following = make_arrays()["next_observations"].copy()
    following[8] += 1.0
    data = make(next_observations=following)
    finding = doctor(data).errors[0]
    assert (finding.code, finding.rows) == ("segment_join", (8,))
    cured = split_at_joins(data)
    assert cured.episode_lengths().tolist() == [4, 3, 2, 3]
    assert np.flatnonzero(cured.timeouts).tolist() == [6, 8]
    assert cured.column("next_action_mask")[8] == 0
    assert doctor(cured).findings == ()


def test_doctor_finds_scattered_episodes_and_marks_inside() -> None:
    ids = np.repeat([0, 1, 0], LENGTHS)
    assert doctor(make(episode_ids=ids)).errors[0].code == "episode_ids"
    inside = make(episode_ids=np.repeat([0, 1], [7, 5]))
    finding = doctor(inside).errors[0]
    assert (finding.code, finding.rows) == ("mark_inside_episode", (3,))
    assert inside.column("next_action_mask")[3] == 0


def test_doctor_suspects_next_observations_that_are_a_shifted_column() -> None:
    data = make(next_observations=np.roll(make_arrays()["observations"], -1, axis=0))
    (finding,) = doctor(data).findings
    assert (finding.code, finding.severity, finding.rows) == ("next_episode", "warning", (6,))  # the one timeout
    assert doctor(make()).findings == doctor(make(next_observations=None)).findings == ()


def test_doctor_advises_on_duplicates_and_constants() -> None:
    arrays = make_arrays((6,), timeouts=())
    twice: dict[str, Any] = {key: np.concatenate([array, array]) for key, array in arrays.items()}
    twice["observations"][:, 1] = twice["next_observations"][:, 1] = 4.0
    twice["rewards"][:] = 2.0
    data = Dataset.from_arrays(**twice)
    diagnosis = doctor(data)
    assert diagnosis.codes == ("duplicates", "constant_dimensions", "constant_rewards")
    assert (diagnosis.findings[0].count, diagnosis.findings[0].rows) == (6, (6, 7, 8, 9, 10))
    assert "[1] never change" in str(diagnosis)
    check_trainable(data)
    assert doctor(Dataset.from_arrays(**arrays)).codes == ("single_episode",)


def test_doctor_of_an_empty_set() -> None:
    arrays: dict[str, Any] = make().arrays()
    empty = Dataset(**{key: array if key.startswith("action_") else array[:0] for key, array in arrays.items()})
    assert doctor(empty).codes == ("empty",)
    with pytest.raises(DatasetError, match="no rows"):
        check_trainable(empty)


def test_refusal_lists_every_error() -> None:
    rewards, actions = make_arrays()["rewards"].copy(), make_arrays()["actions"].copy()
    rewards[1], actions[2] = np.nan, 3.0
    with pytest.raises(DatasetError) as caught:
        check_trainable(make(rewards=rewards, actions=actions))
    assert str(caught.value).count("\n  - ") == 2


# Learner space


def test_preprocessor_by_default_changes_nothing() -> None:
    data = make()
    table = Preprocessor.fit(data).table(data)
    for key, name in {"observation": "observations", "action": "actions", "reward": "rewards"}.items():
        assert table[key].numpy().tobytes() == getattr(data, name).tobytes(), key
    assert {tensor.dtype for tensor in table.values()} == {torch.float32}
    assert table["terminal"].tolist() == data.terminals.astype(float).tolist()


def test_preprocessor_constants() -> None:
    data = make(action_low=[-1.0, 0.0], action_high=[3.0, 1.0], actions=np.tile([1.0, 0.25], (12, 1)))
    fitted = Preprocessor.fit(
        data, normalize_observations=True, reward_scale="return_range", reward_shift="dataset_mean"
    )
    table = fitted.table(data)
    raw = data.observations.astype(np.float64)
    expected = (raw - raw.mean(0)) / (raw.std(0) + 1e-3)
    np.testing.assert_allclose(table["observation"].numpy(), expected, atol=1e-6)
    assert table["action"].tolist() == [[0.0, -0.5]] * 12
    returns = data.episode_returns()
    scale = 1000 / (returns.max() - returns.min())
    np.testing.assert_allclose(table["reward"].numpy(), scale * (data.rewards - data.rewards.mean()), rtol=1e-4)
    assert abs(table["reward"].mean().item()) < 1e-4


def test_preprocessor_inverses_and_state() -> None:
    data = make(action_low=[-1.0, 0.0], action_high=[3.0, 1.0])
    fitted = Preprocessor.fit(data, normalize_observations=True, reward_scale=2.0, reward_shift=-1.0)
    copy = Preprocessor.from_state(fitted.to("cpu").state())
    for raw, there, back in (
        (data.observations, copy.observations, fitted.raw_observations),
        (data.actions, copy.actions, fitted.raw_actions),
        (data.rewards, copy.rewards, fitted.raw_rewards),
    ):
        torch.testing.assert_close(back(there(torch.tensor(raw))), torch.tensor(raw), atol=1e-5, rtol=1e-5)
    assert fitted.rewards(torch.tensor(3.0)).item() == 5.0
    with pytest.raises(DatasetError, match="state needs"):
        Preprocessor.from_state({"observation_mean": torch.zeros(3)})


def test_preprocessor_clips_only_with_a_margin() -> None:
    actions = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    assert torch.equal(Preprocessor.fit(make()).actions(actions), actions)
    clipped = Preprocessor.fit(make(), action_margin=0.25).actions(actions)
    assert clipped.tolist() == [[0.75, -0.75], [0.5, 0.75]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_scale": "range"}, "unknown reward_scale 'range'"),
        ({"reward_scale": 0.0}, "must be finite and not 0"),
        ({"reward_shift": "mean"}, "unknown reward_shift 'mean'"),
        ({"action_margin": 1.0}, "action_margin must lie in"),
    ],
)
def test_preprocessor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Preprocessor.fit(make(), **settings)


def test_return_range_needs_different_returns() -> None:
    with pytest.raises(DatasetError, match="different return"):
        Preprocessor.fit(make(rewards=np.zeros(12)), reward_scale="return_range")


# Reference returns


def test_normalized_scores() -> None:
    assert normalized_score("hopper", [-20.272305, 3234.3]).tolist() == [0.0, 100.0]
    assert normalized_score("antmaze", 0.5) == 50.0
    with pytest.raises(DatasetError, match="no reference returns for the task 'chess'"):
        normalized_score("chess", 1.0)
    assert reference_score("chess") is None
    assert reference_score(None) is None


def test_every_reference_is_ordered_and_sourced() -> None:
    from adaptive_constraints.data.references import REFERENCE_SCORES

    for task, reference in REFERENCE_SCORES.items():
        assert isinstance(reference, ReferenceScore)
        assert reference.task == task
        assert reference.random < reference.expert
        assert reference.source


def test_a_data_sets_own_references_are_the_fallback() -> None:
    provenance = {"ref_min_score": "0.0", "ref_max_score": "10.0"}
    known = reference_of(make(task="hopper", provenance=provenance))
    assert known is not None
    assert known.expert == 3234.3
    assert reference_of(make()) is None
    assert reference_of(make(provenance={"ref_min_score": "1.0", "ref_max_score": "None"})) is None


@pytest.mark.parametrize(
    ("file", "task", "env_id"),
    [
        ("hopper_medium_replay-v2.hdf5", "hopper", "Hopper-v4"),
        ("walker2d-expert-v2.hdf5", "walker2d", "Walker2d-v4"),
        ("ant_medium-v2.hdf5", "ant", None),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5", "antmaze", None),
        ("maze2d-large-sparse-v1.hdf5", "maze2d-large", None),
        ("maze2d-umaze-dense-v1.hdf5", "maze2d-umaze-dense", None),
        ("pen-human-v1.hdf5", "pen", None),
        ("hopping.hdf5", None, None),
    ],
)
def test_task_of_a_d4rl_file(file: str, task: str | None, env_id: str | None) -> None:
    from adaptive_constraints.data.references import task_of_file

    assert task_of_file(file) == (task, env_id)
