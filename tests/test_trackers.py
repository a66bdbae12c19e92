"""Weights & Biases and trackio: the calls that they get, held to the rules that the real ones have."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import Logger, TrackerLogger
from adaptive_constraints.cli import main
from adaptive_constraints.data import save_npz
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.runs import folder as run_folder
from adaptive_constraints.runs.history import History

from .fault_kinds import data, stack
from .test_loggers import RUN

CONFIG: dict[str, Any] = {
    "stack": {"learner": {"type": "TD3BC"}, "adapters": [{"type": "ASPC"}]},
    "data": {"name": "npz:/some/where/few.npz", "fingerprint": "0123"},
    **dict.fromkeys(["steps", "seeds", "precision", "compiled", "online"]),
}


class Tracker(SimpleNamespace):
    """A module of either kind, whose runs stay there by what the real one finds them by."""

    def __init__(self, kind):
        super().__init__(kind=kind, runs={}, inits=[])

    def init(self, *, project, name, config, id=None, resume=None, **more):
        assert json.dumps(config) and project and name
        assert (id is None) == (self.kind == "trackio")
        self.inits.append({"project": project, "name": name, "id": id, "resume": resume, "config": config, **more})
        key = (project, id or name)
        if resume == "allow" and key in self.runs:
            return self.runs[key].again()
        assert resume in {"trackio": ("allow", "never"), "wandb": ("allow", None)}[self.kind]
        if self.kind == "trackio" and key in self.runs:
            key = (project, f"made-up-{len(self.runs)}")
        self.runs[key] = Board(self.kind)
        return self.runs[key]


class Board:
    """One run of a tracker."""

    def __init__(self, kind):
        self.kind, self.rows, self.finished = kind, [], False
        if kind == "wandb":
            self.step = 0

    def again(self):
        """Weights & Biases goes on after the last step; trackio has no such rule."""
        assert self.finished
        self.finished = False
        if self.kind == "wandb":
            self.step += 1
        return self

    def log(self, values, step):
        assert not self.finished and type(step) is int
        assert all(type(value) is float for value in values.values())
        assert not set(values) & {"project", "run", "timestamp", "step", "time", "metrics"}
        if self.kind == "wandb":
            assert step >= self.step, "which would be dropped"
            self.step = step
        self.rows.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    module = Tracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setattr(run_folder, "picture", lambda *_: None)
    return module


def logger(tracker, **options):
    return TrackerLogger(tracker.kind, **{"project": "few"} | options)


def fit(**options):
    agent = stack()
    agent.fit(data(), **RUN | options)
    return agent


def test_it_gets_means_and_every_seed_evaluations_and_config(tracker):
    agent = fit(loggers=[logger(tracker, name="one", group="all")])
    (begun,), (board,) = tracker.inits, tracker.runs.values()
    assert (begun["project"], begun["name"].split(" (")[0], begun["group"]) == ("few", "one", "all")
    assert begun["config"]["seeds"] == [4, 7] and begun["config"]["evaluation"]["every"] == 6
    assert board.finished and [step for step, _ in board.rows] == [5, 6, 10, 12, 12]
    steps, values = agent.history.series("critic/loss")
    assert [(step, row["critic/loss/seed7"]) for step, row in board.rows if "critic/loss" in row] == [
        *zip(steps.tolist(), values[:, 1].tolist(), strict=True)
    ]
    assert board.rows[0][1]["critic/loss"] == pytest.approx(values[0].mean())
    assert board.rows[0][1]["steps_per_second"] > 0 and "steps_per_second/seed4" not in board.rows[0][1]
    evaluated = agent.history.evaluations[-1].mean_return
    last = board.rows[-1][1]
    assert (last["eval/return"], last["eval/return/seed4"]) == (pytest.approx(evaluated.mean()), evaluated[0])


def test_a_lost_seed_does_not_count(tracker):
    history = History((4, 7), failures={4: Failure(3, "critic/loss")})
    watching = logger(tracker)
    watching.on_start(CONFIG, history)
    watching.on_log(5, {"critic/loss": np.array([np.nan, 2.0]), "steps_per_second": np.array(3.0)})
    watching.on_evaluation(Evaluation(5, np.ones((2, 3)), None, np.array([[False] * 3, [True, False, True]])))
    history.failures[7] = Failure(4, "critic/loss")
    watching.on_log(6, {"critic/loss": np.full(2, np.nan), "steps_per_second": np.array(3.0)})
    (board,) = tracker.runs.values()
    assert board.rows[0] == (5, {"critic/loss": 2.0, "critic/loss/seed7": 2.0, "steps_per_second": 3.0})
    assert board.rows[1][1]["eval/success"] == pytest.approx(200 / 3) and "eval/success/seed4" not in board.rows[1][1]
    assert board.rows[2] == (6, {"steps_per_second": 3.0})
    assert tracker.inits[0]["name"].startswith("TD3BC + ASPC on npz:few.npz")


def test_a_run_that_goes_on_goes_on_there(tracker, tmp_path):
    """Stopped at 8, and once more killed after 10 was logged: what is trained again is not logged twice."""

    class Killed(Logger):
        def on_log(self, step, metrics):
            if step == 12:
                raise KeyboardInterrupt

    fit(stop_after=8, out=tmp_path, checkpoint_every=100, loggers=[logger(tracker)])
    with pytest.raises(KeyboardInterrupt):
        fit(out=tmp_path, checkpoint_every=100, loggers=[logger(tracker), Killed()])
    fit(out=tmp_path, checkpoint_every=100, loggers=[logger(tracker)])
    assert [begun["resume"] for begun in tracker.inits][1:] == ["allow", "allow"]
    (board,) = tracker.runs.values()
    again = [10, 12, 12] if tracker.kind == "trackio" else [13, 13]
    assert [step for step, _ in board.rows] == [5, 6, 10, 12, *again]
    assert "eval/return" in board.rows[-1][1], "which had not come before"
    assert board.finished


def test_an_evaluation_that_is_made_up_for_is_logged(tracker):
    """At the very step at which the run stopped, which Weights & Biases would drop."""
    first, second = logger(tracker), logger(tracker)
    first.on_start(CONFIG, History((0,)))
    first.on_log(5, {"critic/loss": np.ones(1)})
    first.on_end(History((0,)))
    second.on_start(CONFIG, History((0,), steps=5))
    second.on_evaluation(Evaluation(5, np.ones((1, 2))))
    (board,) = tracker.runs.values()
    assert [step for step, _ in board.rows] == [5, 6 if tracker.kind == "wandb" else 5]


def test_a_run_that_begins_anew_begins_anew_there(tracker):
    fit(loggers=[logger(tracker, name="one")])
    fit(loggers=[logger(tracker, name="one")])
    assert {begun["resume"] for begun in tracker.inits} == {"never" if tracker.kind == "trackio" else None}
    fit(seeds=1, loggers=[logger(tracker, name="one")])
    fit(loggers=[logger(tracker, name="two")])
    found_by = [begun["id"] or begun["name"] for begun in tracker.inits]
    assert found_by[0] == found_by[1] and len({*found_by}) == 3
    assert len(tracker.runs) == (3 if tracker.kind == "wandb" else 4), "trackio replaces none"


def test_a_run_is_found_again_from_another_folder_but_not_by_another(tracker):
    """Not the file's name as it was typed, but what is in it, tells which run it is."""
    names = ["npz:few.npz", "npz:../few.npz"]
    configs = [CONFIG | {"data": {"name": name, "fingerprint": "0123"}} for name in names]
    configs += [CONFIG | {"data": {"name": names[0], "fingerprint": "4567"}}]
    for config in configs:
        logger(tracker).on_start(config, History((0,)))
    found_by = [begun["id"] or begun["name"] for begun in tracker.inits]
    assert found_by[0] == found_by[1] != found_by[2]


