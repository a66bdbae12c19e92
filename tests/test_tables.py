"""Tables as data sets: every kind of file, column maps, episodes and ends, LeRobot's layout, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.data import Dataset, check_trainable, doctor, load_dataset
from adaptive_constraints.data.sources.loaders import check_reference
from adaptive_constraints.errors import DatasetError

pa = pytest.importorskip("pyarrow")
from pyarrow import csv, feather, ipc, parquet  # noqa: E402

LENGTHS = (4, 6, 3)
"""Rows of each recording; the second is cut, the others truly end."""


def recorded() -> dict[str, Any]:
    """Columns of three recordings, with the observation that follows each row."""
    draw, rows = np.random.default_rng(3), sum(LENGTHS)
    walks = [np.cumsum(draw.normal(size=(length + 1, 3)), axis=0) for length in LENGTHS]
    last = np.isin(np.arange(rows), np.cumsum(LENGTHS) - 1)
    ids = np.repeat(np.arange(3), LENGTHS)
    return {
        "obs": np.concatenate([walk[:-1] for walk in walks]).astype(np.float32),
        "next": np.concatenate([walk[1:] for walk in walks]).astype(np.float32),
        "act": draw.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rew": draw.normal(size=rows).astype(np.float32),
        "end": last & (ids != 1),
        "cut": last & (ids == 1),
        "ids": ids,
        "time": np.concatenate([np.arange(length) for length in LENGTHS]),
    }


COLUMNS = recorded()


def expected(**changes: Any) -> Dataset:
    """What `Dataset.from_arrays` makes of the columns."""
    named: dict[str, Any] = {
        "observations": COLUMNS["obs"],
        "next_observations": COLUMNS["next"],
        "actions": COLUMNS["act"],
        "rewards": COLUMNS["rew"],
        "terminals": COLUMNS["end"],
        "timeouts": COLUMNS["cut"],
        "episode_ids": COLUMNS["ids"],
    }
    return Dataset.from_arrays(**{key: value for key, value in (named | changes).items() if value is not None})


def flat() -> Any:
    """A table with a column per number."""
    columns = {f"x{i}": COLUMNS["obs"][:, i] for i in range(3)} | {f"y{i}": COLUMNS["next"][:, i] for i in range(3)}
    columns |= {"u0": COLUMNS["act"][:, 0], "u1": COLUMNS["act"][:, 1], "r": COLUMNS["rew"]}
    named = [("abc", "zz", "m")[number] for number in COLUMNS["ids"]]
    return pa.table(columns | {"crashed": COLUMNS["end"], "limit": COLUMNS["cut"], "log": named, "t": COLUMNS["time"]})


FLAT_MAP = "obs=x0+x1+x2,next_obs=y*,action=u0+u1,reward=r,terminal=crashed,timeout=limit,episode=log"


def stacked(fixed: bool = True) -> Any:
    """A table with lists, under usual names."""

    def lists(array: np.ndarray) -> Any:
        if fixed:
            return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        return pa.array(array.tolist(), pa.list_(pa.float32()))

    return pa.table(
        {
            "observation": lists(COLUMNS["obs"]),
            "next_observation": lists(COLUMNS["next"]),
            "action": lists(COLUMNS["act"]),
            "reward": pa.array(COLUMNS["rew"]),
            "terminated": pa.array(COLUMNS["end"]),
            "truncated": pa.array(COLUMNS["cut"]),
            "episode_id": pa.array(COLUMNS["ids"]),
        }
    )


def write_stream(table: Any, path: Path) -> None:
    with ipc.new_stream(str(path), table.schema) as stream:
        for batch in table.to_batches(max_chunksize=5):
            stream.write_batch(batch)


def write_file(table: Any, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


WRITERS = {
    "parquet": lambda table, path: parquet.write_table(table, path, row_group_size=4),
    "arrow": write_file,
    "feather": lambda table, path: feather.write_feather(table, str(path)),
    "csv": csv.write_csv,
    "tsv": lambda table, path: csv.write_csv(table, path, csv.WriteOptions(delimiter="\t")),
}


# Kinds of files


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_with_a_column_per_number(suffix, tmp_path):
    path = tmp_path / f"log.{suffix}"
    WRITERS[suffix](flat(), path)
    data = load_dataset(f"table:{path}#{FLAT_MAP}")
    assert data.fingerprint == expected().fingerprint
    assert data.name == f"table:{path}#{FLAT_MAP}"
    assert json.loads(data.provenance["columns"])["obs"] == ["x0", "x1", "x2"]
    check_trainable(data)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
def test_lists_are_stacked_and_usual_names_found(suffix, fixed, tmp_path):
    path = tmp_path / f"log.{suffix}"
    WRITERS[suffix](stacked(fixed), path)
    assert load_dataset(f"table:{path}").fingerprint == expected().fingerprint


def test_a_stream_as_hugging_face_saves_it(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    table = stacked(fixed=False)
    for number, part in enumerate((table.slice(0, 7), table.slice(7))):
        write_stream(part, folder / f"data-0000{number}-of-00002.arrow")
    files = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")
    assert load_dataset(f"table:{folder}").fingerprint == expected().fingerprint
    both = tmp_path / "both"
    both.mkdir()
    (both / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(DatasetError, match="holds several splits: name one of .*both/train, .*both/test"):
        load_dataset(f"table:{both}")


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "data").mkdir()
    for number, (start, rows) in enumerate(((0, 3), (3, 8), (11, 2))):
        parquet.write_table(stacked().slice(start, rows), tmp_path / "data" / f"train-0000{number}.parquet")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert load_dataset(f"table:{tmp_path}").fingerprint == expected().fingerprint


def test_structs_are_columns_of_their_fields(tmp_path):
    table = flat()
    state = pa.StructArray.from_arrays([table[f"x{i}"].combine_chunks() for i in range(3)], ["x", "y", "z"])
    inner = pa.StructArray.from_arrays([state], ["state"])
    parquet.write_table(table.append_column("robot", inner), tmp_path / "log.parquet")
    mapped = FLAT_MAP.replace("x0+x1+x2", "robot.state.*")
    assert load_dataset(f"table:{tmp_path / 'log.parquet'}#{mapped}").fingerprint == expected().fingerprint


# What the columns mean


def test_rows_of_episodes_that_alternate_are_put_together_in_order_of_time(tmp_path):
    order = np.random.default_rng(0).permutation(sum(LENGTHS))
    parquet.write_table(flat().take(pa.array(order)), tmp_path / "log.parquet")
    data = load_dataset(f"table:{tmp_path / 'log.parquet'}#{FLAT_MAP},time=t")
    first = list(dict.fromkeys(COLUMNS["ids"][order]))  # episodes in the order in which they first appear
    wanted = np.concatenate([np.flatnonzero(COLUMNS["ids"] == number) for number in first])
    np.testing.assert_array_equal(data.observations, COLUMNS["obs"][wanted])
    np.testing.assert_array_equal(data.rewards, COLUMNS["rew"][wanted])
    assert data.episode_lengths().tolist() == [LENGTHS[number] for number in first]
    check_trainable(data)


def test_named_episodes_without_ends_were_cut(tmp_path):
    path = tmp_path / "log.parquet"
    parquet.write_table(flat().drop_columns(["crashed", "limit"]), path)
    data = load_dataset(f"table:{path}#obs=x*,next_obs=y*,action=u*,reward=r,episode=log")
    assert not data.terminals.any() and np.flatnonzero(data.timeouts).tolist() == [3, 9, 12]
    parquet.write_table(flat().drop_columns(["crashed", "limit", "y0", "y1", "y2"]), path)
    data = load_dataset(f"table:{path}#obs=x*,action=u*,reward=r,episode=log")
    assert len(data) == 10, "the last row of each has no observation after it"
    assert np.flatnonzero(data.timeouts).tolist() == [2, 7, 9]
    np.testing.assert_array_equal(data.next_observations[0], COLUMNS["obs"][1])


def test_done_terminals_and_numbers(tmp_path):
    path = tmp_path / "log.parquet"
    table = flat().append_column("fin", pa.array(COLUMNS["end"] | COLUMNS["cut"]))
    parquet.write_table(table.drop_columns(["crashed"]), path)
    data = load_dataset(f"table:{path}#obs=x*,next_obs=y*,action=u*,reward=0,done=fin,timeout=limit,episode=log")
    assert data.fingerprint == expected(rewards=np.zeros(13)).fingerprint
    bounded = load_dataset(
        f"table:{path}#obs=x*,action=u*,reward=r,done=fin,action_low=-2+-1.5,action_high=3,env=Swimmer-v5"
    )
    assert (bounded.action_low.tolist(), bounded.action_high.tolist()) == ([-2, -1.5], [3, 3])
    assert bounded.env_id == "Swimmer-v5"


def test_columns_of_other_types_are_numbers_too(tmp_path):
    rows = 12
    table = pa.table(
        {
            "obs": pa.array(np.arange(rows), pa.int16()),
            "action": pa.array([f"0.{i}" for i in range(10)] + ["0.5", "0.6"]).cast(pa.decimal128(5, 2)),
            "reward": pa.array(np.arange(rows) % 2 == 0),
            "when": pa.array(np.arange(rows)[::-1] * 10**9, pa.timestamp("ns")),
            "who": pa.array(["b"] * 6 + ["a"] * 6).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    data = load_dataset(f"table:{tmp_path / 'log.parquet'}#episode=who,time=when")
    assert data.observations[:, 0].tolist() == [5, 4, 3, 2, 1, 11, 10, 9, 8, 7]
    assert data.rewards.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]


# LeRobot


def lerobot(folder: Path, version: str = "v3.0", **columns: Any) -> Path:
    """A data set in LeRobot's layout, of two files of frames, with a camera that is kept as a video."""
    (folder / "meta").mkdir(parents=True)
    features = {name: {"dtype": "float32"} for name in columns} | {"observation.images.top": {"dtype": "video"}}
    info = {"codebase_version": version, "fps": 10, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    columns = {
        "observation.state": COLUMNS["obs"][:, :2].tolist(),
        "observation.environment_state": COLUMNS["obs"][:, 2:].tolist(),
        "action": COLUMNS["act"].tolist(),
        "timestamp": COLUMNS["time"] / 10,
        "frame_index": COLUMNS["time"],
        "episode_index": COLUMNS["ids"],
        "index": np.arange(13),
        "task_index": np.zeros(13, np.int64),
    } | columns
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    for file, (start, rows) in enumerate(((0, 8), (8, 5))):
        path = folder / "data" / "chunk-000" / f"file-00{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.slice(start, rows), path)
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table({"episode_index": [0, 1, 2]}), folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


def test_lerobot(tmp_path):
    ends = COLUMNS["end"] | COLUMNS["cut"]
    folder = lerobot(
        tmp_path / "set", **{"next.reward": COLUMNS["rew"], "next.done": ends, "next.truncated": COLUMNS["cut"]}
    )
    data = load_dataset(f"table:{folder}")
    arrays = expected(next_observations=None)
    assert data.fingerprint == arrays.fingerprint
    check_trainable(data)


def test_lerobot_without_rewards_is_for_imitation(tmp_path):
    folder = lerobot(tmp_path / "set")
    with pytest.raises(
        DatasetError, match=r"nothing says which columns are reward; name them: table:.*#reward=\.\.\.; rew"
    ):
        load_dataset(f"table:{folder}")
    data = load_dataset(f"table:{folder}#obs=observation.state,reward=0")
    assert (data.observation_dim, len(data)) == (2, 10) and not data.terminals.any()


def test_lerobot_of_another_version(tmp_path):
    with pytest.raises(DatasetError, match=r"is a LeRobot data set of version v2\.1, but version 3 is read: convert"):
        load_dataset(f"table:{lerobot(tmp_path / 'set', version='v2.1')}")


# Refusals


def one_null() -> Any:
    return flat().set_column(0, "x0", pa.array([1.0, None] + [2.0] * 11))


def ragged() -> Any:
    return stacked().set_column(0, "observation", pa.array([[1.0, 2.0]] * 5 + [[1.0]] * 8))


def images() -> Any:
    return stacked().set_column(0, "observation", pa.array([[[1.0, 2.0]]] * 13))


WRONG = {
    "no such column": (flat, "obs=crash,action=u*,reward=r", "has no column 'crash'; did you mean 'crashed'"),
    "nothing said": (flat, "", r"nothing says which columns are obs, action, reward; .*Columns: x0, x1"),
    "a misspelled role": (flat, "obs=x*,acton=u*,reward=r", r"cannot read 'acton=u\*'; did you mean 'action'\?"),
    "no column": (flat, "obs=x*,action=,reward=r", "cannot read 'action='"),
    "a role twice": (flat, "obs=x0,obs=x1", "obs is given twice"),
    "two rewards": (flat, "obs=x*,action=u*,reward=r+t", "reward is one column, not r, t"),
    "text": (flat, "obs=log,action=u*,reward=r", "column 'log' must hold numbers, but its type is string"),
    "a hole": (one_null, "obs=x*,action=u*,reward=r", r"'x0' has no value in 1 rows \(the first: 1\)"),
    "lists of several lengths": (ragged, "", r"'observation' has lists of several lengths: 2 in row 0, 1 in row 5"),
    "images": (images, "", "lists of lists, such as images, are not read"),
    "a list for a reward": (stacked, "reward=action", "reward needs one value per row, but action has 2"),
    "a constant observation": (flat, "obs=0,action=u*,reward=r", "observations must be columns, not the number 0"),
    "bad bounds": (flat, "obs=x*,action=u*,reward=r,action_low=a", "action_low must be one number, or one per"),
    "ends that are no flags": (flat, "obs=x*,action=u*,reward=r,done=r", "done must hold 0 or 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_said(case, tmp_path):
    make, mapped, said = WRONG[case]
    path = tmp_path / "log.parquet"
    parquet.write_table(make(), path)
    with pytest.raises(DatasetError, match=said) as raised:
        load_dataset(f"table:{path}" + (f"#{mapped}" if mapped else ""))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_files(suffix, tmp_path):
    path = tmp_path / f"log.{suffix}"
    WRITERS[suffix](flat(), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * 64 + whole[64:], b"hello"):
        path.write_bytes(damaged)
        if suffix in ("csv", "tsv") and damaged[:1] not in (b"", b"h"):
            continue  # half a table of text is a table
        with pytest.raises(DatasetError, match=str(path)):
            load_dataset(f"table:{path}#{FLAT_MAP}")


def test_places_that_hold_no_table(tmp_path):
    for place, said in (
        (tmp_path / "log.parquet", "no file or folder .*; there is none"),
        (tmp_path, "holds no tables"),
    ):
        with pytest.raises(DatasetError, match=said):
            load_dataset(f"table:{place}")
    (tmp_path / "log.xlsx").write_text("x")
    with pytest.raises(DatasetError, match="no table of a known kind"):
        load_dataset(f"table:{tmp_path / 'log.xlsx'}")
    with pytest.raises(DatasetError, match="did you mean table:.*log.csv"):
        load_dataset(f"{tmp_path / 'log.csv'}")


def test_a_column_map_is_checked_before_the_file_is_read():
    with pytest.raises(DatasetError, match="cannot read 'rewards=r'; did you mean 'reward'"):
        check_reference("table:nowhere.parquet#obs=x,rewards=r")


def test_on_the_command_line_and_derived(tmp_path, capsys):
    path = tmp_path / "log.csv"
    csv.write_csv(flat(), path)
    reference = f"table:{path}#{FLAT_MAP}"
    assert main(["doctor", reference]) == 0
    mixed = load_dataset(f"{reference} | mix(({reference} | add_action_noise(0.1)), 0.5)")
    assert load_dataset(mixed.name).fingerprint == mixed.fingerprint
    assert main(["repair", reference, str(tmp_path / "log.npz"), "--action-low", "-2"]) == 0
    assert not doctor(load_dataset(f"npz:{tmp_path / 'log.npz'}")).errors
    capsys.readouterr()
