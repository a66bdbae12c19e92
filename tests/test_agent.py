"""Agents from wrap to a saved policy: composition, resuming, lost seeds, and what goes wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import (
    ASPC,
    Adapter,
    Dataset,
    FixedTradeoff,
    LinearTradeoff,
    adapters,
    baselines,
    load_agent,
    wrap,
)
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition import registry
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import CheckpointError, DatasetError, EvaluationError, StackError, TrainingError
from adaptive_constraints.runs.folder import CHECKPOINT
from adaptive_constraints.runs.loop import LostSeedWarning
from adaptive_constraints.support.progress import Progress

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32}


def make_data(rows: int = 400, seed: int = 0) -> Dataset:
    """Random transitions of a three-dimensional state in episodes of 20 steps."""
    draw = np.random.default_rng(seed)
    ends = np.arange(1, rows + 1) % 20 == 0
    observations = draw.normal(size=(rows + 1, 3))
    following = np.where(ends[:, None], draw.normal(size=(rows, 3)), observations[1:])
    return Dataset.from_arrays(
        observations=observations[:-1],
        actions=draw.uniform(-0.9, 0.9, size=(rows, 2)),
        rewards=draw.normal(size=rows),
        next_observations=following,
        terminals=ends & (np.arange(rows) % 40 < 20),
        timeouts=ends & (np.arange(rows) % 40 >= 20),
        name="made up",
    )


def fit(agent, steps=60, **options):
    """A short quiet training."""
    options = {
        "seeds": 2,
        "device": "cpu",
        "log_every": 20,
        "checkpoint_every": 20,
        "progress": False,
        "traced": False,
    } | options
    return agent.fit(options.pop("dataset", None) or make_data(), steps=steps, **options)


def state(agent) -> dict[str, torch.Tensor]:
    return agent.run.engine.state()


def assert_same(first, second) -> None:
    """Every tensor of two agents' states is the same to the bit."""
    one, two = state(first), state(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


@pytest.fixture
def stack():
    return wrap(TD3BC(critic="robust", **SMALL), ASPC(interval=3))


# -- composition ------------------------------------------------------------------------------------------------------


def test_wrap_describes_without_touching_its_parts():
    learner, adapter = TD3BC(), ASPC()
    agent = wrap(learner, adapter)
    assert (agent.learner, agent.adapters) == (learner, (adapter,))
    assert agent.name == "TD3BC + aspc"
    assert repr(agent) == f"wrap({learner!r}, {adapter!r})"


def test_an_adapter_taken_off_is_an_adapter_absent():
    bare, less = wrap(TD3BC(**SMALL)), wrap(TD3BC(**SMALL), ASPC()).without("aspc")
    fit(bare), fit(less)
    assert_same(bare, less)


def test_wrapping_twice_is_wrapping_once():
    class Double(Adapter):
        def constraint_weight(self, v):
            return 2.0

    learner = TD3BC(**SMALL)
    once = wrap(learner, FixedTradeoff(value=3.0), Double(name="double"))
    twice = wrap(wrap(learner, FixedTradeoff(value=3.0)), Double(name="double"))
    fit(once), fit(twice)
    assert once.adapters == twice.adapters
    assert_same(once, twice)


def test_the_learners_own_scale_as_an_adapter_changes_nothing():
    bare, fixed = wrap(TD3BC(**SMALL)), wrap(TD3BC(**SMALL), FixedTradeoff())
    fit(bare), fit(fixed)
    assert_same(bare, fixed)


def test_aspc_at_rate_zero_is_the_learner_to_one_rounding():
    bare, still = (
        wrap(TD3BC(critic="robust", **SMALL)),
        wrap(TD3BC(critic="robust", **SMALL), ASPC(rate=0.0, interval=2)),
    )
    fit(bare), fit(still)
    for name, tensor in state(bare).items():
        if name.startswith(("params", "targets")):
            torch.testing.assert_close(state(still)[name], tensor, rtol=1e-5, atol=1e-6)


def test_linear_tradeoff_ends_where_it_should():
    agent = wrap(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=5.0))
    at, values = fit(agent, steps=40).series("lineartradeoff/tradeoff")
    np.testing.assert_allclose(values, (1 + 4 * at / 40)[:, None].repeat(2, axis=1), rtol=1e-6)


def test_a_stack_survives_its_serialized_form(stack):
    spec = json.loads(json.dumps(stack.stack.to_spec()))
    assert Stack.from_spec(spec) == stack.stack


