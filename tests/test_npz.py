"""Data in npz files: kept bit for bit, refused where damaged, and never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, load_dataset, save_npz
from adaptive_constraints.errors import DatasetError

from .small_data import assert_same, make, make_arrays


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
