"""Files of other libraries, references that name nothing, and what is said of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, doctor, load_dataset
from adaptive_constraints.errors import DatasetError

h5py = pytest.importorskip("h5py")

ENDS = ((7, "terminal"), (5, "cut"), (9, "cut"), (4, "terminal"))
"""Rows of each recording, and how it ends."""
OTHER_NAMES = [
    ("obs", "act", "rew", "obs_next", "terminated", "truncated"),
    ("obs", "action", "reward", "next_obs", "terminal", "timeout"),
    ("observation", "action", "reward", "next_observation", "terminations", "truncations"),
    ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"),
]


def columns(dims: int = 3, offset: float = 0.0) -> dict[str, Any]:
    """Whole recordings with next observations, in our names."""
    draw = np.random.default_rng(dims)
    walks = [offset + np.cumsum(draw.normal(0, 0.1, (rows + 1, dims)), axis=0) for rows, _ in ENDS]
    last = [np.arange(rows) == rows - 1 for rows, _ in ENDS]
    rows = sum(rows for rows, _ in ENDS)
    return {
        "observations": np.concatenate([walk[:-1] for walk in walks]).astype(np.float32),
        "next_observations": np.concatenate([walk[1:] for walk in walks]).astype(np.float32),
        "actions": draw.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": draw.normal(size=rows).astype(np.float32),
        "terminals": np.concatenate([end & (how == "terminal") for end, (_, how) in zip(last, ENDS, strict=True)]),
        "timeouts": np.concatenate([end & (how == "cut") for end, (_, how) in zip(last, ENDS, strict=True)]),
    }


def write(path: Path, arrays: dict[str, Any]) -> str:
    """A file of these arrays, in the format of its suffix; its reference."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return f"npz:{path}"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return f"d4rl:{path}"


def same(one: Dataset, other: Dataset) -> bool:
    """Every array equal bit for bit."""
    return one.fingerprint == other.fingerprint


@pytest.fixture(params=[".npz", ".hdf5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a file of either kind will be."""
    return tmp_path / f"set{request.param}"


# Names and layouts


@pytest.mark.parametrize("names", OTHER_NAMES)
def test_names_of_other_libraries_are_read(names: tuple[str, ...], path: Path) -> None:
    ours = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    arrays = columns()
    reference = write(path, {other: arrays[name] for name, other in zip(ours, names, strict=True)})
    assert same(load_dataset(reference), Dataset.from_arrays(**arrays))


def test_done_is_a_true_end_or_a_time_limit(path: Path) -> None:
    arrays = columns()
    done = arrays["terminals"] | arrays["timeouts"]
    expected = Dataset.from_arrays(**arrays)
    for known in ("terminals", "timeouts"):
        given = {key: value for key, value in arrays.items() if key not in ("terminals", "timeouts")}
        reference = write(path, given | {known: arrays[known], "dones": done.astype(np.float32)})
        assert same(load_dataset(reference), expected)
    alone = load_dataset(write(path, given | {"done": done[:, None].astype(np.int64)}))
    assert np.array_equal(alone.terminals, done) and not alone.timeouts.any()
    wrong = done.copy()
    wrong[[1, 3]] = True
    with pytest.raises(DatasetError, match=r"done is not 'terminal or timeout' in 2 rows \(the first: 1\)"):
        load_dataset(write(path, arrays | {"done": wrong}))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool, ">f4"])
def test_ends_of_episodes_of_d3rlpy_1(path: Path, dtype: Any) -> None:
    arrays = columns()
    ends = arrays["terminals"] | arrays.pop("timeouts")
    arrays |= {"terminals": arrays["terminals"].astype(dtype), "episode_terminals": ends.astype(dtype)}
    data = load_dataset(write(path, arrays | {"version": np.array(1.0), "discrete_action": np.array(False)}))
    assert data.episode_lengths().tolist() == [rows for rows, _ in ENDS]
    assert same(data, Dataset.from_arrays(**columns()))
    del arrays["next_observations"]
    cut = [rows - (how == "cut") for rows, how in ENDS]
    assert (np.diff([*load_dataset(write(path, arrays)).episode_starts, sum(cut)])).tolist() == cut
    with pytest.raises(DatasetError, match="discrete actions"):
        load_dataset(write(path, arrays | {"discrete_action": np.array(True)}))
    with pytest.raises(DatasetError, match="discrete actions"):
        load_dataset(write(path, arrays | {"actions": np.arange(len(ends), dtype=np.int32)}))
    with pytest.raises(DatasetError, match="same number of rows.*episode_terminals 1"):
        load_dataset(write(path, arrays | {"episode_terminals": np.ones(1)}))
    with pytest.raises(DatasetError, match="episode_terminals must hold 0 or 1"):
        load_dataset(write(path, arrays | {"episode_terminals": np.where(ends, np.nan, 0)}))


