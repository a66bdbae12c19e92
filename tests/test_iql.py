"""IQL against a plain loop in the reference implementation's order, and its options, presets and seams."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, Gaussian, Point
from adaptive_constraints.baselines import IQL
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
    outer_step,
    resolved_of,
    seen,
    trained,
)
from .reference.common import beside
from .reference.iql import PlainIQL

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}

# -- the plain loop ---------------------------------------------------------------------------------------------------


CASES = {
    "gaussian": IQL(),
    "deterministic": IQL(policy="deterministic", expectile=0.9, polyak=0.05),
    "dropout": IQL(dropout=0.2),
    "robust critics": IQL(critic="robust"),
    "mean of the critics": IQL(aggregate_q="mean"),
    "ddpg+bc": IQL(extraction="ddpg+bc"),
    "ddpg+bc, deterministic": IQL(extraction="ddpg+bc", policy="deterministic", alpha=5.0, dropout=0.1),
    "ddpg+bc, mean of the critics": IQL(extraction="ddpg+bc", aggregate_q="mean"),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop(case):
    """In float64: in float32 a ReLU's input within rounding of 0 may fall on the other side and make two of one."""
    engine, loop = beside(PlainIQL, replace(CASES[case], hidden=16, batch_size=32), steps=50, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10


@pytest.mark.parametrize("case", ["gaussian", "ddpg+bc"])
def test_equals_a_plain_loop_in_float32(case):
    engine, loop = beside(PlainIQL, replace(CASES[case], hidden=64, batch_size=64), steps=100, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


def test_the_real_sizes_equal_a_plain_loop():
    engine, loop = beside(PlainIQL, IQL(), steps=6, dtype=torch.float64)
    assert (resolved_of(engine).learner.hidden, resolved_of(engine).learner.batch_size) == (256, 256)
    assert loop.largest_deviation(engine) < 1e-10


def test_weights_saturate_at_100():
    engine, loop = beside(PlainIQL, IQL(beta=100.0, hidden=16, batch_size=32), steps=20, dtype=torch.float64)
    assert loop.largest_weight == 100.0
    assert loop.largest_deviation(engine) < 1e-10


# -- many seeds, traces, the trade-off --------------------------------------------------------------------------------

VARIANTS = {
    "awr": IQL(**SMALL, dropout=0.1),
    "awr, deterministic": IQL(**SMALL, policy="deterministic"),
    "ddpg+bc": IQL(**SMALL, extraction="ddpg+bc", dropout=0.1),
    "ddpg+bc, deterministic": IQL(**SMALL, extraction="ddpg+bc", policy="deterministic", critic="robust"),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize("variant", ["awr", "ddpg+bc, deterministic"])
def test_seeds_together_and_traced_are_seeds_alone(variant):
    assert apart_from_alone(VARIANTS[variant], ASPC(interval=2), traced=True, steps=5) < 1e-12


@each_variant
def test_the_meta_gradient_agrees_with_autograd(variant):
    closed_form, expected = meta_gradients(VARIANTS[variant], rounds=3)
    assert all((derivative != 0).all() for derivative in expected)
    assert deviation(closed_form, expected) < 1e-10


def test_the_meta_gradient_is_finite_where_weights_overflow():
    """exp(k A) leaves float32 here, and so would its derivative before it is bounded."""
    engine = build(IQL(**SMALL), ASPC(interval=1, initial=1e4))
    for _ in range(2):
        assert outer_step(engine).isfinite().all()
    assert not engine.metrics.failures()


def test_the_terms_are_those_of_the_mean_action():
    for learner in VARIANTS.values():
        learner = replace(learner, dropout=0.0)
        distribution = "point" if learner.policy == "deterministic" else "gaussian"
        facts = learner.facts()
        assert (facts.distribution, facts.owns_value, facts.policy) == (distribution, True, "actor")

        def shown(v, learner=learner):
            """The terms, and what they should be from services alone."""
            terms = v.services.terms(v.p["actor"])
            policy = v.services.distribution(v.p["actor"], v.s)
            action = policy.action if isinstance(policy, Point) else policy.mean
            q = torch.minimum(*v.services.q(v.p["critic"], v.s, action))
            if isinstance(policy, Gaussian):
                normal = torch.distributions.Normal(policy.mean, policy.std, validate_args=False)
                constraint = -normal.log_prob(v.a).sum(1)
            else:
                constraint = (action - v.a).square().sum(1)
            return torch.stack([*terms, q, -q / q.abs().mean(), constraint])

        (terms,) = seen(learner, what=shown, steps=3, dtype=torch.float64)
        torch.testing.assert_close(terms[:3], terms[3:], rtol=1e-12, atol=1e-12)


# -- options ----------------------------------------------------------------------------------------------------------


def test_dropout_changes_the_actors_training_and_not_acting():
    plain, dropped = (build(IQL(**SMALL, dropout=rate)) for rate in (0.0, 0.5))
    observations = torch.linspace(-1, 1, 12).view(1, 4, 3)
    assert torch.equal(plain.act(observations, 1), dropped.act(observations, 1))
    plain.run(4), dropped.run(4)
    changed = different(learned(plain), learned(dropped))
    assert groups(changed) == {"actor"}
    assert torch.equal(dropped.act(observations, 1), dropped.act(observations, 2)), "acting draws nothing"


@pytest.mark.parametrize("extraction", ["awr", "ddpg+bc"])
def test_the_same_units_are_left_out_before_and_after_a_step(extraction):
    """A step of length 0 then changes no term."""
    learner = IQL(**SMALL, extraction=extraction, dropout=0.5, actor_learning_rate=0.0)
    engine = build(learner, ASPC(interval=1, loss="L1+L2", delta_q="step"))
    assert float(outer_step(engine, "aspc/l2")) == 0.0
    moving = build(replace(learner, actor_learning_rate=1e-3), ASPC(interval=1, loss="L1+L2", delta_q="step"))
    assert float(outer_step(moving, "aspc/l2")) > 0.0


def test_the_cosine_reaches_0_at_the_horizon():
    learner = IQL(actor_learning_rate=1e-3)
    assert learner.actor_rate(1, 1000) == 1e-3
    assert learner.actor_rate(501, 1000) == pytest.approx(5e-4)
    assert learner.actor_rate(1000, 1000) == pytest.approx(1e-3 * (math.pi / 2000) ** 2, rel=1e-5)
    assert learner.actor_rate(1001, 1000) == 0.0
    last = {schedule: trained(IQL(**SMALL, schedule=schedule), horizon=4) for schedule in ("cosine", "constant")}
    rates = {name: engine.optimizers["actor"].param_groups[0]["lr"] for name, engine in last.items()}
    assert rates == {"cosine": pytest.approx(3e-4 * (1 + math.cos(0.75 * math.pi)) / 2), "constant": 3e-4}
    assert {engine.optimizers["critic"].param_groups[0]["lr"] for engine in last.values()} == {3e-4}


def test_a_gaussian_policy_samples_around_its_mean_within_bounds():
    learner = IQL(**SMALL)

    def shown(v):
        p = v.p["actor"] | {"log_std": torch.full_like(v.p["actor"]["log_std"], -30.0)}
        return torch.stack(
            [
                learner.sample(v, p, v.s, "near") - learner.act(v, v.s),
                learner.sample(v, v.p["actor"], v.s, "wide"),
                learner.distribution(v, p, v.s).std,
            ]
        )

    near, wide, std = seen(learner, what=shown, dtype=torch.float64)[0]
    assert 0 < near.abs().max() < 10 * math.exp(-20), "the logarithm of its deviation is bounded"
    torch.testing.assert_close(std, torch.full_like(std, math.exp(-20)))
    assert wide.abs().max() == 1.0 and wide.std() > 0.3


# -- presets and refusals ---------------------------------------------------------------------------------------------

PRESETS: dict[str, Any] = {
    # beta, expectile, policy, dropout, reward scale, reward shift, Polyak rate
    "gym": (3.0, 0.7, "gaussian", 0.0, 1.0, 0.0, 0.005),
    "hopper-medium-expert": (6.0, 0.5, "gaussian", 0.0, 1.0, 0.0, 0.005),
    "hopper-medium": (3.0, 0.7, "deterministic", 0.0, "return_range", 0.0, 0.001),
    "hopper-medium-replay": (3.0, 0.7, "deterministic", 0.0, "return_range", 0.0, 0.001),
    "antmaze": (10.0, 0.9, "gaussian", 0.0, 1.0, -1.0, 0.005),
    "adroit": (3.0, 0.8, "gaussian", 0.1, 1.0, 0.0, 0.005),
    "maze2d": (3.0, 0.7, "gaussian", 0.0, 1.0, 0.0, 0.005),
    "anq": (3.0, 0.7, "deterministic", 0.0, 1.0, 0.0, 0.005),
    "anq-antmaze": (10.0, 0.9, "deterministic", 0.0, 1.0, -1.0, 0.005),
    "anq-antmaze-large": (10.0, 0.9, "deterministic", 0.0, 1.0, -1.0, 0.005),
}


def test_presets_are_the_published_settings():
    assert set(IQL.presets) == {*PRESETS, "pendulum"}  # this project's own, for small data
    for family, expected in PRESETS.items():
        iql = IQL.preset(family)
        settings = (iql.beta, iql.expectile, iql.policy, iql.dropout, iql.reward_scale, iql.reward_shift, iql.polyak)
        assert settings == expected, family
        assert (iql.extraction, iql.critic, iql.schedule) == ("awr", "plain", "cosine")
        assert iql.normalize_observations == (family != "anq-antmaze-large")
        assert (iql.hidden, iql.batch_size, iql.discount) == (256, 256, 0.99)
        assert iql.critics == (4 if "anq" in family else 2)
        assert iql.largest_weight == (3.0 if family == "anq" else 100.0)
        assert iql.aggregate_q == ("mean" if "anq-antmaze" in family else "min")
        assert {iql.value_learning_rate, iql.critic_learning_rate, iql.actor_learning_rate} == {3e-4}


REFUSED: dict[str, Any] = {
    "beta": ({"beta": 0.0}, "beta must be a number > 0, not 0.0"),
    "alpha": ({"alpha": -1.0}, "alpha must be a number > 0, not -1.0"),
    "expectile": ({"expectile": 1.0}, "expectile must be a number in (0, 1), not 1.0"),
    "dropout": ({"dropout": 1.0}, "dropout must be a number in [0, 1), not 1.0"),
    "hidden": ({"hidden": 0}, "hidden must be a whole number >= 1, not 0"),
    "polyak": ({"polyak": 0.0}, "polyak must be a number in (0, 1], not 0.0"),
    "policy": ({"policy": "mixture"}, "policy"),
    "extraction": ({"extraction": "rejection"}, "extraction"),
    "schedule": ({"schedule": "linear"}, "schedule"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_make_no_sense_are_refused(case):
    settings, text = REFUSED[case]
    with pytest.raises(StackError) as refused:
        Stack(IQL(**settings))
    assert "IQL" in str(refused.value) and text in str(refused.value)


# -- seams ------------------------------------------------------------------------------------------------------------

HEARER = {"bootstrap": "critic", "td_weight": "critic", "critic_rows": "critic", "value_action": "value"}
"""The group whose gradient an answer should change; elsewhere the actor's."""
ASKED = [(name, seam) for name, learner in VARIANTS.items() for seam in sorted(learner.facts().seams)]


@pytest.mark.parametrize(("variant", "seam"), ASKED)
def test_every_seam_is_heard_where_it_should_be(variant, seam):
    plain, probed = build(VARIANTS[variant]), build(VARIANTS[variant], Probe(seam=seam, by=0.5))
    plain.run(1), probed.run(1)
    assert groups(different(learned(plain), learned(probed))) == {HEARER.get(seam, "actor")}


def test_only_a_policy_that_climbs_q_can_be_given_another_constraint():
    asked = {name: "constraint" in learner.facts().seams for name, learner in VARIANTS.items()}
    assert asked == {name: name.startswith("ddpg+bc") for name in VARIANTS}
    with pytest.raises(StackError, match="never asks"):
        Stack(IQL(), (Probe(seam="constraint"),))


def test_facts_follow_the_extraction():
    awr, ddpg = IQL(beta=4.0, alpha=5.0).facts(), IQL(beta=4.0, alpha=5.0, extraction="ddpg+bc").facts()
    assert (awr.tradeoff, awr.scales, awr.exponential_weights, awr.reads_policy_action) == (
        4.0,
        "exponent",
        True,
        False,
    )
    assert (ddpg.tradeoff, ddpg.scales, ddpg.exponential_weights, ddpg.reads_policy_action) == (
        5.0,
        "improvement",
        False,
        True,
    )


def test_it_logs_the_share_of_rows_whose_weight_is_bounded():
    share = lambda largest: trained(IQL(**SMALL, largest_weight=largest)).metrics.flush()["actor/weight_bounded"]  # noqa: E731
    assert (share(1e-30), share(1e30)) == ([1.0], [0.0])
    assert any(0 < share(1 - 0.5**power)[0] < 1 for power in range(1, 8))
