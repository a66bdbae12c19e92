"""Damaged data files: an error that names the file, or the very same numbers; never a bare exception.

Faults are drawn from seeds, 250 for each kind of file; the environment variable FAULTS asks for more.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, list_datasets, load_dataset, save_npz
from adaptive_constraints.data.sources import scripted
from adaptive_constraints.errors import DatasetError

ROWS = 60
FAULTS = int(os.environ.get("FAULTS", "250"))


def arrays() -> dict[str, Any]:
    """Six short recordings."""
    draw, last = np.random.default_rng(0), np.arange(ROWS) % 10 == 9
    return {
        "observations": draw.normal(size=(ROWS, 3)).astype(np.float32),
        "next_observations": draw.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": draw.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        "rewards": draw.normal(size=ROWS).astype(np.float32),
        "terminals": last & (np.arange(ROWS) % 20 < 10),
        "timeouts": last & (np.arange(ROWS) % 20 >= 10),
    }


def write_saved(path: Path) -> None:
    """What `save_npz` writes, with everything in it."""
    about: dict[str, Any] = {"env_id": "Hopper-v5", "task": "hopper", "provenance": {"made": "here"}}
    save_npz(Dataset.from_arrays(**arrays(), extra={"note": np.arange(ROWS)}, **about), path)


def write_plain(path: Path) -> None:
    """Arrays that numpy does not compress."""
    np.savez(path, **arrays())


def write_hdf5(path: Path, **options: Any) -> None:
    """D4RL's layout, with what it says of the recording."""
    h5py = pytest.importorskip("h5py")
    library = {"libver": "latest"} if options.pop("latest", False) else {}
    with h5py.File(path, "w", **library) as file:
        for name, array in arrays().items():
            file.create_dataset(name, data=array, **options)
        file["infos/qpos"], file["metadata/algorithm"] = np.zeros((ROWS, 2)), "SAC"


def write_compressed_hdf5(path: Path) -> None:
    """In chunks, each compressed."""
    write_hdf5(path, chunks=True, compression="gzip", shuffle=True)


def write_latest_hdf5(path: Path) -> None:
    """Of the newest version of the format, whose structures have checksums."""
    write_hdf5(path, chunks=True, compression="gzip", latest=True)


def write_episodes(path: Path) -> None:
    """One array per column and episode, as d3rlpy 2 writes them."""
    h5py, there = pytest.importorskip("h5py"), arrays()
    with h5py.File(path, "w") as file:
        file["columns"], file["num_episodes"], file["version"] = ["observations", "actions"], 3, "2.1"
        for index in range(3):
            rows = slice(20 * index, 20 * index + 20)
            for name in ("observations", "actions", "rewards"):
                file[f"{name}_{index}"] = there[name][rows]
            file[f"terminated_{index}"] = bool(there["terminals"][rows].any())


def damaged(content: bytes, seed: int) -> bytes:
    """A flipped bit, another byte or several, zeros, a cut, a gap, two numbers swapped, or a header's digit changed."""
    draw, changed = np.random.default_rng(seed), bytearray(content)
    kind, at, length = draw.integers(8), int(draw.integers(len(content))), int(draw.integers(1, 33))
    if kind == 0:
        changed[at] ^= 1 << int(draw.integers(8))
    elif kind == 1:
        changed[at] = int(draw.integers(256))
    elif kind == 2:
        changed[at : at + length] = draw.bytes(len(changed[at : at + length]))
    elif kind == 3:
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    elif kind == 4:
        del changed[at:]
    elif kind == 5:
        del changed[at : at + length]
    elif kind == 6:
        at -= at % 8
        changed[at : at + 16] = changed[at + 8 : at + 16] + changed[at : at + 8]
    else:
        digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
        changed[digits[at % len(digits)]] = 48 + int(draw.integers(10))
    return bytes(changed)


