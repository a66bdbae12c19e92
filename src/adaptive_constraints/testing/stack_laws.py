"""The laws of every stack, whatever it is of."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_constraints.agent import load_agent, wrap
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.runs.beginnings import fresh_run
from adaptive_constraints.runs.run import Run
from adaptive_constraints.support.cpu import tuned
from adaptive_constraints.testing.case import Case, different, learned


def survives_its_spec(case: Case) -> None:
    """A stack that is rebuilt from its description equals it."""
    stack = Stack(case.learner, case.adapters)
    assert Stack.from_spec(stack.to_spec()) == stack, f"{case.name}: rebuilt from its description it is another stack"


def is_finite_and_moves_what_it_steps(case: Case) -> Run:
    """Its steps are finite and move what they step; the run that shows it, for others to be compared with."""
    run = fresh_run(
        Stack(case.learner, case.adapters),
        case.data,
        steps=case.steps,
        seeds=(0, 1),
        device=torch.device("cpu"),
        execution=Execution(traced=False),
    )
    with tuned(run.device, run.products):  # as `Agent.fit` runs it
        _is_finite_and_moves(case, run.engine)
    return run


def runs_online(case: Case) -> None:
    """Its steps online are finite, and move what they step."""
    try:
        _is_finite_and_moves(case, case.engine(phase="online"))
    except AssertionError as error:
        raise AssertionError(f"online, {error}") from error


def _is_finite_and_moves(case: Case, engine: Engine) -> None:
    stepped = {update.group for stage in engine.program.stages for update in stage.updates}
    if engine.program.outer is not None:
        stepped.add(engine.program.outer.step.group)
    before = learned(engine)
    for _ in range(case.steps):
        engine.run(1)
        failures = engine.metrics.failures()
        assert not failures, f"{case.name}: {next(iter(failures.values()))}"
    after = learned(engine)
    broken = [name for name, tensor in after.items() if not tensor.isfinite().all()]
    assert not broken, f"{case.name}: not finite after {case.steps} steps: {broken}"
    moved = {name.split("/")[1] for name in different(before, after) if name.startswith("params/")}
    assert moved <= stepped, f"{case.name}: {sorted(moved - stepped)} moved, though no stage steps them"
    rates = {update.group: update.learning_rate for stage in engine.program.stages for update in stage.updates}
    idle = {group for group in stepped - moved if rates.get(group) != 0.0}
    assert not idle, f"{case.name}: {sorted(idle)} never moved, though a stage steps them"


def resumes_and_acts(case: Case, whole: Run) -> None:
    """Saved and loaded half-way, it acts as before, and ends up as ``whole``, the run that was not interrupted."""
    options: dict[str, Any] = {"steps": case.steps, "seeds": (0, 1), "traced": False, "progress": False}
    parted = wrap(case.learner, *case.adapters)
    parted.fit(case.data, stop_after=case.steps // 2, device="cpu", **options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agent.npz"
        parted.save(file)
        loaded = load_agent(file, device="cpu")
        same = np.array_equal(loaded.act(case.data.observations[:5]), parted.act(case.data.observations[:5]))
        assert same, f"{case.name}: loaded, it acts otherwise than it did when it was saved"
        loaded.fit(case.data, device="cpu", **options)
        rows = case.data.observations[:20]
        for seed, one in zip(loaded.seeds, whole.act(np.stack([rows, rows]), 0), strict=True):
            same = np.array_equal(one, loaded.act(rows, seed=seed))
            assert same, f"{case.name}: saved and loaded half-way, seed {seed} ends up elsewhere"
            low, high = case.data.action_low - 1e-5, case.data.action_high + 1e-5
            assert ((one >= low) & (one <= high)).all(), f"{case.name}: it acts outside the action bounds"


def together_is_alone(case: Case) -> None:
    """A seed learns beside another what it learns alone."""
    together = case.after(seeds=(0, 7), dtype=torch.float64)
    alone = case.after(seeds=(7,), dtype=torch.float64)
    worst = max(float((together[name][1] - tensor[0]).abs().max()) for name, tensor in alone.items())
    assert worst < 1e-9, f"{case.name}: beside another seed, a seed learns otherwise (by {worst:.1e})"


def a_lost_seed_is_alone(case: Case) -> None:
    """A seed that is not finite changes nothing of another."""
    engine = case.engine()
    next(iter(engine.params[case.learner.facts().constrained].values()))[1] = math.nan
    engine.run(2)
    one, two = ({name: tensor[0] for name, tensor in learned(ran).items()} for ran in (engine, case.ran(2)))
    changed = different(one, two)
    assert not changed, f"{case.name}: another seed that is not finite changes {changed[:3]} of this one"


def traced_is_eager(case: Case) -> None:
    """Traced and replayed, it learns bit for bit what it learns otherwise."""
    changed = different(case.after(traced=True), case.after(traced=False))
    assert not changed, f"{case.name}: traced and replayed, {changed[:3]} come out otherwise: a branch on a value?"


def presets_can_be_made(part: Learner | Adapter) -> None:
    """Every preset makes a part."""
    for family in part.presets:
        type(part).preset(family)


__all__ = [
    "a_lost_seed_is_alone",
    "is_finite_and_moves_what_it_steps",
    "presets_can_be_made",
    "resumes_and_acts",
    "runs_online",
    "survives_its_spec",
    "together_is_alone",
    "traced_is_eager",
]
