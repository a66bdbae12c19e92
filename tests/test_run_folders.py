"""A run folder is one run's, whoever comes with it, and one process writes to it at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import Adapter, Dataset, Prepared, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import CheckpointError, FileError, TrainingError
from adaptive_constraints.runs.folder import CHECKPOINT, CONFIG
from adaptive_constraints.runs.loop import DataWarning, Loop, LostSeedWarning
from adaptive_constraints.support.files import (
    CACHE_VARIABLE,
    LOCK,
    UnlockedWarning,
    cache_folder,
    locked,
    replacing,
    sweep,
)
from adaptive_constraints.support.records import read_metrics

from .fault_kinds import ONLINE, SMALL, Drift, data, learned, stack

LONG: dict[str, Any] = {"steps": 12, "seeds": 2, "log_every": 2, "progress": False, "traced": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


def at(step: int, out: Path | None = None, seeds=2):
    agent = stack()
    agent.fit(data(), stop_after=step, out=out, **LONG | {"seeds": seeds})
    return agent


# -- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(), (CHECKPOINT,), (CONFIG,), (CHECKPOINT, CONFIG), (CHECKPOINT, "metrics.jsonl")])
@pytest.mark.parametrize("begun", [0, 4])
def test_another_run_s_folder_is_left_as_it_is(tmp_path, missing, begun):
    at(6, tmp_path, seeds=[5])
    for name in missing:
        (tmp_path / name).unlink()
    before = contents(tmp_path)
    agent = at(begun) if begun else stack()
    with pytest.raises(
        CheckpointError, match=r"seeds \[5\] there, \[0, 1\] here|neither checkpoint.npz nor config.json"
    ):
        agent.fit(data(), out=tmp_path, **LONG)
    assert contents(tmp_path) == before
    assert agent.step == begun
    if not begun:
        with pytest.raises(TrainingError, match="not trained yet"):
            _ = agent.run


def test_the_result_names_its_data_as_the_settings_do(tmp_path):
    at(12, tmp_path)
    result, config = (json.loads((tmp_path / name).read_text()) for name in ("result.json", CONFIG))
    assert result["data"] == config["data"] and result["data"]["fingerprint"] == data().fingerprint


@pytest.mark.parametrize(("own", "kept"), [(4, 10), (10, 4), (6, 6), (0, 6), (12, 4)])
def test_of_one_run_the_further_goes_on(tmp_path, own, kept):
    at(kept, tmp_path)
    agent, whole = at(own) if own else stack(), at(12)
    agent.fit(data(), stop_after=max(own, kept), out=tmp_path, **LONG)
    assert agent.step == load_agent(tmp_path, "cpu").step == max(own, kept), "nothing is lost on either side"
    assert steps(tmp_path) == list(range(2, max(own, kept) + 1, 2))
    agent.fit(data(), out=tmp_path, **LONG)
    assert learned(agent) == learned(load_agent(tmp_path, "cpu")) == learned(whole)
    assert steps(tmp_path) == [2, 4, 6, 8, 10, 12]


def test_a_run_that_is_ahead_is_written_at_once(tmp_path, monkeypatch):
    """Should it be killed before its next checkpoint, the folder has lost nothing."""
    at(2, tmp_path)
    agent = at(8)
    monkeypatch.setattr(Loop, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        agent.fit(data(), out=tmp_path, **LONG)
    assert load_agent(tmp_path, "cpu").step == 8


def test_fine_tuning_asks_who_a_folder_is_of(tmp_path):
    run, other, offline = (tmp_path / name for name in ("run", "other", "offline"))
    agent = at(12, offline)
    agent.save(tmp_path / "agent.npz")
    agent.finetune(Drift, out=run, stop_after=5, **ONLINE)
    load_agent(tmp_path / "agent.npz", "cpu").finetune(Drift, dataset=data(), out=other, **ONLINE | {"steps": 8})
    before = contents(other), contents(offline)
    for folder in (other, offline):
        with pytest.raises(CheckpointError, match="holds another training"):
            agent.finetune(Drift, out=folder, **ONLINE)
    (other / CHECKPOINT).unlink()
    with pytest.raises(CheckpointError, match="online steps 8 there, 9 here"):
        agent.finetune(Drift, out=other, **ONLINE)
    assert {**contents(other), CHECKPOINT: before[0][CHECKPOINT]} == before[0] and contents(offline) == before[1]
    agent.finetune(Drift, stop_after=7, **ONLINE)  # ahead of its folder
    again = load_agent(run, "cpu")
    again.finetune(Drift, dataset=data(), out=run, stop_after=6, **ONLINE)  # which is behind
    agent.finetune(Drift, out=run, **ONLINE)
    again.finetune(Drift, dataset=data(), out=run, **ONLINE)
    assert learned(again) == learned(agent)


def test_metrics_are_those_of_the_checkpoint(tmp_path):
    """A file that was torn, doubled or lost does not matter: it is written anew from what the run knows."""
    for damage in (b"", b"{", None):
        folder = tmp_path / str(damage)
        at(6, folder)
        file = folder / "metrics.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole + whole if damage is None else damage)
        at(6, folder)
        assert file.read_bytes() == whole


# -- locks ------------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from adaptive_constraints.support.files import locked, replacing
with locked(Path(sys.argv[1])), replacing(Path(sys.argv[1]) / "half.txt") as file:
    file.write("half"), file.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_a_process_writes_to_is_refused_until_it_is_dead(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        (tmp_path / ".mine.txt").write_text("a user's own")
        before = contents(tmp_path)
        with pytest.raises(FileError, match=rf"{tmp_path} is in use: process {holder.pid} on \S+ \(since 2.*another"):
            stack().fit(data(), out=tmp_path, **LONG)
        sweep(tmp_path)
        assert contents(tmp_path) == before
    finally:
        holder.kill()
        holder.communicate()
    assert len(list(tmp_path.glob(".half.txt.*"))) == 1, "what it had half written"
    at(4, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {".mine.txt"}


def test_one_of_two_threads_is_refused(tmp_path):
    """The tracer and the processor's settings are one for all threads of a process."""
    began, go_on, failed = threading.Event(), threading.Event(), []

    class Slow(Adapter):
        def prepare(self, preparation):
            began.set()
            go_on.wait(60)
            return Prepared()

    def train(agent, out):
        try:
            agent.fit(data(), out=out, **LONG)
        except Exception as error:
            failed.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=train, args=(wrap(TD3BC(**SMALL), Slow()), tmp_path / "one"))
        thread.start()
        assert began.wait(60)
        with pytest.raises(TrainingError, match="another thread of this process is training: .* seeds="):
            stack().fit(data(), **LONG)
        with pytest.raises(FileError, match=f"process {os.getpid()} "), locked(tmp_path / "one"):
            pass
        go_on.set()
        thread.join()
    assert not failed
    at(4, tmp_path / "two")


