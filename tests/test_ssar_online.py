"""SSAR in the online phase: annealed, used and not trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints import SSAR, Adapter, Spec
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.pretraining.preparation import prepare

from .helpers import different, learned, random_data
from .selective import CPU
from .sketches import LEARNERS, each_learner

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


def online(learner, ssar: SSAR, *others: Adapter, start: int = 40, horizon: int = 100) -> Engine:
    """An engine of the online phase, which begins after step ``start``."""
    data = random_data()
    resolved, preprocessor = Stack(learner, (ssar, *others)).resolve("online"), Preprocessor.fit(data)
    initial = initial_state(resolved, Spec(3, 2), (0, 1), prepare(resolved, data, preprocessor, (0, 1), CPU))
    options: dict[str, Any] = {"horizon": horizon, "execution": Execution(traced=False), "phase_start": start}
    engine = Engine(program_of(resolved, Spec(3, 2), horizon), initial, preprocessor.table(data), **options)
    engine.set_step(start)
    return engine


def scales(ssar: SSAR, steps: int, **options) -> list[float]:
    engine, by_seed = online(LEARNERS["TD3BC"], ssar, **options), []
    for _ in range(steps):
        engine.run(1)
        by_seed.append(engine.ask("ssar", lambda v: {"scale": v.constraint_scale()})["scale"].tolist())
    assert all(one == two for one, two in by_seed)
    return [one for one, _ in by_seed]


def test_the_constraint_is_annealed_online_and_never_below_zero():
    linear = [max(0.0, 1 - k / 5) for k in range(1, 9)]
    assert scales(SSAR(hidden=8, annealing_steps=5), 8) == pytest.approx(linear, abs=1e-6)
    cosine = [math.cos(min(k / 5, 1) * math.pi / 2) for k in range(1, 9)]
    curve = scales(SSAR(hidden=8, annealing_steps=5, annealing="cosine"), 8)
    assert curve == pytest.approx(cosine, abs=1e-6) and min(curve) == 0
    planned = [1 - k / (1.6 * 60) for k in range(1, 4)]
    assert scales(SSAR(hidden=8, annealing_steps=None), 3) == pytest.approx(planned)
    assert scales(SSAR(hidden=8), 1) == pytest.approx([1 - 1 / 400_000])


def test_annealing_can_be_off():
    ssar = SSAR(annealing="none", hidden=8)
    assert ssar.answers(TD3BC().facts(), "online") == ssar.answers(TD3BC().facts(), "offline") == {"constraint_weight"}
    assert SSAR().answers(TD3BC().facts(), "offline") == {"constraint_weight"}


@each_learner
def test_online_the_coefficient_is_used_but_not_trained(learner):
    ssar = SSAR(select="return", hidden=8, rate=1e-2, growth_every=1, annealing_steps=10)
    loosens = learner.facts().exponential_weights or learner.facts().constrained == "critic"
    engine = online(learner, ssar)
    before = learned(engine)
    engine.run(3)
    changed = different(before, learned(engine))
    assert changed and not [name for name in changed if "ssar" in name]
    flat = online(learner, replace(ssar, frozen=True))
    flat.run(3)
    assert different(learned(flat), learned(engine)), "heard"

    def look(v) -> dict[str, Tensor]:
        trusted = v.batch["ssar.trusted"] if loosens else 1.0
        weight = v.resolved.adapters[0].weight(v.p["ssar.beta"], v.s) * trusted * (1 - 3 / 10)
        return {"found": v.sample_weight() * v.constraint_scale() * v.constraint_weight(), "expected": weight}

    seen = engine.ask("ssar", look)
    torch.testing.assert_close(seen["found"], seen["expected"])
