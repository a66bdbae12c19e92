"""SAC-N and EDAC against plain loops, their initial weights, the diversity of the critics, and their seams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, FixedTradeoff
from adaptive_constraints.baselines import EDAC, SACN
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
    trained,
)
from .reference.common import beside
from .reference.sac_n import PlainEDAC, PlainSACN

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "critics": 3}

# -- the plain loops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"critics": 10, "discount": 0.9, "polyak": 0.05}])
def test_sac_n_equals_a_plain_loop(settings):
    learner = SACN(**{"hidden": 16, "batch_size": 32, "critics": 4, **settings})
    engine, loop = beside(PlainSACN, learner, steps=60, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10
    assert abs(float(loop.log_temperature.detach())) > 0.005, "it must have moved for this to say anything"


@pytest.mark.parametrize("settings", [{}, {"critics": 2, "eta": 20.0}, {"critics": 8, "eta": 0.1}])
def test_edac_equals_a_plain_loop(settings):
    learner = EDAC(**{"hidden": 16, "batch_size": 32, "critics": 4, **settings})
    engine, loop = beside(PlainEDAC, learner, steps=60, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10


@pytest.mark.parametrize(("learner", "loop"), [(SACN, PlainSACN), (EDAC, PlainEDAC)])
def test_equal_plain_loops_in_float32(learner, loop):
    engine, plain = beside(loop, learner(hidden=32, batch_size=64, critics=4), steps=50, dtype=torch.float32)
    assert plain.largest_deviation(engine) < 1e-5


def test_without_its_penalty_edac_is_sac_n():
    """A weight of the constraint of 0 at every state leaves nothing of it."""
    sac, edac = trained(SACN(**SMALL)), trained(EDAC(**SMALL), Probe(seam="constraint_scale", by=-1.0))
    assert not different(learned(sac), learned(edac))


def test_initial_weights_are_the_papers():
    params = build(SACN(critics=3), data=random_data(observation=4, action=2)).params
    for group, inputs, bound in (("actor", 4, 1e-3), ("critic", 6, 3e-3)):
        for layer, fan_in in enumerate((inputs, 256, 256)):
            weight, bias = params[group][f"weight{layer}"], params[group][f"bias{layer}"]
            assert 0.9 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5 and (bias == 0.1).all()
        assert 0.9 * bound < params[group]["weight3"].abs().max() <= bound
        assert 0 < params[group]["bias3"].abs().max() <= bound
    assert params["actor"]["weight3"].shape[-1] == 4 and len(params["critic"]["weight0"][0]) == 3


# -- the diversity ----------------------------------------------------------------------------------------------------


def test_similarity_is_the_mean_cosine_of_gradients_times_the_other_critics():
    learner = EDAC(**SMALL)
    engine = build(learner, dtype=torch.float64)
    engine.params["critic"]["weight3"] *= 1000  # gradients beside which what is added to their norms is nothing
    engine.run(1)
    s, a = engine.batch["observation"][0], engine.batch["action"][0].clone().requires_grad_()
    p = {name: tensor[0] for name, tensor in engine.params["critic"].items()}
    rows = [torch.autograd.grad(q.sum(), a, retain_graph=True)[0] for q in learner.q(p, s, a)]
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=1) for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(learner.similarity(p, s, a.detach()), torch.stack(pairs).sum(0) / 2)


def test_critics_that_are_one_and_the_same_are_as_similar_as_can_be():
    learner = EDAC(**SMALL)
    engine = build(learner, dtype=torch.float64)
    engine.params["critic"]["weight3"] *= 1000  # gradients beside which what is added to their norms is nothing
    engine.run(1)
    same = {name: tensor[0, :1].expand_as(tensor[0]) for name, tensor in engine.params["critic"].items()}
    found = learner.similarity(same, engine.batch["observation"][0], engine.batch["action"][0])
    torch.testing.assert_close(found, torch.full_like(found, 3.0))


def test_a_critic_that_knows_no_direction_is_no_reason_for_nan():
    learner = EDAC(**SMALL)
    engine = build(learner)
    for tensor in engine.params["critic"].values():
        tensor.zero_()
    engine.run(2)
    assert all(tensor.isfinite().all() for tensor in learned(engine).values())


def test_the_penalty_makes_critics_differ():
    steps: dict[str, Any] = {"steps": 60, "dtype": torch.float64}
    slow, fast = (trained(EDAC(eta=eta, critic_learning_rate=3e-3, **SMALL), **steps) for eta in (1e-6, 10.0))
    alike, apart = (float(engine.metrics.flush()["critic/constraint"][0]) for engine in (slow, fast))
    assert apart < alike - 0.1


# -- many seeds, traces, the trade-off --------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [(SACN(**SMALL),), (EDAC(**SMALL), ASPC(interval=2))], ids=["SACN", "EDAC + aspc"])
def test_seeds_together_and_traced_are_seeds_alone(stack):
    assert apart_from_alone(*stack, traced=True, steps=5) < 1e-12


def test_the_meta_gradient_agrees_with_autograd():
    closed_form, expected = meta_gradients(EDAC(**SMALL), rounds=3)
    assert all((derivative != 0).all() for derivative in expected)
    assert deviation(closed_form, expected) < 1e-10


def test_eta_is_the_trade_off():
    one, two = trained(EDAC(eta=7.0, **SMALL)), trained(EDAC(eta=1.0, **SMALL), FixedTradeoff(value=7.0))
    assert not different(learned(one), learned(two))


# -- refusals and seams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner", "settings", "text"),
    [
        (SACN, {"critics": 0}, "critics must be a whole number >= 1, not 0"),
        (EDAC, {"critics": 1}, "critics must be a whole number >= 2, not 1"),
        (EDAC, {"eta": 0.0}, "eta must be a number > 0, not 0.0"),
        (SACN, {"polyak": 0.0}, "polyak must be a number in (0, 1], not 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(learner, settings, text):
    with pytest.raises(StackError) as refused:
        Stack(learner(**settings))
    assert text in str(refused.value)


@pytest.mark.parametrize("seam", sorted(EDAC().facts().seams))
def test_every_seam_is_heard_by_the_critics_alone(seam):
    learner = replace(EDAC(**SMALL), eta=2.0)
    plain, probed = (build(learner, *probe, dtype=torch.float64) for probe in ((), (Probe(seam=seam, by=0.5),)))
    plain.run(1), probed.run(1)
    assert groups(different(learned(plain), learned(probed))) == {"critic"}
