"""wPC against a plain loop written from its equations, and what it weighs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from adaptive_constraints import ANQ, WPC, Adapter
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp

from .helpers import build, different, largest_difference, learned, meta_gradients, random_data, resolved_of, trained
from .reference.common import beside
from .reference.wpc import PlainWPC
from .sketches import TinyCQL, TinyFQL, TinyIQL

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
LEARNERS = {"TD3BC": TD3BC(policy_every=1, **SMALL), "FQL": TinyFQL(), "IQL": TinyIQL()}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def test_equals_a_plain_loop():
    engine, loop = beside(
        PlainWPC, TD3BC(hidden=64, batch_size=64), WPC(hidden=64), steps=50, horizon=100, dtype=torch.float64
    )
    assert loop.largest_deviation(engine) < 1e-10
    assert min(loop.shares) > 0.1 and max(loop.shares) < 0.9, (
        "some rows must count and some not for this to say anything"
    )


@each_learner
def test_a_row_counts_where_the_first_critic_finds_it_better_than_the_value(learner):
    engine = trained(learner, WPC(), seeds=(0, 1))
    shown = engine.ask(
        "wpc",
        lambda v: {
            "weight": v.sample_weight(),
            "q": v.services.q(v.p["critic"], v.s, v.a)[0],
            "value": mlp(v.p["wpc.value"], v.s).squeeze(-1),
        },
    )
    expected = [
        [1.0 if q > value else 0.0 for q, value in zip(*pair, strict=True)]
        for pair in zip(shown["q"].tolist(), shown["value"].tolist(), strict=True)
    ]
    assert shown["weight"].tolist() == expected
    assert {0.0, 1.0} == {weight for row in expected for weight in row}
    assert engine.diagnose()["wpc/imitated"].tolist() == pytest.approx([sum(row) / len(row) for row in expected])


@dataclass(frozen=True)
class Constant(Adapter):
    """One weight for all rows."""

    weight: float = 1.0

    def sample_weight(self, v):
        return self.weight


@pytest.mark.parametrize("level", [-1e3, 1e3])
def test_all_rows_count_below_any_action_and_none_above(level):
    """Under such a value the learner is as it was, or does not imitate at all."""
    learner, weight = LEARNERS["TD3BC"], 1.0 if level < 0 else 0.0
    engine, expected = build(learner, WPC(), **TWO), trained(learner, Constant(weight=weight), **TWO)
    engine.params["wpc.value"]["bias2"].fill_(level)
    engine.run(4)
    assert engine.diagnose()["wpc/imitated"].tolist() == [weight] * 2
    beside, plain = learned(engine), learned(expected)
    assert not different(plain, {name: beside[name] for name in plain})


TWO: dict[str, Any] = {"seeds": (0, 1)}


def test_the_value_regresses_on_the_critics_own_target():
    """Draws included: it sees what the critics see, and another adapter's bootstrap with it."""
    for adapters in ((), (ANQ(hidden=8),)):
        engine = trained(LEARNERS["TD3BC"], *adapters, WPC(hidden=8), dtype=torch.float64)
        wpc = resolved_of(engine).adapters[-1]
        shown = engine.ask(
            "wpc",
            lambda v, wpc=wpc: {
                "loss": wpc.loss(v.p["wpc.value"], v),
                "target": v.resolved.learner.target(v),
                "value": mlp(v.p["wpc.value"], v.s).squeeze(-1),
            },
        )
        torch.testing.assert_close(shown["loss"], (shown["target"] - shown["value"]).square().mean(1))


def test_about_half_the_rows_count_while_values_grow():
    """The slow target critics lag behind; a value regressed on them would let nearly every row count."""
    data = random_data(1000)
    data = replace(data, rewards=data.rewards + 5)
    engine = build(
        TD3BC(hidden=16, batch_size=64, critic_learning_rate=3e-3), WPC(hidden=16, learning_rate=3e-3), data=data
    )
    engine.run(100)
    engine.metrics.flush()
    shares = []
    for _ in range(20):
        engine.run(2)
        shares.append(float(engine.diagnose()["wpc/imitated"]))
    assert engine.metrics.flush()["actor/value"][0] > 3
    assert 0.3 < sum(shares) / len(shares) < 0.7


def test_a_width_out_of_range_is_refused():
    with pytest.raises(StackError, match="WPC: hidden must be a whole number >= 1, not 0"):
        WPC(hidden=0)


def test_where_nothing_weighs_rows_it_is_refused():
    with pytest.raises(StackError, match=r"WPC.*answers 'sample_weight', which TinyCQL never asks"):
        Stack(TinyCQL(), (WPC(),))


def test_where_rows_are_weighted_already_it_warns():
    assert "already weights by exp" in Stack(TinyIQL(), (WPC(),)).resolve().warnings[0].text
    assert not Stack(TD3BC(), (WPC(),)).resolve().warnings


def test_it_judges_the_action_that_is_imitated():
    @dataclass(frozen=True)
    class Opposite(Adapter):
        def behavior_action(self, v, default):
            return -default()

    engine = trained(TD3BC(hidden=8, batch_size=64), Opposite(), WPC())
    wpc = resolved_of(engine).adapters[1]
    shown = engine.ask(
        "wpc",
        lambda v: {
            "weight": wpc.sample_weight(v),
            "imitated": v.services.q(v.p["critic"], v.s, v.behavior_action())[0] - wpc.value(v.p["wpc.value"], v.s),
            "data": v.services.q(v.p["critic"], v.s, v.a)[0] - wpc.value(v.p["wpc.value"], v.s),
        },
    )
    assert torch.equal(shown["weight"] == 1, shown["imitated"] > 0)
    assert not torch.equal(shown["imitated"] > 0, shown["data"] > 0), "the two must differ for this to say anything"


@each_learner
def test_seeds_together_are_seeds_alone(learner):
    settings: dict[str, Any] = {"steps": 5, "dtype": torch.float64}
    together = trained(learner, WPC(), **TWO, **settings)
    for position, seed in enumerate(TWO["seeds"]):
        alone = trained(learner, WPC(), seeds=(seed,), **settings)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_traced_is_eager():
    one, two = (trained(LEARNERS["TD3BC"], WPC(), **TWO, traced=is_traced) for is_traced in (True, False))
    assert not different(learned(one), learned(two))


@each_learner
def test_beside_a_learned_trade_off(learner):
    """The meta-gradient through the weighted imitation agrees with autograd's."""
    (closed_form,), (expected,) = meta_gradients(learner, WPC(), rounds=1, horizon=10)
    assert expected.abs().max() > 0
    torch.testing.assert_close(closed_form, expected, rtol=1e-8, atol=0)
