"""Loggers: what they are told and when, how they stop a run, and that none of them can lose one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import Logger, load_agent
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.runs import folder as run_folder
from adaptive_constraints.runs.folder import CHECKPOINT, CONFIG
from adaptive_constraints.support.records import MetricsLog, read_metrics

from .fault_kinds import ONLINE, Drift, data, learned, stack

RUN: dict[str, Any] = {
    "steps": 12,
    "seeds": (4, 7),
    "log_every": 5,
    "checkpoint_every": 10,
    "eval_env": Drift,
    "eval_every": 6,
    "eval_episodes": 2,
    "progress": False,
    "traced": False,
}
WATCHING = ["on_start", "on_log", "on_evaluation", "on_checkpoint", "on_end"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Without pictures, which take a second each."""
    monkeypatch.setattr(run_folder, "picture", lambda *_: None)


class Diary(Logger):
    """Keeps what it is told; asks for a stop, or raises, where ``answers`` has something for (method, step)."""

    def __init__(self, answers=None):
        self.told, self.answers = [], answers or {}

    def note(self, method, step, *more):
        self.told.append((method, step, *more))
        answer = self.answers.get((method, step), self.answers.get(method))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def on_start(self, config, history):
        self.config, self.history = config, history
        return self.note("on_start", history.steps)

    def on_log(self, step, metrics):
        self.metrics = metrics
        return self.note("on_log", step)

    def on_evaluation(self, evaluation):
        self.evaluation = evaluation
        return self.note("on_evaluation", evaluation.step)

    def on_checkpoint(self, step, path):
        return self.note("on_checkpoint", step, path.name, load_agent(path, "cpu").step)

    def on_end(self, history):
        return self.note("on_end", history.steps)


def fit(agent=None, **options):
    agent = agent or stack()
    agent.fit(data(), **RUN | options)
    return agent


def rows(folder):
    return [row | {"steps_per_second": 0} for row in read_metrics(folder / "metrics.jsonl")]


def test_they_are_told_in_order_and_what_the_files_say(tmp_path):
    diary = Diary()
    agent = fit(loggers=[Logger(), diary], out=tmp_path)
    assert diary.told == [
        ("on_start", 0),
        ("on_log", 5),
        ("on_evaluation", 6),
        ("on_log", 10),
        ("on_checkpoint", 10, CHECKPOINT, 10),
        ("on_log", 12),
        ("on_evaluation", 12),
        ("on_checkpoint", 12, CHECKPOINT, 12),
        ("on_end", 12),
    ]
    written = json.loads((tmp_path / CONFIG).read_text())
    assert diary.config == {name: value for name, value in written.items() if name != "digest"}
    assert diary.history is agent.history and diary.history.seeds == (4, 7)
    *_, row, _ = read_metrics(tmp_path / "metrics.jsonl")
    assert {name: values.tolist() for name, values in diary.metrics.items()} | {"step": 12} == row
    assert {values.shape for name, values in diary.metrics.items() if name != "steps_per_second"} == {(2,)}
    assert "aspc/scale" in diary.metrics and diary.evaluation.returns.shape == (2, 2)


def test_they_change_nothing_and_are_no_part_of_the_run(tmp_path):
    class Meddler(Logger):
        def on_log(self, step, metrics):
            for values in metrics.values():
                values += 1e9

    plain = fit()
    agent = fit(stop_after=8, out=tmp_path, loggers=[Meddler()])
    assert learned(fit(out=tmp_path, loggers=[Diary()])) == learned(plain) == learned(fit(agent, loggers=()))


