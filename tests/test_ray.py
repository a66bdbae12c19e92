"""The same cells on Ray give the same rows, though a worker is killed."""

from __future__ import annotations

import json
import os

import pytest

from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.experiments.cell import SESSION
from adaptive_constraints.experiments.ray_runner import RayWorkers
from adaptive_constraints.experiments.runner import bench

from .benching import HERE, InlineWorkers, same, tiny_suite


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ray's own
def test_a_killed_ray_worker_changes_no_row(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    suite, marker = tiny_suite(tmp_path), tmp_path / "marker"
    monkeypatch.syspath_prepend(HERE)
    expected = bench(suite, suite.cells, tmp_path / "inline", InlineWorkers(), progress=False)
    monkeypatch.setenv("FATAL_MARKER", str(marker))
    workers = RayWorkers(device="cpu")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    outcome = bench(suite, suite.cells, tmp_path / "ray", workers, progress=False)
    assert not ray.is_initialized()
    assert not outcome.failed
    assert same(outcome.rows) == same(expected.rows)
    assert int(marker.read_text()) != os.getpid()
    sessions = [json.loads(path.read_text()) for path in (tmp_path / "ray" / "cells").glob(f"*/{SESSION}")]
    assert sorted(session["before"] > 0 for session in sessions) == [False, True]


@pytest.mark.filterwarnings("ignore")
def test_what_ray_does_not_have_is_said(monkeypatch):
    pytest.importorskip("ray")
    with pytest.raises(TrainingError, match=r"there is no Ray cluster at 127.0.0.1:1 "):
        RayWorkers("127.0.0.1:1")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'adaptive-constraints\[ray\]'"):
        RayWorkers()