def of_episodes(**changed: Any) -> dict[str, Any]:
    """The arrays of a dump of d3rlpy 2: one per column and episode."""
    arrays, stop = columns(), np.cumsum([rows for rows, _ in ENDS])
    made: dict[str, Any] = {"columns": ["observations", "actions", "rewards", "terminated"], "version": "2.1"}
    made["num_episodes"] = len(ENDS)
    for index, (rows, how) in enumerate(ENDS):
        part = slice(stop[index] - rows, stop[index])
        made |= {f"{name}_{index}": arrays[name][part] for name in ("observations", "actions")}
        made |= {f"rewards_{index}": arrays["rewards"][part, None], f"terminated_{index}": how == "terminal"}
    return {key: value for key, value in (made | changed).items() if value is not None}


def test_episodes_of_d3rlpy_2(tmp_path: Path) -> None:
    arrays = columns()
    del arrays["next_observations"]
    expected = Dataset.from_arrays(**arrays)
    for counted in ("num_episodes", "total_size"):
        content = of_episodes(num_episodes=None) | {counted: len(ENDS)}
        assert same(load_dataset(write(tmp_path / "set.h5", content)), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actions_2": None}, "lacks arrays of episodes: it has 15 of 4 times 4"),
        ({"num_episodes": 6}, "lacks arrays of episodes: it has 16 of 4 times 6"),
        ({"rewards_1": np.zeros((2, 1))}, r"episode 1 needs as many observations as actions and rewards"),
        ({"terminated_3": np.zeros(2)}, r"terminated_3 must be one flag"),
        ({"terminated_3": 0.5}, r"terminated_3 must hold 0 or 1"),
        ({"actions_0": np.zeros((7, 5))}, "set.h5"),
        ({"actions_0": ["a"] * 7}, "actions_0 must hold numbers"),
        (
            {"embeddings_0": np.zeros(3), "embeddings_1": np.zeros(3)},
            r"holds embeddings_\* too.*--ignore 'embeddings_\*'",
        ),
    ],
)
def test_episodes_of_d3rlpy_2_that_are_incomplete(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(write(tmp_path / "set.h5", of_episodes(**changed)))


def test_unknown_arrays_are_named_and_can_be_ignored(path: Path) -> None:
    arrays: dict[str, Any] = columns() | {"costs": np.ones(25), "more/reset": np.ones(25), "more/start": np.ones(3)}
    reference = write(path, arrays)
    with pytest.raises(DatasetError) as caught:
        load_dataset(reference)
    for part in ("unknown meaning: costs, more/reset, more/start", "ignore=['costs'", f"repair {reference} OUT.npz"):
        assert part in str(caught.value)
    for ignore in (["costs", "more"], ["c*", "more/*"], ["costs", "more/reset", "more/start"]):
        assert same(load_dataset(reference, ignore=ignore), Dataset.from_arrays(**columns()))
    with pytest.raises(DatasetError, match="no array 'cost' to ignore; did you mean 'costs'"):
        load_dataset(reference, ignore=["cost"])
    with pytest.raises(DatasetError, match="ignore is for arrays of a file"):
        load_dataset("bundled:hopper", ignore=["costs"])


def test_what_d4rl_says_of_a_recording_is_allowed(path: Path) -> None:
    said = {"infos/qpos": np.zeros((25, 6)), "infos/deep/goal": np.zeros(2), "metadata/policy/fc0/weight": np.eye(3)}
    assert same(load_dataset(write(path, columns() | said)), Dataset.from_arrays(**columns()))


def test_bounds_ids_and_further_columns_are_read(path: Path) -> None:
    more = {"action_low": [-2.0, -3.0], "action_high": np.float64(4.0), "episode_ids": np.repeat([5, 6], [12, 13])}
    arrays: dict[str, Any] = columns() | {"timeouts": np.zeros(25), "terminals": np.zeros(25)} | more
    data = load_dataset(write(path, arrays | {"extra/note": np.arange(25)}))
    assert same(data, Dataset.from_arrays(**arrays, extra={"note": np.arange(25)}))
    assert data.action_low.tolist() == [-2, -3] and data.episodes == 2


def test_one_meaning_may_not_stand_twice(path: Path) -> None:
    with pytest.raises(DatasetError, match="holds both obs.* and obs"):
        load_dataset(write(path, columns() | {"obs": np.zeros((25, 3))}))


@pytest.mark.parametrize("missing", ["observations", "actions", "rewards", "terminals"])
def test_what_is_missing_and_what_is_there_is_said(path: Path, missing: str) -> None:
    arrays = {key: value for key, value in columns().items() if key != missing}
    with pytest.raises(DatasetError, match=rf"{path.name} lacks the arrays {missing}; it holds: .*timeouts"):
        load_dataset(write(path, arrays))


def test_layouts_that_are_not_read_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"it holds: act, obs, rew"):
        load_dataset(write(tmp_path / "a.hdf5", {name: np.zeros(5) for name in ("obs", "act", "rew")}))
    minari = {f"episode_{index}/{name}": np.zeros(3) for index in range(20) for name in ("actions", "rewards")}
    with pytest.raises(DatasetError, match=r"holds: episode_\*/actions, episode_\*/rewards.*minari:NAME"):
        load_dataset(write(tmp_path / "b.hdf5", minari))
    robomimic = {f"data/demo_{index}/actions": np.zeros(3) for index in range(20)}
    with pytest.raises(DatasetError, match=r"holds: data/demo_\*/actions"):
        load_dataset(write(tmp_path / "c.hdf5", robomimic))
    with pytest.raises(DatasetError, match="holds: nothing"):
        load_dataset(write(tmp_path / "d.hdf5", {}))


