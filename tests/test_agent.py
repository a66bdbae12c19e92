"""Training and acting: lost seeds, files that are damaged, options that make no sense."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, Dataset, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import CheckpointError, DatasetError, EvaluationError, StackError, TrainingError
from adaptive_constraints.runs.loop import LostSeedWarning
from adaptive_constraints.support.progress import Progress

from .agents import SMALL, aspc_on_td3bc, fit, make_data, state


@pytest.fixture
def stack():
    return aspc_on_td3bc()


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
