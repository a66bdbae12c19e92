"""AWAC against a plain loop, its weights, and its seams."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, FixedTradeoff
from adaptive_constraints.baselines import AWAC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import Probe

from .helpers import apart_from_alone, build, deviation, different, groups, learned, meta_gradients, seen, trained
from .reference.awac import PlainAWAC
from .reference.common import beside

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


@pytest.mark.parametrize("settings", [{}, {"beta": 10.0, "largest_weight": 1.02, "discount": 0.9}])
def test_equals_a_plain_loop(settings):
    engine, loop = beside(PlainAWAC, AWAC(hidden=16, batch_size=32, **settings), steps=80, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10
    assert ("largest_weight" in settings) == (loop.bounded > 100)
    assert loop.log_std.detach().abs().max() > 0.005, "it must have moved for this to say anything"


def test_equals_a_plain_loop_in_float32():
    engine, loop = beside(PlainAWAC, AWAC(hidden=32, batch_size=64), steps=80, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


def test_seeds_together_and_traced_are_seeds_alone():
    assert apart_from_alone(AWAC(**SMALL), ASPC(interval=2), traced=True, steps=5) < 1e-12


def test_the_meta_gradient_agrees_with_autograd():
    closed_form, expected = meta_gradients(AWAC(**SMALL), rounds=3)
    assert all((derivative != 0).all() for derivative in expected)
    assert deviation(closed_form, expected) < 1e-10


def test_beta_is_the_trade_off():
    one, two = trained(AWAC(beta=7.0, **SMALL)), trained(AWAC(**SMALL), FixedTradeoff(value=7.0))
    assert not different(learned(one), learned(two))


def test_actions_keep_the_bounds_though_the_mean_does_not():
    learner = AWAC(**SMALL)
    engine = build(learner)
    engine.params["actor"]["bias3"] += 5.0
    engine.run(1)
    shown = engine.ask("shown", lambda v: {"act": learner.act(v, v.s), "mean": learner.mean(v.p["actor"], v.s)})
    assert shown["mean"].max() > 1 and shown["act"].abs().max() <= 1


def test_a_policy_that_is_as_good_as_the_data_imitates_evenly():
    weights = seen(AWAC(**SMALL), what=lambda v: AWAC(**SMALL).advantage(v), steps=1)
    assert weights.shape == (1, 16) and weights.abs().max() < 1, "values are small at the start"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"beta": 0.0}, "beta must be a number > 0, not 0.0"),
        ({"largest_weight": 0.0}, "largest_weight must be a number > 0, not 0.0"),
        ({"hidden": 0}, "hidden must be a whole number >= 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, text):
    with pytest.raises(StackError) as refused:
        Stack(AWAC(**settings))
    assert text in str(refused.value)


@pytest.mark.parametrize("seam", sorted(AWAC().facts().seams))
def test_every_seam_is_heard_where_it_should_be(seam):
    """In one group alone, apart from the actor, which steps on the new critics."""
    plain, probed = (build(AWAC(**SMALL), *probe, dtype=torch.float64) for probe in ((), (Probe(seam=seam, by=0.5),)))
    plain.run(1), probed.run(1)
    heard = groups(different(learned(plain), learned(probed)))
    assert heard == ({"actor", "critic"} if seam in ("bootstrap", "td_weight", "critic_rows") else {"actor"})
