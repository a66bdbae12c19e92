"""Ctrl-C and SIGTERM: all is saved first, it is said where, and going on gives the bits of never having stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import SSAR, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import save_npz
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.experiments.cell import SESSION
from adaptive_constraints.experiments.rows import ROWS, read_rows
from adaptive_constraints.pretraining import model_fit
from adaptive_constraints.pretraining import resume as pretraining
from adaptive_constraints.runs import folder as run_folder
from adaptive_constraints.runs.folder import CHECKPOINT
from adaptive_constraints.support import stopping
from adaptive_constraints.support.records import read_metrics
from adaptive_constraints.support.stopping import Terminated, terminable

from .benching import HERE, tiny_suite
from .fault_kinds import ONLINE, SMALL, Drift, data, learned, stack

RUN: dict[str, Any] = {"steps": 12, "seeds": 2, "log_every": 5, "progress": False, "traced": False}
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Without pictures, which take a second each."""
    monkeypatch.setattr(run_folder, "picture", lambda *_: None)


@pytest.fixture(autouse=True)
def usual_handlers():
    """Python's own, whatever a test before has installed in this process, such as Ray's."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signalled():
    """``signalled(number, calls, *owner_and_name)`` sends a signal after so many calls of a method."""
    patch = pytest.MonkeyPatch()

    def install(number: int, calls: int, owner: type, name: str, times: int = 1) -> pytest.MonkeyPatch:
        method, done = getattr(owner, name), []

        def counted(self, *args, **kwargs):
            done.append(None)
            if len(done) == calls:
                for _ in range(times):
                    signal.raise_signal(number)
            return method(self, *args, **kwargs)

        patch.setattr(owner, name, counted)
        return patch

    yield install
    patch.undo()


def rows(folder: Path) -> list[dict[str, object]]:
    return [row | {"steps_per_second": 0} for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("step", [1, 5, 12])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, signalled, capsys, number, step):
    whole, parts = stack(), stack()
    whole.fit(data(), out=tmp_path / "whole", **RUN)
    sent = signalled(number, step, Engine, "run")
    with pytest.raises(ENDS[number]) as stopped, terminable():
        parts.fit(data(), out=tmp_path / "parts", **RUN)
    sent.undo()
    said = f"{stopped.value}{capsys.readouterr().err}"
    assert f"stopped at step {step} of 12: all of it is kept in {tmp_path / 'parts' / CHECKPOINT}" in said
    assert parts.step == load_agent(tmp_path / "parts", "cpu").step == step
    parts.fit(data(), out=tmp_path / "parts", **RUN)
    assert learned(parts) == learned(whole) and rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_a_folder_the_agent_keeps_it(signalled):
    whole, parts = stack(), stack()
    whole.fit(data(), **RUN)
    sent = signalled(signal.SIGINT, 7, Engine, "run")
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12: all of it is kept in this agent"):
        parts.fit(data(), **RUN)
    sent.undo()
    assert parts.step == 7 and np.isfinite(parts.act(np.zeros(3))).all()
    parts.fit(data(), **RUN)
    assert learned(parts) == learned(whole)


def test_a_second_one_does_not_wait(tmp_path, signalled):
    """In the middle of a step nothing can be kept but what was."""
    agent = stack()
    agent.fit(data(), stop_after=3, out=tmp_path, **RUN)
    signalled(signal.SIGINT, 4, Engine, "run", times=2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        agent.fit(data(), out=tmp_path, **RUN)
    assert not str(stopped.value) and agent.step == 3 and load_agent(tmp_path, "cpu").step == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("calls", "step"), [(1, 5), (9, 5), (17, 10), (40, 12)])
def test_an_evaluation_is_broken_off_and_made_up_for(tmp_path, signalled, calls, step):
    options: dict[str, Any] = RUN | {"eval_env": Drift, "eval_every": 5, "eval_episodes": 2}
    whole, parts = stack(), stack()
    whole.fit(data(), out=tmp_path / "whole", **options)
    sent = signalled(signal.SIGINT, calls, Drift, "step")
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of 12"):
        parts.fit(data(), out=tmp_path / "parts", **options)
    sent.undo()
    assert parts.history.unevaluated == step
    assert [evaluation.step for evaluation in parts.history.evaluations] == [at for at in (5, 10) if at < step]
    again = stack()
    again.fit(data(), out=tmp_path / "parts", **options)
    assert learned(again) == learned(whole) and rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert load_agent(tmp_path / "parts", "cpu").history.unevaluated is None


@pytest.mark.parametrize("calls", [2, 5, 6, 14])
def test_an_online_phase_is_stopped_between_two_steps(tmp_path, signalled, calls):
    """The first three steps of each of two seeds are the warm-up."""
    for name in ("whole", "parts"):
        agent = stack()
        agent.fit(data(), stop_after=4, **RUN)
        agent.save(tmp_path / f"{name}.npz")
    load = lambda name: load_agent(tmp_path / f"{name}.npz", "cpu")  # noqa: E731
    options: dict[str, Any] = ONLINE | {"log_every": 2, "dataset": data()}
    whole, parts = load("whole"), load("parts")
    whole.finetune(Drift, out=tmp_path / "whole", **options)
    sent = signalled(signal.SIGINT, calls, Drift, "step")
    with pytest.raises(KeyboardInterrupt, match="stopped at step"):
        parts.finetune(Drift, out=tmp_path / "parts", **options)
    sent.undo()
    assert parts.run.online.collector.steps == (calls + 1) // 2
    again = load("parts")
    again.finetune(Drift, out=tmp_path / "parts", **options)
    assert learned(again) == learned(whole) and rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_model_in_training_is_kept_too(tmp_path, signalled, monkeypatch):
    monkeypatch.setattr(pretraining, "PORTION", 7)

    def fit(name):
        monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / f"{name} cache"))
        agent = wrap(TD3BC(**SMALL), SSAR(select="advantage", selection_steps=40, hidden=8))
        agent.fit(data(), out=tmp_path / name, **RUN)
        return learned(agent)

    whole = fit("whole")
    sent = signalled(signal.SIGINT, 3, model_fit.EngineFit, "run")
    with pytest.raises(KeyboardInterrupt, match="stopped while a model was trained: .*half-trained"):
        fit("parts")
    sent.undo()
    assert [path.name for path in (tmp_path / "parts cache").iterdir()], "the half-trained model"
    assert not (tmp_path / "parts").exists()
    assert fit("parts") == whole


def test_a_handler_of_the_program_s_own_stays_in_charge(tmp_path, signalled):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("int"))
    try:
        signalled(signal.SIGINT, 3, Engine, "run")
        agent = stack()
        agent.fit(data(), out=tmp_path, **RUN)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["int"] and agent.step == 12


def test_another_thread_is_not_stopped(tmp_path):
    agent = stack()
    thread = threading.Thread(target=lambda: agent.fit(data(), out=tmp_path, **RUN))

    def stopped():
        with stopping.stoppable(saving=True):
            signal.raise_signal(signal.SIGINT)
            thread.start()
            thread.join()

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert agent.step == 12


# -- processes --------------------------------------------------------------------------------------------------------


def process(*words: str) -> subprocess.Popen:
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
    return subprocess.Popen(
        [sys.executable, "-m", "adaptive_constraints", *words],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def until(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_train_saves_and_says_how_to_go_on(tmp_path, number, code):
    save_npz(data(), tmp_path / "data.npz")
    learner = (
        "--learner",
        "TD3BC",
        "hidden=4",
        "batch_size=4",
        "--steps",
        "1000000",
        "--log-every",
        "50",
        "--compiled",
        "off",
    )
    out = tmp_path / "run"
    words = ("train", "--data", f"npz:{tmp_path / 'data.npz'}", *learner, "--out", str(out), "--eval-env", "none")
    run = process(*words, "--device", "cpu")
    until(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size)
    run.send_signal(number)
    _, said = run.communicate()
    assert run.returncode == code
    step = load_agent(out, "cpu").step
    assert step > 50 and f"stopped at step {step} of 1000000" in said and "Traceback" not in said
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_workers_of_a_bench_save_first(tmp_path):
    suite, out = tiny_suite(tmp_path), tmp_path / "out"
    words = ("bench", str(tmp_path / "tiny.toml"), "--steps", "2000", "--where", "adapter=none", "--out", str(out))
    run = process(*words, "--device", "cpu", "--quiet", "--imports", "fatal_env")
    cell = out / "cells" / suite.cells[0].id
    until(lambda: (cell / "metrics.jsonl").is_file() and (cell / "metrics.jsonl").stat().st_size)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate()
    assert run.returncode == 143 and "the same command goes on" in said
    last = read_metrics(cell / "metrics.jsonl")[-1]["step"]
    assert load_agent(cell, "cpu").step >= last > 0 and "stopped at step" in (cell / "log.txt").read_text()
    assert (cell / SESSION).is_file() and not (cell / ROWS).exists() and not read_rows(out)
