"""ReBRAC against a plain loop written from the paper's equations, and its penalties, presets and seams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, Dataset
from adaptive_constraints.baselines import ReBRAC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import Probe

from .helpers import (
    apart_from_alone,
    build,
    deviation,
    different,
    groups,
    learned,
    meta_gradients,
    random_data,
    resolved_of,
    seen,
    trained,
)
from .reference.common import beside
from .reference.rebrac import PlainReBRAC

SMALL = ReBRAC(hidden=8, batch_size=16, policy_every=1)

# -- the plain loop ---------------------------------------------------------------------------------------------------


def test_equals_a_plain_loop_in_float32():
    learner = ReBRAC(hidden=64, batch_size=64, beta2=0.5, actor_learning_rate=3e-4, critic_learning_rate=3e-4)
    engine, loop = beside(PlainReBRAC, learner, steps=100, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"policy_every": 1, "beta1": 2.0, "beta2": 0.5, "discount": 0.9}])
def test_equals_a_plain_loop(settings):
    engine, loop = beside(PlainReBRAC, ReBRAC(hidden=16, batch_size=32, **settings), steps=60, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10


def test_the_real_sizes_equal_a_plain_loop():
    engine, loop = beside(PlainReBRAC, ReBRAC(), steps=4, dtype=torch.float64)
    assert (resolved_of(engine).learner.hidden, resolved_of(engine).learner.batch_size) == (256, 1024)
    assert loop.largest_deviation(engine) < 1e-10


def test_initial_weights_are_the_papers():
    params = build(ReBRAC(), data=random_data(observation=4, action=2)).params
    for group, inputs, bound in (("actor", 4, 1e-3), ("critic", 6, 3e-3)):
        for layer, fan_in in enumerate((inputs, 256, 256)):
            weight, bias = params[group][f"weight{layer}"], params[group][f"bias{layer}"]
            assert 0.9 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
            assert (bias == 0.1).all()
        assert 0.9 * bound < params[group]["weight3"].abs().max() <= bound
        assert 0 < params[group]["bias3"].abs().max() <= bound
    assert "gain0" in params["critic"] and "gain0" not in params["actor"]


# -- the penalty on the critic ----------------------------------------------------------------------------------------


def test_the_penalty_is_absent_at_the_ends_of_episodes():
    """Where every row ends an episode, though none truly, its weight changes nothing, bit for bit."""
    data = random_data()
    short = Dataset.from_arrays(
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        next_observations=data.next_observations,
        terminals=np.zeros(len(data), bool),
        timeouts=np.ones(len(data), bool),
    )
    for rows, changes in ((short, False), (data, True)):
        one, two = (learned(trained(replace(SMALL, beta2=beta2), data=rows)) for beta2 in (0.0, 5.0))
        assert bool(different(one, two)) == changes


def test_the_penalty_is_for_states_of_the_data_alone():
    learner = replace(SMALL, batch_size=64)

    def shown(v):
        action = learner.sample(v, v.target["actor"], v.s2, "site")
        penalty = v.bootstrap(v.s2, "site") - v.bootstrap(v.s2, "site", v.batch)
        distance = (action - v.batch["next_action"]).square().sum(-1)
        return torch.stack([penalty, learner.beta2 * distance, v.batch["next_action_mask"]])

    (terms,) = seen(learner, what=shown, dtype=torch.float64)
    penalty, expected, mask = terms
    assert set(mask.tolist()) == {0.0, 1.0}, "the batch has rows of both kinds"
    assert (penalty[mask == 0] == 0).all() and (penalty[mask == 1] > 0).all()
    torch.testing.assert_close(penalty, mask * expected, rtol=1e-12, atol=1e-14)


# -- many seeds, traces, the trade-off --------------------------------------------------------------------------------


def test_seeds_together_and_traced_are_seeds_alone():
    assert apart_from_alone(SMALL, ASPC(interval=2), traced=True, steps=5) < 1e-12


def test_the_meta_gradient_agrees_with_autograd():
    closed_form, expected = meta_gradients(SMALL, rounds=3)
    assert all((derivative != 0).all() for derivative in expected)
    assert deviation(closed_form, expected) < 1e-10


def test_the_trade_off_weighs_the_actors_penalty():
    """A learned scale starts from beta1, and a larger one holds the policy closer to the data."""
    assert float(build(SMALL, ASPC()).diagnose()["aspc/scale"]) == pytest.approx(SMALL.beta1)
    assert SMALL.facts().scales == "constraint"
    learner = replace(SMALL, actor_learning_rate=1e-2)
    loose, tight = (trained(replace(learner, beta1=beta1), steps=30) for beta1 in (1e-3, 10.0))
    (far,), (near,) = (engine.metrics.flush()["actor/constraint"] for engine in (loose, tight))
    assert far > 1.2 * near


# -- presets and refusals ---------------------------------------------------------------------------------------------

PRESETS: dict[str, Any] = {
    # batch, actor's and critics' learning rate, discount, reward scale
    "gym": (1024, 1e-3, 1e-3, 0.99, 1.0),
    "antmaze": (256, 3e-4, 5e-5, 0.999, 100.0),
    "maze2d": (256, 3e-4, 3e-4, 0.99, 1.0),
    "adroit": (256, 3e-4, 3e-4, 0.99, 1.0),
}


def test_presets_are_the_published_settings():
    assert set(ReBRAC.presets) == {*PRESETS, "pendulum"}  # this project's own, for small data
    for family, expected in PRESETS.items():
        rebrac = ReBRAC.preset(family)
        rates = (rebrac.actor_learning_rate, rebrac.critic_learning_rate)
        assert (rebrac.batch_size, *rates, rebrac.discount, rebrac.reward_scale) == expected, family
        assert (rebrac.hidden, rebrac.policy_every, rebrac.polyak) == (256, 2, 0.005)


REFUSED: dict[str, Any] = {
    "beta1": ({"beta1": 0.0}, "beta1 must be a number > 0, not 0.0"),
    "beta2": ({"beta2": -0.1}, "beta2 must be a number >= 0, not -0.1"),
    "hidden": ({"hidden": 0}, "hidden must be a whole number >= 1, not 0"),
    "policy_every": ({"policy_every": 0}, "policy_every must be a whole number >= 1, not 0"),
    "polyak": ({"polyak": 1.5}, "polyak must be a number in (0, 1], not 1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_make_no_sense_are_refused(case):
    settings, text = REFUSED[case]
    with pytest.raises(StackError) as refused:
        Stack(ReBRAC(**settings))
    assert "ReBRAC" in str(refused.value) and text in str(refused.value)


# -- seams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", sorted(SMALL.facts().seams))
def test_every_seam_is_heard_where_it_should_be(seam):
    """In the parameters of one group alone, apart from the actor, which steps on the new critics."""
    plain, probed = (build(SMALL, *probe, dtype=torch.float64) for probe in ((), (Probe(seam=seam, by=0.5),)))
    plain.run(1), probed.run(1)
    heard = groups(different(learned(plain), learned(probed)))
    assert heard == ({"actor", "critic"} if seam in ("bootstrap", "td_weight", "critic_rows") else {"actor"})
