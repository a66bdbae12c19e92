"""LowerBoundTradeoff: the bound, its derivative by the trade-off, how far it travels, and whom it suits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import Dataset, load_dataset, wrap
from adaptive_constraints.baselines import CQL, FQL, IQL, TD3BC, DiffusionQL, ReBRAC
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp
from benchmarks.tried import LowerBoundTradeoff

from .helpers import build, columns_of, outer_step, put

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "policy_every": 1}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "traced": False, "compiled": False}
NAME = "lowerboundtradeoff"


def in_one_state(rows: int = 40) -> Dataset:
    """Transitions from one state by one action, so that rows drawn anew are known; rewards differ."""
    draw = np.random.default_rng(2)
    return Dataset.from_arrays(
        observations=np.tile([0.3, -0.2, 0.5], (rows, 1)),
        actions=np.tile([0.4, -0.6], (rows, 1)),
        rewards=draw.normal(size=rows),
        next_observations=draw.normal(size=(rows, 3)),
        terminals=np.zeros(rows, bool),
        timeouts=np.ones(rows, bool),
        action_low=-1.0,
        action_high=1.0,
        name="one state",
    )


@pytest.mark.parametrize("caution", [0.0, 1.0, 7.0])
def test_the_bound_equals_a_plain_loop(caution: float) -> None:
    adapter = LowerBoundTradeoff(caution=caution, interval=1, rows=3)
    engine = build(TD3BC(**SMALL), adapter, seeds=(0, 1), data=in_one_state(), dtype=torch.float64)
    s, old = (columns_of(engine)[name][:1].double() for name in ("observation", "action"))
    for _ in range(3):
        bound = outer_step(engine, f"{NAME}/bound")
        for seed in range(2):
            actor, critics = ({k: t[seed] for k, t in engine.params[group].items()} for group in ("actor", "critic"))
            new, gains = torch.tanh(mlp(actor, s)), []
            for j in range(2):
                critic = {k: t[j] for k, t in critics.items()}
                gains.append(float(mlp(critic, torch.cat([s, new], -1)) - mlp(critic, torch.cat([s, old], -1))))
            mean = (gains[0] + gains[1]) / 2
            deviation = math.sqrt(((gains[0] - mean) ** 2 + (gains[1] - mean) ** 2) / 2)
            assert float(bound[seed]) == pytest.approx(mean - caution * deviation, rel=1e-9)


@pytest.mark.parametrize("learner", [TD3BC(**SMALL), ReBRAC(**SMALL), FQL(hidden=8, layers=2, batch_size=16)])
def test_the_gradient_equals_central_differences(learner: Any) -> None:
    """Through a real Adam step of the policy, by the logarithm of the learner's own trade-off."""
    adapter = LowerBoundTradeoff(interval=1, rows=20)
    engine, other = (build(learner, adapter, seeds=(0, 1), dtype=torch.float64) for _ in range(2))
    outer_step(engine, f"{NAME}/loss")
    group, step = f"{NAME}.scale", 1e-4
    for _ in range(2):
        ends = []
        for sign in (1, -1):
            put(other, engine).params[group]["log"] += sign * step
            ends.append(outer_step(other, f"{NAME}/bound"))
        k = engine.params[group]["log"].exp().clone()
        bound, loss = (outer_step(put(other, engine), f"{NAME}/{name}") for name in ("bound", "loss"))
        gradient = outer_step(engine, f"{NAME}/gradient")
        difference = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(gradient * k, difference * loss / bound, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("reach", "total"), [(1000.0, 450), (10.0, 50_000), (4.0, 1)])
def test_all_steps_together_reach_as_far_as_is_said(reach: float, total: int) -> None:
    rate = LowerBoundTradeoff(reach=reach).meta(TD3BC().facts()).learning_rate
    assert sum(rate(done, total) for done in range(total)) == pytest.approx(math.log(reach))


def test_it_begins_at_the_learners_trade_off_or_where_it_is_told() -> None:
    data = load_dataset("scripted:pendulum/expert").subset(episodes=slice(2))
    for learner, adapter, value in (
        (TD3BC(alpha=4.0, **SMALL), LowerBoundTradeoff(), 4.0),
        (ReBRAC(beta1=0.3, **SMALL), LowerBoundTradeoff(), 0.3),
        (TD3BC(**SMALL), LowerBoundTradeoff(initial=9.0), 9.0),
    ):
        history = wrap(learner, adapter).fit(data, steps=1, **QUIET)
        assert history.metrics[-1][f"{NAME}/tradeoff"][0] == pytest.approx(value)


@pytest.mark.parametrize("learner", [CQL(), CQL(alpha=0.0)])
def test_learners_whose_trade_off_holds_no_policy_are_refused(learner: Any) -> None:
    with pytest.raises(StackError, match="does not hold a policy"):
        wrap(learner, LowerBoundTradeoff()).explain()


def test_what_is_doubtful_is_said() -> None:
    assert "without LayerNorm" in wrap(TD3BC(), LowerBoundTradeoff()).explain()
    for learner in (TD3BC(critic="layernorm"), FQL(), DiffusionQL(critic="robust")):
        assert "without LayerNorm" not in wrap(learner, LowerBoundTradeoff()).explain()
    assert "trains no Q" in wrap(IQL(), LowerBoundTradeoff()).explain()
