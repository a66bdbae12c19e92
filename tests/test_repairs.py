"""What is mended at loading, and the command `repair`: from an error of training to a run."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints.cli import main
from adaptive_constraints.data import Dataset, Preprocessor, Repairs, doctor, load_dataset, save_npz
from adaptive_constraints.errors import DatasetError

TRAIN = ["--learner", "TD3BC", "hidden=8", "batch_size=16", "--steps", "2", "--eval-env", "none", "--quiet"]


def recordings(
    lengths: tuple[int, ...] = (20, 30, 25), ends: str = "tcc", dims: int = 3, low: float = -1.0, high: float = 1.0
) -> dict[str, Any]:
    """Arrays of walks that end terminal (t), cut by a timeout (c), or without any mark (o)."""
    draw = np.random.default_rng(len(lengths))
    walks = [draw.normal(size=dims) + np.cumsum(draw.normal(0, 0.1, (n + 1, dims)), axis=0) for n in lengths]
    last = np.zeros(sum(lengths), bool)
    last[np.cumsum(lengths) - 1] = True
    how = np.repeat(list(ends), lengths)
    return {
        "observations": np.concatenate([walk[:-1] for walk in walks]).astype(np.float32),
        "next_observations": np.concatenate([walk[1:] for walk in walks]).astype(np.float32),
        "actions": draw.uniform(low, high, (len(last), 2)).astype(np.float32),
        "rewards": draw.normal(size=len(last)).astype(np.float32),
        "terminals": last & (how == "t"),
        "timeouts": last & (how == "c"),
        "episode_ids": np.repeat(np.arange(len(lengths)), lengths),
    }


def made(arrays: dict[str, Any], **changes: Any) -> Dataset:
    """A set of the arrays but for those changed; None leaves one out."""
    return Dataset.from_arrays(**{key: array for key, array in (arrays | changes).items() if array is not None})


def mended(data: Dataset, **asked: Any) -> Dataset:
    """The set after some repairs."""
    return Repairs(**asked).apply(data)[0]


# One by one


def test_nothing_is_mended_unasked() -> None:
    data = made(recordings())
    assert Repairs().apply(data) == (data, ()) and not Repairs().asked
    assert Repairs(action_low=np.float32(-1)).asked and Repairs(action_high=np.ones(2)) == Repairs(action_high=(1, 1))


@pytest.mark.parametrize(
    ("low", "high", "center", "half"),
    [
        (0, 100, [50, 50], [50, 50]),
        (-np.ones(2), [100, 101], [49.5, 50], [50.5, 51]),
        (0.0, None, [0.5, 0.5], [0.5, 0.5]),
    ],
)
def test_bounds(low: Any, high: Any, center: list[float], half: list[float]) -> None:
    data = made(recordings(low=0.0, high=1.0 if high is None else 100.0))
    changed, lines = Repairs(action_low=low, action_high=high).apply(data)
    assert lines[0].startswith("action bounds: [-1.0, -1.0] .. [1.0, 1.0] became")
    seen = Preprocessor.fit(changed).actions(torch.tensor(data.actions)).numpy()
    np.testing.assert_allclose(seen, (data.actions - np.float32(center)) / np.float32(half), rtol=1e-6, atol=1e-6)
    assert not doctor(changed).errors


@pytest.mark.parametrize(
    "bounds", [{"action_low": 2}, {"action_low": [0, 0, 0]}, {"action_high": np.nan}, {"action_low": "a"}]
)
def test_bounds_that_do_not_fit(bounds: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="action"):
        mended(made(recordings()), **bounds)


def test_joined_recordings_are_split() -> None:
    arrays = recordings((20, 30, 25, 25), "ocot")
    data = made(arrays, episode_ids=None)
    assert data.episodes == 2 and "segment_join" in doctor(data).codes
    changed, lines = Repairs(split_at_joins=True).apply(data)
    assert changed.episode_lengths().tolist() == [20, 30, 25, 25] and lines == ("split_at_joins: 2 episodes became 4",)
    assert np.flatnonzero(changed.timeouts).tolist() == [19, 49, 74]


def test_time_limits_become_timeouts_and_rows_without_a_next_observation_go() -> None:
    arrays = recordings((100, 100, 40), "ttt")
    whole = mended(made(arrays), relabel_timeouts=True)
    assert np.flatnonzero(whole.terminals).tolist() == [239] and len(whole) == 240
    derived = made(arrays, next_observations=None)
    assert len(derived) == 240, "an end needs no next observation"
    changed, lines = Repairs(relabel_timeouts=True).apply(derived)
    assert "2 of which had no next observation and were dropped" in lines[0]
    assert changed.episode_lengths().tolist() == [99, 99, 40]
    assert np.flatnonzero(changed.timeouts).tolist() == [98, 197] and np.flatnonzero(changed.terminals).tolist() == [
        237
    ]
    np.testing.assert_array_equal(changed.next_observations[98], arrays["observations"][99])


def test_next_observations_are_derived_anew() -> None:
    arrays = recordings((20, 30, 25), "tco")
    shifted = made(arrays, next_observations=np.roll(arrays["observations"], -1, axis=0))
    changed = mended(shifted, derive_next_observations=True)
    expected = made(arrays, next_observations=None, timeouts=arrays["timeouts"] | (np.arange(75) == 74))
    assert changed.fingerprint == expected.fingerprint


@pytest.mark.parametrize("bad", [[0], [19], [20], [74], [10, 11, 60], [18, 19, 20, 21], [*range(20, 50)], [*range(74)]])
@pytest.mark.parametrize("column", ["observations", "next_observations", "actions", "rewards", "extra"])
def test_bad_rows_are_dropped_and_nothing_is_joined(bad: list[int], column: str) -> None:
    arrays: dict[str, Any] = recordings((20, 30, 25), "tco") | {"extra": {"note": np.arange(75.0)[:, None]}}
    array = arrays["extra"]["note"] if column == "extra" else arrays[column]
    array[bad] = np.resize([np.nan, np.inf, -np.inf], (len(bad), *array.shape[1:]))
    data = made(arrays)
    changed, lines = Repairs(drop_bad_rows=True).apply(data)
    kept = np.delete(np.arange(75), bad)
    assert f"{len(bad)} rows with NaN or infinity" in lines[0]
    np.testing.assert_array_equal(changed.rewards, arrays["rewards"][kept])
    np.testing.assert_array_equal(changed.next_observations, arrays["next_observations"][kept])
    follows = (np.diff(kept) == 1) & (np.diff(data.episode_ids[kept]) == 0)
    np.testing.assert_array_equal(changed.episode_ends[:-1], ~follows)
    np.testing.assert_array_equal(changed.terminals, data.terminals[kept])
    cut = np.isin(kept + 1, bad) & ~np.isin(kept, [19, 49, 74])
    np.testing.assert_array_equal(changed.timeouts, data.timeouts[kept] | cut)
    assert not {"not_finite", "segment_join"} & set(doctor(changed).codes)


def test_episodes_of_one_id_are_not_joined_where_those_between_go() -> None:
    arrays: dict[str, Any] = recordings((20, 30, 25), "ooo") | {"episode_ids": np.repeat([4, 7, 4], [20, 30, 25])}
    arrays["rewards"][20:50] = np.nan
    changed = mended(made(arrays), drop_bad_rows=True)
    assert changed.episode_lengths().tolist() == [20, 25] and changed.episode_ends[19]


def test_where_every_row_is_bad_nothing_is_left() -> None:
    with pytest.raises(DatasetError, match="no row of"):
        mended(made(recordings(), rewards=np.full(75, np.nan)), drop_bad_rows=True)


def test_actions_are_clipped_to_the_bounds_of_each_dimension() -> None:
    arrays = recordings()
    arrays["actions"][[3, 40], [0, 1]] = 1.5, -7.0
    changed, lines = Repairs(clip_actions=True, action_low=[-1, -2], action_high=[1, 2]).apply(made(arrays))
    assert changed.actions[3, 0] == 1 and changed.actions[40, 1] == -2
    assert lines[1] == "clip_actions: actions of 2 rows moved, by up to 5"


def test_episodes_are_numbered_anew() -> None:
    arrays = recordings((20, 30, 25), "ttt")
    back = made(arrays, episode_ids=np.repeat([4, 7, 4], [20, 30, 25]))
    inside = made(arrays, episode_ids=np.zeros(75), terminals=np.zeros(75), timeouts=arrays["terminals"])
    for sick in (back, inside):
        assert doctor(sick).errors
        changed = mended(sick, renumber_episodes=True)
        assert changed.episode_ids.tolist() == arrays["episode_ids"].tolist() and not doctor(changed).errors


def test_ends_without_a_mark_are_marked() -> None:
    one = made(recordings((75,), "o"))
    assert "no_marks" in [finding.code for finding in doctor(one).errors]
    changed, lines = Repairs(mark_ends=True).apply(one)
    assert np.flatnonzero(changed.timeouts).tolist() == [74] and not doctor(changed).errors
    assert lines == ("mark_ends: the last rows of 1 episodes are timeouts now",)


def test_repairs_are_done_in_a_fixed_order() -> None:
    """Split first, so that nothing is derived across a join; drop last, so that a bad row hides no join."""
    arrays = recordings((30, 30, 30), "ooo", low=0.0, high=9.5)
    arrays["rewards"][[5, 40]] = np.nan
    data = made(arrays, episode_ids=None)
    asked: dict[str, Any] = {
        "derive_next_observations": True,
        "drop_bad_rows": True,
        "split_at_joins": True,
        "mark_ends": True,
    }
    changed, lines = Repairs(action_low=0, action_high=9, clip_actions=True, **asked).apply(data)
    order = ["action bounds", "mark_ends", "split_at_joins", "derive", "drop_bad_rows", "clip_actions"]
    assert [line.split(":")[0].removesuffix("_next_observations") for line in lines] == order
    assert changed.episode_lengths().tolist() == [5, 23, 10, 18, 29] and not doctor(changed).errors
    again, _ = Repairs(action_high=10).apply(changed)
    assert again.provenance["repairs"] == "; ".join(
        [*lines, "action bounds: [0.0, 0.0] .. [9.0, 9.0] became [0.0, 0.0] .. [10.0, 10.0]"]
    )


# From references


def test_loading_takes_every_repair(tmp_path: Path) -> None:
    taken = inspect.signature(load_dataset).parameters
    assert [repair.name for repair in fields(Repairs)] == list(taken)[3:]
    assert all(taken[repair.name].default == repair.default for repair in fields(Repairs))
    np.savez(tmp_path / "a.npz", **recordings((20, 30), "oc", low=0, high=3) | {"episode_ids": np.zeros(50)})
    data = load_dataset(f"npz:{tmp_path / 'a.npz'}", split_at_joins=True, action_low=0, action_high=[3, 3])
    assert data.episodes == 2 and not doctor(data).errors


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_box_without_bounds_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    draw, rows = np.random.default_rng(0), 30
    episode = EpisodeBuffer(
        id=0,
        observations=draw.normal(size=(rows + 1, 3)).astype(np.float32),
        actions=draw.uniform(0, 2, (rows, 2)).astype(np.float32),
        rewards=draw.normal(size=rows),
        terminations=np.arange(rows) == rows - 1,
        truncations=np.zeros(rows, bool),
        infos={},
    )
    minari.create_dataset_from_buffers(
        "toy/free-v0",
        [episode],
        observation_space=Box(-np.inf, np.inf, (3,), np.float32),
        action_space=Box(np.float32([-np.inf, 0]), np.float32([np.inf, np.inf]), (2,), np.float32),
    )
    free = load_dataset("minari:toy/free-v0")
    assert free.action_low.tolist() == [-np.inf, 0] and free.action_high.tolist() == [np.inf, np.inf]
    assert load_dataset("minari:toy/free-v0", action_low=0, action_high=2).action_high.tolist() == [2, 2]
    assert (
        main(["repair", "minari:toy/free-v0", str(tmp_path / "a.npz"), "--action-low", "0", "--action-high", "2"]) == 0
    )
    assert main(["train", "--data", f"npz:{tmp_path / 'a.npz'}", "--out", str(tmp_path / "run"), *TRAIN]) == 0
    file = next((tmp_path / "toy").rglob("main_data.hdf5"))
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DatasetError, match="minari:toy/free-v0"):
        load_dataset("minari:toy/free-v0")


# The command


@pytest.fixture
def joined(tmp_path: Path) -> str:
    """Six recordings in a D4RL file, four ends of which nobody marked, with actions in 0..100."""
    h5py = pytest.importorskip("h5py")
    arrays = recordings((200,) * 6, "otooto", low=0.0, high=100.0)
    del arrays["episode_ids"]
    with h5py.File(tmp_path / "joined.hdf5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return f"d4rl:{tmp_path / 'joined.hdf5'}"


def test_from_a_refused_file_to_a_run(joined: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = tmp_path / "new" / "good.npz", tmp_path / "run"
    assert main(["train", "--data", joined, "--out", str(run), *TRAIN]) == 2
    assert main(["repair", joined, str(out)]) == 2
    assert "is not written: no repair was asked for" in capsys.readouterr().err and not out.exists()
    bounds = ["--action-low", "0", "0", "--action-high", "1e2"]
    assert main(["repair", joined, str(out), *bounds]) == 1
    assert "errors remain" in capsys.readouterr().out
    assert main(["repair", joined, str(out), *bounds, "--split-at-joins"]) == 0
    said = capsys.readouterr().out
    assert "split_at_joins: 3 episodes became 6" in said and "nothing to report" in said and f"npz:{out}" in said
    data = load_dataset(f"npz:{out}")
    assert data.episode_lengths().tolist() == [200] * 6
    assert "split_at_joins: 3 episodes became 6" in data.provenance["repairs"]
    assert data.fingerprint == load_dataset(joined, action_low=0, action_high=100, split_at_joins=True).fingerprint
    np.testing.assert_allclose(
        Preprocessor.fit(data).actions(torch.tensor(data.actions)), (data.actions - 50) / 50, atol=1e-6
    )
    assert main(["train", "--data", f"npz:{out}", "--out", str(run), *TRAIN]) == 0


def test_negative_bounds_can_be_typed(joined: str, tmp_path: Path) -> None:
    words = ["--action-low", "-1e1", "-.5", "--action-high", "100", "101", "--split-at-joins"]
    assert main(["repair", joined, str(tmp_path / "a.npz"), *words]) == 0
    data = load_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert (data.action_low.tolist(), data.action_high.tolist()) == ([-10, -0.5], [100, 101])


def test_a_healthy_set_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "plain.npz", **recordings())
    assert main(["repair", f"npz:{tmp_path / 'plain.npz'}", str(tmp_path / "out.npz")]) == 0
    assert "no repair was asked for: the rows stay as they were read" in capsys.readouterr().out
    assert load_dataset(f"npz:{tmp_path / 'out.npz'}").fingerprint == made(recordings()).fingerprint


def test_arrays_are_ignored_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"npz:{tmp_path / 'a.npz'}"
    np.savez(tmp_path / "a.npz", **recordings() | {"costs": np.ones(75), "resets": np.ones(75)})
    assert main(["repair", source, str(tmp_path / "b.npz")]) == 2
    assert "--ignore costs resets" in capsys.readouterr().err
    assert main(["repair", source, str(tmp_path / "b.npz"), "--ignore", "costs", "resets"]) == 0


def test_the_original_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    save_npz(made(recordings()), path)
    before = path.read_bytes()
    for out, message in ((path, "name another file"), (tmp_path / "a.txt", "ending in .npz"), (tmp_path, "ending in")):
        assert main(["repair", f"npz:{path}", str(out), "--clip-actions"]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["repair", f"npz:{path}", str(path / "b.npz"), "--clip-actions"]) == 2
    assert "no folder" in capsys.readouterr().err


def test_train_and_doctor_name_repair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "doctor"):
        assert main([command, "--help"]) == 0
        assert "repair" in capsys.readouterr().out
    np.savez(tmp_path / "sick.npz", **recordings() | {"rewards": np.full(75, np.nan)})
    assert main(["doctor", f"npz:{tmp_path / 'sick.npz'}"]) == 1
    assert f"adaptive-constraints repair npz:{tmp_path / 'sick.npz'} OUT.npz" in capsys.readouterr().out
    assert main(["repair", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"--{repair.name.replace('_', '-')}" in said for repair in fields(Repairs))
