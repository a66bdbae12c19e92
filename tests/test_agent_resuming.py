"""A run that stopped goes on bit for bit, from a file, a folder or after a kill, and in no other place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import load_agent
from adaptive_constraints.errors import CheckpointError, TrainingError
from adaptive_constraints.runs.folder import CHECKPOINT

from .agents import aspc_on_td3bc, assert_same, fit, make_data


@pytest.fixture
def stack():
    return aspc_on_td3bc()


def test_stop_save_load_go_on_equals_an_undisturbed_run(stack, tmp_path):
    whole, half = stack.untrained(), stack.untrained()
    history = fit(whole, traced=True)
    fit(half, stop_after=31, traced=True)
    half.save(tmp_path / "half.npz")
    rest = load_agent(tmp_path / "half.npz", device="cpu")
    assert rest.step == 31
    assert fit(rest, traced=True).metrics == history.metrics
    assert_same(whole, rest)


def test_a_run_folder_goes_on_where_it_stood(stack, tmp_path):
    whole, parts = stack.untrained(), stack.untrained()
    fit(whole, out=tmp_path / "whole")
    fit(parts.untrained(), out=tmp_path / "parts", stop_after=25)
    fit(parts, out=tmp_path / "parts")
    assert_same(whole, parts)
    rows = [Path(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    without_speed = [
        [{k: v for k, v in json.loads(r).items() if k != "steps_per_second"} for r in lines] for lines in rows
    ]
    assert without_speed[0] == without_speed[1]
    fit(parts, out=tmp_path / "elsewhere")
    moved = (tmp_path / "elsewhere" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in moved] == [json.loads(row) for row in rows[1]], "the whole history"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from agents import aspc_on_td3bc, fit
fit(aspc_on_td3bc(), steps=100_000, checkpoint_every=20, out={out!r}, traced=True, compiled=False)
"""


def test_a_killed_run_goes_on_bit_for_bit(stack, tmp_path):
    out = tmp_path / "run"
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 90
    while not (out / CHECKPOINT).is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = load_agent(out, device="cpu").step
    assert step >= 20
    killed, whole = stack.untrained(), stack.untrained()
    stop: dict[str, Any] = {"steps": 100_000, "stop_after": step + 25, "traced": True, "compiled": False}
    fit(killed, out=out, **stop)
    fit(whole, **stop)
    assert_same(killed, whole)


def test_a_loaded_agent_acts_as_the_saved_one(stack, tmp_path):
    fit(stack)
    stack.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz", device="cpu")
    observations = make_data().observations[:5]
    for seed in (0, 1):
        np.testing.assert_array_equal(loaded.act(observations, seed=seed), stack.act(observations, seed=seed))
    np.testing.assert_allclose(loaded.act(observations[0]), stack.act(observations)[0], rtol=1e-5)
    assert repr(loaded) == repr(stack)


def test_another_training_is_refused(stack, tmp_path):
    fit(stack, out=tmp_path)
    with pytest.raises(CheckpointError, match="this agent holds another training.*steps 60 there, 70 here.*untrained"):
        fit(stack, steps=70)
    with pytest.raises(CheckpointError, match="seeds.*another folder"):
        fit(stack.untrained(), seeds=[5], out=tmp_path)
    with pytest.raises(CheckpointError, match="stack"):
        fit(stack.without("aspc"), out=tmp_path)
    with pytest.raises(CheckpointError, match="fingerprint"):
        fit(stack.untrained(), dataset=make_data(seed=1), out=tmp_path)
    with pytest.raises(TrainingError, match=r"this agent is on cpu, not on meta.*load_agent\(path, 'meta'\)"):
        fit(stack, device="meta")


def test_a_folder_without_a_checkpoint_is_of_its_run_alone(stack, tmp_path):
    """A run that ended before its first checkpoint begins anew; what others left in the folder stays as it is."""
    fit(stack, out=tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="holds another training.*steps 60 there, 70 here.*another folder"):
        fit(stack.untrained(), steps=70, out=tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    again = stack.untrained()
    fit(again, out=tmp_path)
    assert_same(again, stack)
    (tmp_path / CHECKPOINT).unlink()
    for text in ('{"name": "my own"}', "[]", "no JSON"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(
            CheckpointError, match=r"config\.json is not of a run of this library .*: use another folder"
        ):
            fit(stack.untrained(), out=tmp_path)
        assert (tmp_path / "config.json").read_text() == text