@pytest.mark.parametrize("where", [("on_log", 5), ("on_log", 10), ("on_evaluation", 6), ("on_log", 12)])
@pytest.mark.parametrize("answer", [True, np.bool_(True)])
def test_one_may_stop_the_run_which_goes_on_bit_for_bit(tmp_path, capsys, where, answer):
    whole = fit(out=tmp_path / "whole")
    agent = fit(out=tmp_path / "parts", loggers=[Diary({where: answer})], progress=True)
    method, step = where
    said = capsys.readouterr().err
    assert agent.step == load_agent(tmp_path / "parts", "cpu").step == step
    asked = f"stopped at step {step} of 12, as Diary.{method} asked for: all of it is kept in {tmp_path / 'parts'}"
    assert (asked in said) == (step < 12)
    assert learned(fit(out=tmp_path / "parts")) == learned(whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_without_a_folder_the_agent_keeps_it():
    agent = fit(loggers=[Diary({("on_log", 5): True})])
    assert agent.step == 5
    assert learned(fit(agent)) == learned(fit())


def test_an_online_phase_is_stopped_too(tmp_path):
    def finetune(agent, **options):
        agent.finetune(Drift, log_every=2, dataset=data(), **ONLINE | options)
        return agent

    fit(out=tmp_path / "offline", eval_env=None)
    load = lambda: load_agent(tmp_path / "offline", "cpu")  # noqa: E731
    diary = Diary({("on_log", 16): True})
    parts = finetune(load(), loggers=[diary], out=tmp_path / "online")
    assert parts.step == 16 and diary.config["online"]["start"] == 12
    assert [event[:2] for event in diary.told[:3]] == [("on_start", 12), ("on_log", 14), ("on_log", 16)]
    assert learned(finetune(load(), out=tmp_path / "online")) == learned(finetune(load()))


@pytest.mark.parametrize("method", WATCHING)
@pytest.mark.parametrize("in_folder", [True, False])
def test_one_that_fails_loses_nothing(tmp_path, method, in_folder):
    if method == "on_checkpoint" and not in_folder:
        return
    out, agent, other = tmp_path / "run" if in_folder else None, stack(), Diary()
    step = {"on_start": 0, "on_log": 5, "on_evaluation": 6, "on_checkpoint": 10, "on_end": 12}[method]
    broken = Diary({method: ValueError("no disk")})
    where = "in this agent" if not out or not step else f"in {out / CHECKPOINT}"
    message = (
        rf"the logger's Diary\.{method} raised ValueError: no disk; the run stopped at step {step} of 12: .*{where}"
    )
    with pytest.raises(TrainingError, match=message) as raised:
        fit(agent, out=out, loggers=[broken, other])
    assert isinstance(raised.value.__cause__, ValueError)
    assert agent.step == step and broken.told[-1] == other.told[-1] == ("on_end", step)
    if in_folder and step:
        assert load_agent(out, "cpu").step == step
        assert other.told[-2][0] == "on_checkpoint" or method == "on_end"
    assert learned(fit(agent, out=out)) == learned(fit())


def test_a_full_disk_is_said_in_words_of_the_folder(tmp_path, monkeypatch):
    def full(log, step, values):
        raise OSError(28, "No space left on device")

    agent = stack()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", full)
        with pytest.raises(TrainingError, match=rf"metrics cannot be written to {tmp_path} \(.*No space left"):
            fit(agent, out=tmp_path)
    assert agent.step == 5 and learned(fit(agent, out=tmp_path)) == learned(fit())


def test_a_strange_answer_is_one_that_fails():
    with pytest.raises(TrainingError, match=r"Diary\.on_log raised TypeError: it returned 'stop', but True \(stop\)"):
        fit(loggers=[Diary({("on_log", 5): "stop"})])


def test_the_end_is_told_however_it_came():
    class Tired(Drift):
        def step(self, action):
            raise RuntimeError("tired")

    diary = Diary()
    with pytest.raises(Exception, match="tired"):
        fit(eval_env=Tired, loggers=[diary])
    assert diary.told[-1] == ("on_end", 6)


@pytest.mark.parametrize("loggers", [Diary(), [Diary], ["wandb"], None])
def test_what_is_no_list_of_loggers_is_refused(loggers):
    with pytest.raises(TrainingError, match="fit: loggers must be a list of Loggers, not"):
        fit(loggers=loggers)