def test_explain_names_stages_seams_evidence_and_warnings():
    text = wrap(TD3BC(), ASPC()).explain()
    for expected in (
        "every 2 steps",
        "every 20 steps the trade-off by aspc",
        "tradeoff           aspc",
        "arXiv 2508.19900",
    ):
        assert expected in text
    assert "robust critic" in text, "the plain critic is worth a warning under ASPC"
    assert "Warnings" not in wrap(TD3BC(critic="robust"), ASPC()).explain()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((TD3BC,), r"the class TD3BC; write TD3BC\(\)"),
        ((TD3BC(), ASPC), r"the class ASPC; write ASPC\(\)"),
        ((TD3BC(), "aspc"), "must be an adapter"),
        ((TD3BC(), ASPC(), ASPC()), "share one name"),
        ((TD3BC(), ASPC(), FixedTradeoff()), r"ASPC \(name 'aspc'\) and FixedTradeoff .* both decide 'tradeoff'"),
        ((TD3BC(), ASPC(name="No good")), "lower-case"),
    ],
)
def test_stacks_that_cannot_be(parts, message):
    with pytest.raises(StackError, match=message):
        wrap(*parts)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (TD3BC, {"critic": "robus"}, "TD3BC: critic must be 'plain', 'layernorm' or 'robust', not 'robus'"),
        (TD3BC, {"hidden": 2.5}, "hidden must be a whole number >= 1, not 2.5"),
        (TD3BC, {"hidden": "256"}, "hidden must be a whole number >= 1, not '256'"),
        (ASPC, {"rate": "fast"}, "ASPC: rate must be 'scaled', 'published' or a number >= 0, not 'fast'"),
    ],
)
def test_settings_are_checked_where_they_are_given(part, settings, message):
    with pytest.raises(StackError, match=message):
        part(**settings)


OURS = [
    part
    for part in [*registry.learners().values(), *registry.adapters().values()]
    if part.__module__.startswith("adaptive_constraints.")
]


@pytest.mark.parametrize("part", OURS, ids=lambda part: part.__name__)
def test_numbers_that_make_no_sense_are_refused(part):
    """Whatever a setting is, it is finite; learning rates, noise and lengths have a sign."""
    numbers = {field.name: field.default for field in fields(part) if isinstance(field.default, float)}
    for name in numbers:
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(StackError, match=rf"{name} .*not -?(nan|inf)"):
                part(**{name: value})
    signed = {name for name in numbers if name.endswith("learning_rate") or name in ("policy_noise", "noise_clip")}
    for name in signed | ({"reward_scale"} & numbers.keys()):
        with pytest.raises(StackError, match=rf"{name} .*not -1"):
            part(**{name: -1.0})


def test_a_phase_that_is_none_is_refused(stack):
    with pytest.raises(StackError, match="phase must be 'offline' or 'online', not 'onlin'"):
        stack.explain("onlin")


def test_settings_are_named():
    """A number alone might be meant for any of them."""
    for part in (TD3BC, FixedTradeoff):
        with pytest.raises(TypeError, match="positional"):
            part(0.5)


def test_an_adapter_that_does_nothing_is_noticed():
    class Misspelled(Adapter):
        def sample_wieght(self, v):
            return 2.0

        def helper(self):
            return 0

    class Answering(Misspelled):
        def sample_weight(self, v):
            return 1.0

        def td_weights(self, v):
            return 2.0

    def warned(adapter):
        return tuple(map(str, Stack(TD3BC(), (adapter,)).resolve().warnings))

    idle, near = warned(Misspelled())
    assert "it answers no seam" in idle and "its method sample_wieght(): is sample_weight() meant?" in near
    assert warned(Answering()) == ("answering: nobody calls its method td_weights(): is td_weight() meant?",)


def test_only_parts_that_are_meant_to_be_used_are_listed():
    import_module("adaptive_constraints.testing")  # which defines some for its own ends
    known = {**registry.learners(), **registry.adapters()}
    ours = {name for name, part in known.items() if part.__module__.startswith("adaptive_constraints")}
    assert ours == {*baselines.__all__, *adapters.__all__}


def test_taking_off_what_is_not_there(stack):
    with pytest.raises(StackError, match=r"no adapter named 'anq'.*\['aspc'\]"):
        stack.without("anq")


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.0}, {"hidden": 0}, {"policy_every": 0}, {"polyak": 1.5}, {"discount": 1.1}, {"batch_size": 0}],
)
def test_td3_bc_refuses_settings_out_of_range(settings):
    with pytest.raises(StackError, match=f"TD3BC: {next(iter(settings))} must"):
        TD3BC(**settings)


@pytest.mark.parametrize("settings", [{"initial": -1.0}, {"interval": 0}, {"ema": 1.0}, {"rate": -1.0}])
def test_aspc_refuses_settings_out_of_range(settings):
    with pytest.raises(StackError, match=next(iter(settings))):
        ASPC(**settings)


# -- going on ---------------------------------------------------------------------------------------------------------


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
        [{k: v for k, v in json.loads(r).items() if k != "steps_per_second"} for r in each] for each in rows
    ]
    assert without_speed[0] == without_speed[1]
    fit(parts, out=tmp_path / "elsewhere")
    moved = (tmp_path / "elsewhere" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in moved] == [json.loads(row) for row in rows[1]], "the whole history"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_agent import SMALL, fit
from adaptive_constraints import ASPC, wrap
from adaptive_constraints.baselines import TD3BC
agent = wrap(TD3BC(critic="robust", **SMALL), ASPC(interval=3))
fit(agent, steps=100_000, checkpoint_every=20, out={out!r}, traced=True)
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
    stop: dict[str, Any] = {"steps": 100_000, "stop_after": step + 25, "traced": True}
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


