"""Bench runs: rows, resuming after every kind of end, failures, and what is said meanwhile."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.cli.entry import parse
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import FileError, SuiteError, TrainingError
from adaptive_constraints.experiments import board, cell
from adaptive_constraints.experiments.results import ResultsFolder
from adaptive_constraints.experiments.rows import ROWS, read_rows, read_suite
from adaptive_constraints.experiments.runner import RETRIES, LocalWorkers, bench
from adaptive_constraints.experiments.stacks import read_stack
from adaptive_constraints.experiments.suite import narrow
from adaptive_constraints.runs.history import History
from adaptive_constraints.support.files import locked

from .benching import HERE, InlineWorkers, same, tiny_suite


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def undisturbed(suite, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        return bench(suite, suite.cells, tmp_path_factory.mktemp("out"), InlineWorkers(), progress=False)


def test_one_row_per_stack_data_and_seed(undisturbed, suite):
    rows = read_rows(undisturbed.folder)
    assert rows == undisturbed.rows
    assert [(row["stack"], row["seed"]) for row in rows] == [
        (stack, seed) for stack in (suite.cells[0].stack, suite.cells[1].stack) for seed in (0, 1)
    ]
    row = rows[3]
    assert row["adapters"] == ["FixedTradeoff"]
    assert row["learner"] == "TD3BC(batch_size=16, hidden=8)"
    assert (row["steps"], row["step"], row["lost"], row["measure"]) == (60, 60, None, "return")
    assert [evaluation["step"] for evaluation in row["evaluations"]] == [10, 20, 30, 40, 50, 60]
    values = [evaluation["value"] for evaluation in row["evaluations"]]
    assert (row["last"], row["best"], row["last_ten"]) == pytest.approx((values[-1], max(values), np.mean(values)))
    assert all(
        np.mean(evaluation["returns"]) == pytest.approx(evaluation["value"]) for evaluation in row["evaluations"]
    )
    assert row["data"]["rows"] == 195
    assert row["peak_memory"] > 50e6
    assert row["wall_seconds"] >= row["seconds"] > 0
    assert row["series"] == {}  # neither stack has an adaptive quantity
    assert read_suite(undisturbed.folder)["cells"][0]["seeds"] == [0, 1]


def test_twins_are_paired(undisturbed):
    bare, twin = undisturbed.rows[:2], undisturbed.rows[2:]
    assert [row["evaluations"] for row in bare] == [row["evaluations"] for row in twin]
    assert bare[0]["evaluations"] != bare[1]["evaluations"]


def test_the_command_of_a_row_is_that_cell(undisturbed, suite):
    words = shlex.split(undisturbed.rows[2]["command"])
    assert words[0] == "adaptive-constraints"
    train: Any = parse(words[1:])
    assert (train.data, train.steps, train.seeds) == (suite.cells[1].data, 60, 2)
    line = " ".join(train.learner) + " + " + " ".join(train.adapters)
    assert read_stack(line).stack.to_spec() == suite.cells[1].spec


@pytest.mark.slow
def test_killed_in_mid_suite_and_resumed_the_rows_are_the_same(suite, undisturbed, tmp_path, monkeypatch):
    file, out, marker = str(Path(suite.cells[0].data[4:]).parent / "tiny.toml"), tmp_path / "out", tmp_path / "marker"
    words = ["bench", file, "--imports", "fatal_env", "--out", str(out), "--device", "cpu", "--quiet"]
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
    deadly = {"PYTHONPATH": paths, "FATAL_MARKER": str(marker), "FATAL_PARENT": "yes"}
    killed = subprocess.run(
        [sys.executable, "-m", "adaptive_constraints", *words], env=os.environ | deadly, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    until = time.monotonic() + 10
    while Path(f"/proc/{marker.read_text()}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{marker.read_text()}").exists(), "the worker outlived the process that started it"
    first = out / "cells" / suite.cells[0].id
    assert (first / "checkpoint.npz").is_file()
    assert not (first / ROWS).exists()
    assert main(words) == 0
    assert same(read_rows(out)) == same(undisturbed.rows)
    assert json.loads((first / cell.SESSION).read_text())["before"] > 0  # it went on rather than beginning again
    assert not list(first.glob(".*.*"))


def test_finished_cells_are_skipped_and_others_join_them(suite, undisturbed, tmp_path):
    one, both = InlineWorkers(), InlineWorkers()
    bench(suite, narrow(suite.cells, where=["adapter=none"]), tmp_path, one, progress=False)
    outcome = bench(suite, narrow(suite.cells, where=["adapter=fixed*"]), tmp_path, both, progress=False)
    assert [one.started, both.started] == [[suite.cells[0].id], [suite.cells[1].id]]
    assert same(outcome.rows) == same(undisturbed.rows)
    again = InlineWorkers()
    bench(suite, suite.cells, tmp_path, again, progress=False)
    assert not again.started


def test_published_figures_of_several_calls_add_up(suite, tmp_path):
    figures = [
        {"data": suite.cells[0].data, "stack": name, "score": 1.0, "spread": None, "source": "a paper"} for name in "ab"
    ]
    for published in ([figures[0]], figures, []):
        bench(replace(suite, published=tuple(published)), suite.cells[:1], tmp_path, InlineWorkers(), progress=False)
    assert sorted(figure["stack"] for figure in read_suite(tmp_path)["published"]) == ["a", "b"]


def test_other_settings_in_the_same_folder_are_refused(suite, undisturbed):
    cells, workers = narrow(suite.cells, steps=80, seeds=[3]), InlineWorkers()
    with pytest.raises(SuiteError, match=r"seeds \[0, 1\] there, \[3\] here; steps 60 there, 80 here\) \(and 1 more\)"):
        bench(suite, cells, undisturbed.folder, workers, progress=False)
    assert workers.closed
    with locked(undisturbed.folder), pytest.raises(FileError, match="is in use: process"):
        bench(suite, suite.cells, undisturbed.folder, InlineWorkers(), progress=False)


def test_a_failure_stops_no_other_cell_and_is_tried_again(tmp_path, capsys, monkeypatch):
    suite = tiny_suite(tmp_path, 'stacks = ["TD3BC hidden=8 critic_learning_rate=1e30"]')
    monkeypatch.setattr("adaptive_constraints.cli.bench.Bench.make_workers", lambda self: InlineWorkers())
    words = ["bench", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out"), "--where", "adapter=none"]
    words += ["--imports", "fatal_env"]
    data = tmp_path / "random.npz"
    data.rename(tmp_path / "away.npz")
    assert main(words) == 2
    said = capsys.readouterr()
    assert "FAILED: no file" in said.out
    assert said.err.count("failed: npz-") == 2
    assert not read_rows(tmp_path / "out")
    (tmp_path / "away.npz").rename(data)
    assert main(words) == 2
    said = capsys.readouterr()
    assert "all seeds of TD3BC are lost" in said.err
    assert "1 of 2 cells done, 0 running, 0 left, 1 failed" in said.out
    assert {row["cell"] for row in read_rows(tmp_path / "out")} == {suite.cells[1].id}


def test_a_lost_worker_is_recorded(suite, tmp_path):
    workers = InlineWorkers(suite.cells[0].id)
    outcome = bench(suite, suite.cells[:1], tmp_path, workers, progress=False)
    assert outcome.failed == {suite.cells[0].id: "its worker was lost"}


def test_a_local_worker_that_dies_is_started_again(suite, tmp_path, monkeypatch):
    started = []

    def dying(self, folder):
        started.append(folder)
        return subprocess.Popen([sys.executable, "-Sc", "import os; os.kill(os.getpid(), 9)"], stdin=subprocess.PIPE)

    monkeypatch.setattr(LocalWorkers, "start_process", dying)
    outcome = bench(suite, suite.cells[:1], tmp_path, LocalWorkers(), progress=False)
    assert len(started) == RETRIES + 1
    (reason,) = outcome.failed.values()
    assert "by signal 9 (9: killed, perhaps for lack of memory), 3 times" in reason
    with pytest.raises(TrainingError, match="workers must be at least 1, not 0"):
        LocalWorkers(0)


def test_ctrl_c_closes_the_workers(suite, tmp_path, monkeypatch, capsys):
    class Interrupted(InlineWorkers):
        def ended(self, seconds):
            raise KeyboardInterrupt

    workers = Interrupted()
    monkeypatch.setattr("adaptive_constraints.cli.bench.Bench.make_workers", lambda self: workers)
    file = Path(suite.cells[0].data[4:]).parent / "tiny.toml"
    words = ["bench", str(file), "--out", str(tmp_path), "--where", "adapter=none", "--imports", "fatal_env"]
    assert main(words) == 130
    assert workers.closed
    assert "interrupted: the same command goes on" in capsys.readouterr().err
    assert len(read_rows(tmp_path)) == len(suite.cells[0].seeds), "of the cell that finished before its end was seen"


def test_a_lost_seed_has_no_score(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "adaptive_constraints.engine.metrics.Metrics.failures", lambda self: {1: Failure(7, "critic/loss")}
    )
    with pytest.warns(UserWarning, match="seed 1 is lost"):
        outcome = bench(suite, suite.cells[:1], tmp_path, InlineWorkers(), progress=False)
    good, bad = outcome.rows
    assert good["lost"] is None
    assert bad["lost"] == {"step": 7, "term": "critic/loss"}
    assert [bad["last"], bad["best"], bad["last_ten"]] == [None] * 3
    assert len(bad["evaluations"]) == 6
    heads, lines = board.score_table(outcome.rows)
    assert lines == [[good["stack"], f"{good['last']:.1f}"]]
    assert heads == ["stack", good["data"]["reference"]]


def test_long_series_are_thinned():
    history = History(metrics=[{"step": t, "x/y": [t, -t]} for t in range(1, 1001)])
    steps, values = cell.thinned_series(history, "x/y", 1)
    assert len(steps) == cell.POINTS
    assert (steps[0], steps[-1], values[-1]) == (1, 1000, -1000)


def test_a_terminal_shows_a_live_table(suite, undisturbed, monkeypatch):
    from rich.console import Console
    from rich.live import Live

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, height=20)
    monkeypatch.setattr(board, "live_table", lambda: Live(console=console, auto_refresh=False))
    results = ResultsFolder(undisturbed.folder, suite, suite.cells, "")
    with board.Board(results, True) as shown:
        shown.started(suite.cells[1])
        shown.update()
        shown.ended(suite.cells[1])
    text = screen.getvalue()
    assert "2 of 2 cells done, 0 running, 0 left" in text
    assert "TD3BC(batch_size=16, hidden=8) + FixedTradeoff" in text
    last = [row["last"] for row in undisturbed.rows[:2]]
    assert f"{np.mean(last):.1f} +- {np.std(last, ddof=1):.1f}" in text


def test_a_running_cell_shows_its_last_row_and_evaluation(suite, tmp_path):
    results = ResultsFolder(tmp_path, suite, suite.cells[:1], "")
    assert results.status(suite.cells[0]).state == "waiting"
    folder = results.of(suite.cells[0])
    (folder / cell.SESSION).touch()
    assert results.status(suite.cells[0])[:3] == ("begun", 0, "")
    rows = [
        {"step": 1, "eval/return": [9.0, 9.0]},
        {"step": 2, "eval/return": [3.0, None]},
        {"step": 3},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert results.status(suite.cells[0]) == ("begun", 3, "return", (3.0,), "")


def test_results_that_are_none_are_refused(tmp_path, undisturbed):
    with pytest.raises(TrainingError, match=r"no folder of bench results"):
        read_rows(tmp_path)
    (tmp_path / ROWS).write_text('{"suite": "x"}\n')
    with pytest.raises(TrainingError, match=r"line 1 is no row of results"):
        read_rows(tmp_path)