@pytest.mark.parametrize(
    ("write", "scheme", "checked"),
    [
        (write_saved, "npz", True),
        (write_plain, "npz", True),
        (write_hdf5, "d4rl", False),  # the format has no checksums, so damage may pass as other numbers
        (write_compressed_hdf5, "d4rl", False),
        (write_latest_hdf5, "d4rl", False),
        (write_episodes, "d4rl", False),
    ],
)
def test_faults_at_random(write: Callable[[Path], None], scheme: str, checked: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_to = path.with_suffix(".npz")
    write(write_to)
    content, reference = write_to.read_bytes(), f"{scheme}:{path}"
    path.write_bytes(content)
    whole, outcomes = load_dataset(reference).fingerprint, []
    for seed in range(FAULTS):
        path.write_bytes(damaged(content, seed))
        outcomes.append(outcome(reference, whole))
    allowed = {"refused", "equal"} if checked else {"refused", "equal", "other numbers"}
    assert not {seed: result for seed, result in enumerate(outcomes) if result not in allowed}
    assert outcomes.count("refused") > FAULTS / 5


def outcome(reference: str, whole: str) -> str:
    """What came of loading a file that once had this fingerprint: of the few good outcomes, or what was wrong."""
    try:
        data = load_dataset(reference)
    except DatasetError as error:
        return "refused" if reference.partition(":")[2] in str(error) else f"does not name the file: {error}"
    except Exception as error:
        return f"bare {type(error).__name__}: {error}"
    return "equal" if data.fingerprint == whole else "other numbers"


# What random faults seldom hit


def saved(path: Path, **changed: Any) -> str:
    """A file of `save_npz` with some members replaced (None: left out); its reference."""
    write_saved(path)
    with np.load(path) as archive:
        members: dict[str, Any] = dict(archive) | changed
    np.savez(path, **{name: array for name, array in members.items() if array is not None})
    return f"npz:{path}"


def metadata(**changed: Any) -> Any:
    """The metadata of a file of `save_npz` with some entries replaced."""
    return np.array(json.dumps({"layout": 1, "env_id": None, "task": None, "provenance": {}} | changed))


@pytest.mark.parametrize(
    "entry",
    [
        np.array("[1]"),
        np.array("3"),
        np.array("null"),
        np.array("{"),
        np.array(""),
        np.array(3.5),
        np.array([1, 2]),
        np.array("[" * 100_000),
        np.array('{"a": ' * 50_000),
        np.array('{"layout": ' + "1" * 5_000 + "}"),
        np.array([0x7FFFFFFF, 0x110000], "<u4").view("<U2"),
        metadata(layout="1"),
        metadata(layout=None),
        metadata(env_id=3),
        metadata(env_id=["Hopper-v5"]),
        metadata(env_id="\ud800"),
        metadata(task={}),
        metadata(provenance=[1]),
        metadata(provenance=None),
        metadata(provenance={"a": 1}),
        metadata(arrays={"a": 1}),
        metadata(arrays=["observations", "gone"]),
    ],
)
def test_metadata_of_a_wrong_kind(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="file.npz"):
        load_dataset(saved(tmp_path / "file.npz", metadata=entry))


def test_metadata_that_is_sound_is_read(tmp_path: Path) -> None:
    data = load_dataset(saved(tmp_path / "file.npz", metadata=metadata(env_id="A-v0", provenance={"\u00e9": "\u4e2d"})))
    assert (data.env_id, data.provenance) == ("A-v0", {"\u00e9": "\u4e2d"})


VALUES, AT = np.zeros((7, 3), np.float32), np.array([9, 19, 29, 39, 49, 55, 59])


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (AT, VALUES[:1]),
        (AT, VALUES[:, :1]),
        (AT, VALUES[0]),
        (AT, VALUES.astype("U3")),
        (AT, VALUES.astype(float)),
        (AT - 60, VALUES),
        (AT.astype(float), VALUES),
        (AT[::-1], VALUES),
        (AT[[0, 1, 2, 3, 4, 5, 5]], VALUES),
        (AT[:-1], VALUES[:-1]),
        (AT + 1, VALUES),
        (AT[None], VALUES),
        (AT[:0], VALUES[:0]),
        (np.uint64(2**64 - 60) + AT.astype(np.uint64), VALUES),
        (np.ones(ROWS, bool), np.zeros((ROWS, 3))),
    ],
)
def test_shared_observations_that_do_not_fit(rows: Any, values: Any, tmp_path: Path) -> None:
    reference = saved(tmp_path / "file.npz", next_observation_rows=rows, next_observation_values=values)
    with pytest.raises(DatasetError, match=r"file.npz is inconsistent .*; write it again with save_npz"):
        load_dataset(reference)