def test_the_last_line_of_progress_shows_the_last_score(capsys):
    with Progress("a stack", total=10, done=0, shown=True) as progress:
        progress.note("score 1.0")
        progress.update(10)
        progress.note("score 2.0")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a stack: step 10/10, ") and line.endswith("steps/s  score 2.0")


# -- seeds ------------------------------------------------------------------------------------------------------------


def poison(monkeypatch, step: int, seeds: list[int]) -> None:
    """From this step on the rewards of these seeds (by position) are not finite."""
    from adaptive_constraints.engine.batches import Batches

    clean = Batches.at

    def at(self, now):
        batch = clean(self, now)
        if now >= step:
            batch["reward"][seeds] = float("nan")
        return batch

    monkeypatch.setattr(Batches, "at", at)


def test_a_lost_seed_leaves_the_others_as_they_were(stack, monkeypatch):
    clean, struck = stack.untrained(), stack.untrained()
    fit(clean, seeds=3)
    poison(monkeypatch, 30, [1])
    with pytest.warns(LostSeedWarning, match="seed 1 is lost: critic/loss was not finite at step 30"):
        history = fit(struck, seeds=3)
    assert history.failures[1] == (30, "critic/loss")
    for name, tensor in state(clean).items():
        if name.startswith("params"):
            assert torch.equal(tensor[[0, 2]], state(struck)[name][[0, 2]])
    monkeypatch.undo()
    struck.act(np.zeros(3)).tolist()
    assert np.isfinite(struck.act(np.zeros(3))).all()


def test_a_run_that_lost_every_seed_keeps_its_last_good_checkpoint(stack, monkeypatch, tmp_path):
    poison(monkeypatch, 45, [0, 1])
    with pytest.warns(LostSeedWarning), pytest.raises(TrainingError, match=r"step 45.*critic/loss.*checkpoint\.npz"):
        fit(stack, out=tmp_path)
    kept = load_agent(tmp_path, device="cpu")
    assert kept.step == 40
    assert np.isfinite(kept.act(np.zeros(3))).all()


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_data_that_cannot_be_trained_on_leaves_nothing_behind(stack, tmp_path):
    data = make_data()
    rewards = data.rewards.copy()
    rewards[7] = np.nan
    broken = Dataset.from_arrays(
        observations=data.observations,
        actions=data.actions,
        rewards=rewards,
        next_observations=data.next_observations,
        terminals=data.terminals,
        timeouts=data.timeouts,
    )
    with pytest.raises(DatasetError, match=r"rewards.*7"):
        fit(stack, dataset=broken, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cut_checkpoint_says_so(stack, tmp_path):
    fit(stack)
    path = tmp_path / "agent.npz"
    stack.save(path)
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a whole saved agent"):
            load_agent(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_agent(tmp_path / "nothing.npz")


def test_a_failed_save_leaves_the_old_file(stack, tmp_path, monkeypatch):
    fit(stack)
    path = tmp_path / "agent.npz"
    stack.save(path)
    before = path.read_bytes()

    def torn(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(OSError, match="disk full"):
        stack.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, TrainingError, "steps must be at least 1"),
        ({"stop_after": 99}, TrainingError, "stop_after must lie between 1 and steps = 60"),
        ({"seeds": 0}, TrainingError, "seeds"),
        ({"seeds": [1, 1]}, TrainingError, "different"),
        ({"device": "warp"}, TrainingError, "device 'warp'"),
        ({"log_every": 0}, TrainingError, "log_every"),
        ({"eval_env": "auto"}, EvaluationError, "does not say which environment"),
    ],
)
def test_options_that_make_no_sense(stack, options, error, message):
    with pytest.raises(error, match=message):
        fit(stack, **options)


def test_an_untrained_agent_says_so(stack):
    with pytest.raises(TrainingError, match="not trained yet"):
        stack.act(np.zeros(3))
    fit(stack)
    with pytest.raises(EvaluationError, match=r"takes \[3\] or \[N, 3\]"):
        stack.act(np.zeros(4))
    with pytest.raises(EvaluationError, match=r"no seed 9.*\[0, 1\]"):
        stack.act(np.zeros(3), seed=9)


def test_oracles_that_are_missing_or_unknown(monkeypatch):
    with pytest.raises(StackError, match="ASPC: meta_step must be 'closed_form', .* or 'higher', not 'magic'"):
        wrap(TD3BC(**SMALL), ASPC(meta_step="magic"))
    monkeypatch.setitem(sys.modules, "higher", None)
    with pytest.raises(ImportError, match="oracles"):
        fit(wrap(TD3BC(**SMALL), ASPC(meta_step="higher")))


def test_a_batch_larger_than_the_data_draws_rows_again():
    agent = wrap(TD3BC(hidden=16, batch_size=256))
    history = fit(agent, dataset=make_data(rows=40))
    assert np.isfinite(history.series("critic/loss")[1]).all()