# Types and shapes


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "i1", ">i8", "u2"])
def test_numbers_of_every_type(path: Path, dtype: str) -> None:
    arrays: dict[str, Any] = columns() | {"rewards": np.arange(25).astype(dtype)}
    arrays |= {"observations": np.asfortranarray(arrays["observations"]), "timeouts": arrays["timeouts"][:, None]}
    expected = Dataset.from_arrays(**columns() | {"rewards": np.arange(25)})
    assert same(load_dataset(write(path, arrays)), expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"rewards": np.array([b"a"] * 25)},
        {"rewards": np.float32(3)},
        {"rewards": np.zeros(25, complex)},
        {"rewards": np.zeros(25, [("a", "f4")])},
        {"observations": np.zeros((25, 3, 2))},
        {"observations": np.zeros(25)},
        {"next_observations": np.zeros((1, 3))},
        {"next_observations": np.zeros((25, 1))},
        {"actions": np.zeros((24, 2))},
        {"terminals": np.where(np.arange(25) == 3, np.nan, 0)},
        {"terminals": np.ones(1)},
        {"timeouts": np.full(25, 2)},
        {"episode_ids": np.full(25, np.nan)},
        {"action_low": [-1.0]},
        {"action_low": np.nan},
        {"extra/note": np.zeros(3)},
        {name: array[:0] for name, array in columns().items()},
    ],
)
def test_wrong_types_and_shapes_are_errors_of_the_file(path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=path.name):
        load_dataset(write(path, columns() | changed))


def test_numbers_too_large_are_for_the_doctor(path: Path) -> None:
    rewards = columns()["rewards"].astype(np.float64)
    rewards[[3, 8]] = 1e300, -1e300
    assert "not_finite" in doctor(load_dataset(write(path, columns() | {"rewards": rewards}))).codes


# References


@pytest.mark.parametrize(("suffix", "scheme"), [(".npz", "npz"), (".hdf5", "d4rl"), (".h5", "d4rl")])
def test_the_scheme_of_a_file_is_guessed(tmp_path: Path, suffix: str, scheme: str) -> None:
    path = tmp_path / f"pend{suffix}"
    write(path, columns())
    for given in (f"{path}", f"hdf5:{path}", f"file:{path}"):
        with pytest.raises(DatasetError, match=rf"did you mean {scheme}:{path}\?"):
            load_dataset(given)
    with pytest.raises(DatasetError, match=rf"did you mean {scheme}:{path.with_stem('other')}\?"):
        load_dataset(str(path.with_stem("other")))  # that it is not there is said of that reference
    with pytest.raises(DatasetError) as caught:
        load_dataset("hopper")
    assert "did you mean" not in str(caught.value)


def test_a_file_of_the_other_kind_is_told_its_scheme(tmp_path: Path) -> None:
    for suffix, wrong, right in ((".npz", "d4rl", "npz"), (".hdf5", "npz", "d4rl")):
        path = tmp_path / f"pend{suffix}"
        write(path, columns())
        with pytest.raises(DatasetError, match=rf"; it is an? .* file: {right}:{path}"):
            load_dataset(f"{wrong}:{path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder.npz", "is a folder"),
        ("pipe.npz", "is no regular file"),
        ("x" * 300 + ".npz", "too long"),
        ("a\0b.npz", "no file"),
        ("~nobody-of-this-name/x.npz", "nobody-of-this-name"),
    ],
)
def test_names_that_are_no_files(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.npz").mkdir()
    os.mkfifo("pipe.npz")
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"npz:{name}")


def test_a_file_that_may_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    reference = write(path, columns())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError, match=f"{path.name}.*Permission denied"):
        load_dataset(reference)
