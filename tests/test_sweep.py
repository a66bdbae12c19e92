"""The example of a sweep runs, resumes, and takes up a trial that was cut off."""

from __future__ import annotations

import json
import sys

import pytest

from .test_examples import ROOT, load

optuna = pytest.importorskip("optuna", reason="needs optuna, of the extra sweep")
pytest.importorskip("mujoco", reason="needs mujoco, of the extra mujoco")

SMALL = {"steps": 4, "seeds": 2, "hidden": 8}


@pytest.fixture
def sweep():
    yield load(ROOT / "examples" / "sweep.py", "example_sweep")
    del sys.modules["example_sweep"]


def test_a_sweep_resumes_and_a_trial_that_was_cut_off_goes_on_in_its_folder(sweep, tmp_path, capsys, monkeypatch):
    first = sweep.main(trials=1, out=tmp_path, **SMALL).trials
    assert [trial.state.name for trial in first] == ["COMPLETE"]
    assert sorted(first[0].intermediate_values) == [1, 2, 3, 4]
    config = json.loads((tmp_path / "trial-0" / "config.json").read_text())
    assert (config["steps"], config["seeds"]) == (4, [0, 1])

    monkeypatch.setattr(optuna.Trial, "report", cut_off)
    with pytest.raises(SystemExit):
        sweep.main(trials=2, out=tmp_path, **SMALL)
    monkeypatch.undo()
    study = sweep.main(trials=2, out=tmp_path, **SMALL)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    lost, again = study.trials[1:]
    assert (again.params, again.user_attrs) == (lost.params, {"folder": "trial-1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db", "trial-0", "trial-1"]

    assert len(sweep.main(trials=2, out=tmp_path, **SMALL).trials) == 3
    assert capsys.readouterr().out.count("best of 2 trials: ") == 2


def cut_off(trial, value, step):
    """As if the process had been killed: the trial stays as it is."""
    raise SystemExit


def test_a_trial_that_falls_behind_is_pruned(sweep, tmp_path):
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1e9))
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned):
        sweep.score(trial, sweep.stack(trial, hidden=8), sweep.load_dataset("bundled:hopper"), tmp_path, 4, 1)
    assert list(study.trials[0].intermediate_values) == [1]
    assert (tmp_path / "trial-0" / "config.json").is_file()