def test_a_saved_file_that_lacks_an_array(tmp_path: Path) -> None:
    write_saved(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as archive:
        names = [name for name in archive.files if name != "metadata"]
    assert len(names) == 11
    for name in names:
        with pytest.raises(DatasetError, match=rf"file.npz lacks the arrays {name}"):
            load_dataset(saved(tmp_path / "file.npz", **{name: None}))


def with_member(path: Path, name: str, content: bytes) -> str:
    """A plain npz whose member has this content, by a valid checksum; its reference."""
    write_plain(path)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, kept in (members | {name: content}).items():
            archive.writestr(member, kept)
    return f"npz:{path}"


def npy(header: str, content: bytes = b"") -> bytes:
    """An npy file with this header."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def described(shape: str, kind: str = "<f4") -> str:
    """The header of an array."""
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        npy(""),
        npy("(" * 5_000),
        npy(described("(59,)"), bytes(240)),  # fewer rows than there are
        npy(described("(61,)"), bytes(240)),
        npy(described("(4611686018427387904, 4611686018427387904)")),
        npy(described("(100000000000000,)")),
        npy(described("(-1,)"), bytes(240)),
        npy(described("(60L,)"), bytes(239)),
        npy(described("(60.0,)"), bytes(240)),
        npy(described("'a'"), bytes(240)),
        npy(described("(60,)", "|O"), bytes(480)),
        npy(described("(60,)", "<U0"), bytes(240)),
        npy(described("(60,)", "<M8[s]"), bytes(480)),
        npy(described("(60,)", "|b1"), bytes([64] * 60)),  # truth values that are neither
        npy("{'descr': '<f4'}", bytes(240)),
        npy(described("(60,)").replace("False", "__import__('os')"), bytes(240)),
    ],
)
def test_members_that_are_no_sound_arrays(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="file.npz"):
        load_dataset(with_member(tmp_path / "file.npz", "rewards.npy", content))


def test_names_in_a_zip_that_make_no_sense(tmp_path: Path) -> None:
    path, zeros = tmp_path / "file.npz", BytesIO()
    np.save(zeros, np.zeros(ROWS, np.float32))
    with pytest.raises(DatasetError, match="two arrays of the same name"):
        load_dataset(with_member(path, "rewards", zeros.getvalue()))
    with pytest.raises(DatasetError, match="file.npz"):
        load_dataset(with_member(path, "../rewards.npy", zeros.getvalue()))


def test_a_member_that_the_directory_passes_over(tmp_path: Path) -> None:
    """A length in the directory swallows the members after it, which `zipfile` does not notice."""
    path = tmp_path / "file.npz"
    write_plain(path)
    content = bytearray(path.read_bytes())
    for name in (b"terminals.npy", b"actions.npy"):
        entry = content.rindex(name) - 46
        assert content[entry : entry + 4] == b"PK\x01\x02"
        changed = content.copy()
        changed[entry + 32 : entry + 34] = (0xFFFF).to_bytes(2, "little")
        path.write_bytes(changed)
        with pytest.raises(DatasetError, match="directory is damaged"):
            load_dataset(f"npz:{path}")


def test_rows_that_were_never_written_to_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "file.hdf5"
    for options in ({}, {"chunks": (7,)}, {"chunks": (7,), "compression": "gzip"}):
        with h5py.File(path, "w") as file:
            for name, array in arrays().items():
                if name != "rewards":
                    file[name] = array
            rewards = file.create_dataset("rewards", (ROWS,), np.float32, **options)
            if options:
                rewards[:20] = 1.0
        with pytest.raises(DatasetError, match=r"rewards has shape \[60\], but the file does not hold so many"):
            load_dataset(f"d4rl:{path}")


def test_links_that_lead_nowhere_or_round(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "file.hdf5"
    write_hdf5(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/nowhere")
        file["infos/round"] = file["infos"]
    with pytest.raises(DatasetError, match=r"file.hdf5: rewards is a link that leads nowhere"):
        load_dataset(f"d4rl:{path}")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["kept/rewards"], file["rewards"] = arrays()["rewards"], h5py.SoftLink("/kept/rewards")
        file["kept/round"] = file["kept"]
    assert load_dataset(f"d4rl:{path}", ignore=["kept"]).fingerprint == Dataset.from_arrays(**arrays()).fingerprint


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    about: Any = {"made": np.zeros(3)}
    with pytest.raises(DatasetError, match="provenance of a data set must be text"):
        save_npz(Dataset.from_arrays(**arrays(), provenance=about), tmp_path / "file.npz")
    assert not list(tmp_path.iterdir())


# What the package keeps itself


def test_a_damaged_bundled_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundled").mkdir()
    write_saved(tmp_path / "bundled" / "mine.npz")
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    assert load_dataset("bundled:mine").env_id == "Hopper-v5" and "bundled:mine" in list_datasets()
    (tmp_path / "bundled" / "mine.npz").write_bytes((tmp_path / "bundled" / "mine.npz").read_bytes()[:900])
    with pytest.raises(DatasetError, match="mine.npz"):
        load_dataset("bundled:mine")


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda content: content[:700], lambda content: content[:-9] + bytes(9)]
)
def test_a_damaged_cache_is_made_anew(
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept, collected = tmp_path / "kept.npz", []

    def collect(source: str, draw: int, file: Path) -> Dataset:
        collected.append(source)
        write_saved(file)
        made = load_dataset(f"npz:{file}")
        file.with_suffix(".json").write_text(json.dumps({"fingerprint": made.fingerprint}))
        return made

    monkeypatch.setattr(scripted, "kept_file", lambda source, draw: kept)
    monkeypatch.setattr(scripted, "collect_anew", collect)
    first = load_dataset("scripted:pointmaze/umaze").fingerprint
    assert "damaged" not in capsys.readouterr().err
    kept.write_bytes(damage(kept.read_bytes()))
    assert load_dataset("scripted:pointmaze/umaze").fingerprint == first
    assert "damaged and made anew" in capsys.readouterr().err and len(collected) == 2
    assert load_dataset("scripted:pointmaze/umaze").fingerprint == first and len(collected) == 2