def test_data_sets_are_told_apart_in_names(tracker):
    for name in ("minari:D4RL/door/human-v2", "minari:D4RL/pen/human-v2"):
        logger(tracker).on_start(CONFIG | {"data": {"name": name, "fingerprint": name}}, History((0,)))
    assert [begun["name"].split(" (")[0] for begun in tracker.inits] == [
        "TD3BC + ASPC on minari:D4RL/door/human-v2",
        "TD3BC + ASPC on minari:D4RL/pen/human-v2",
    ]


@pytest.mark.parametrize("module", ["wandb", "trackio"])
def test_a_missing_module_names_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=rf"pip install 'adaptive-constraints\[{module}\]'"):
        TrackerLogger(module, project="p")


def test_wrong_arguments_are_refused(tracker):
    takes = "takes 'wandb' or 'trackio' and the name of a project, not"
    with pytest.raises(TrainingError, match=f"{takes} 'mlflow' and 'p'"):
        TrackerLogger("mlflow", project="p")
    for project in (None, ""):
        with pytest.raises(TrainingError, match=f"{takes} '{tracker.kind}' and {project!r}"):
            TrackerLogger(tracker.kind, project=project)


def test_the_command_line_tracks(tracker, tmp_path, capsys):
    save_npz(data(), tmp_path / "few.npz")
    words = ["train", "--data", f"npz:{tmp_path / 'few.npz'}", "--learner", "TD3BC", "hidden=4", "batch_size=4"]
    words += ["--steps", "4", "--eval-env", "none", "--device", "cpu", "--quiet", "--out", str(tmp_path / "first")]
    assert main([*words, "--track", f"{tracker.kind}:hopper"]) == 0
    (begun,) = tracker.inits
    assert (begun["project"], begun["name"].split(" (")[0]) == ("hopper", "first")
    for wrong in ("hopper", "mlflow:hopper", f"{tracker.kind}:"):
        assert main([*words, "--track", wrong]) == 2
        assert f"--track takes wandb:PROJECT or trackio:PROJECT, not '{wrong}'" in capsys.readouterr().err