def test_a_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "new"):
        assert json.loads((tmp_path / "new" / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    with pytest.raises(FileError, match="cannot write to"), locked(tmp_path / "new" / "file" / "below"):
        pass


def test_waiting_for_a_lock(tmp_path):
    said = []

    def wait(text):
        said.append(text)
        held.set()

    held = threading.Event()
    with locked(tmp_path):
        thread = threading.Thread(target=lambda: _take(tmp_path, wait))
        thread.start()
        assert held.wait(60)
    thread.join()
    assert said and said[0].startswith(f"{tmp_path} is in use: process {os.getpid()} on")


def _take(folder, wait):
    with locked(folder, wait):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)

    def write():
        with locked(tmp_path), replacing(tmp_path / "file") as file:
            file.write("x")
            sweep(tmp_path)

    with pytest.warns(UnlockedWarning, match="cannot be locked .Operation not supported.: make sure"):
        write()
    assert (tmp_path / "file").read_text() == "x"


def test_temporary_names_are_of_one_call(tmp_path):
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as two:
        one.write("one"), two.write("two")
        assert len(list(tmp_path.iterdir())) == 2
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "file").read_text() == "one" and len(list(tmp_path.iterdir())) == 1


# -- advice -----------------------------------------------------------------------------------------------------------


def doubtful(**changed) -> Dataset:
    """Data with an observation that never changes."""
    good = data()
    columns = {name: getattr(good, name) for name in ("actions", "rewards", "terminals", "timeouts")}
    observations = np.concatenate([good.observations, np.full((len(good), 1), 0.3, np.float32)], 1)
    return Dataset.from_arrays(observations=observations, **columns | changed)


def test_advice_is_said_once_and_kept(tmp_path, capsys):
    agent, options = wrap(TD3BC(**SMALL)), LONG | {"progress": True}
    agent.fit(doubtful(), stop_after=4, out=tmp_path / "one", **options)
    assert capsys.readouterr().err.count("never change") == 1
    assert "never change" in json.loads((tmp_path / "one" / CONFIG).read_text())["advice"][0]
    wrap(TD3BC(**SMALL)).fit(doubtful(), out=tmp_path / "one", **options)
    agent.fit(doubtful(), out=tmp_path / "two", **options)
    assert "never change" not in capsys.readouterr().err
    assert "never change" in json.loads((tmp_path / "two" / CONFIG).read_text())["advice"][0]
    with pytest.warns(DataWarning, match="never change") as said:
        wrap(TD3BC(**SMALL)).fit(doubtful(), stop_after=4, **LONG)
    assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.parametrize(("row", "value"), [(3, 1e20), (17, -1e25)])
def test_a_run_lost_to_the_data_says_so(row, value):
    rewards = data().rewards.copy()
    rewards[row] = value
    agent, options = wrap(TD3BC(hidden=4)), LONG | {"steps": 60, "log_every": 60}
    warnings.simplefilter("ignore", DataWarning)
    message = rf"from the data: rewards reach .* row {row},"
    with pytest.warns(LostSeedWarning), pytest.raises(TrainingError, match=message):
        agent.fit(doubtful(rewards=rewards), **options)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "y" * 300 + "/below"])
def test_names_that_no_file_can_have_are_refused(name):
    agent = stack()
    with pytest.raises(FileError, match="cannot use .* as a name of a file or folder .*: name another"):
        agent.fit(data(), out=name, **LONG)
    with pytest.raises(FileError, match="cannot use"):
        at(2).save(name)
    with pytest.raises(FileError, match="cannot use"):
        load_agent(name)


@pytest.mark.parametrize(
    ("ours", "base", "folder"),
    [
        (None, None, "home/.cache/adaptive-constraints"),
        (None, "{top}/base", "base/adaptive-constraints"),
        (None, "no/absolute/path", "home/.cache/adaptive-constraints"),
        ("", "{top}/base", "base/adaptive-constraints"),
        ("{top}/ours", "{top}/base", "ours"),
        ("~/ours", None, "home/ours"),
    ],
)
def test_the_cache_folder_is_ours_by_name_or_within_that_of_the_system(ours, base, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, value in ((CACHE_VARIABLE, ours), ("XDG_CACHE_HOME", base)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value.format(top=tmp_path))
    assert cache_folder() == tmp_path / folder
