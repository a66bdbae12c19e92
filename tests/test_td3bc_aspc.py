"""TD3+BC and ASPC against a plain loop written from the papers' equations, and their parts against plain formulas."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from adaptive_constraints import ASPC, Facts, FixedTradeoff, LinearTradeoff, Terms
from adaptive_constraints.baselines import CQL, FQL, IQL, TD3BC
from adaptive_constraints.engine.engine import Engine

from .helpers import build, different, learned, random_data, resolved_of, trained
from .reference.td3bc import Meta, PlainTD3BC

# -- the plain loop ---------------------------------------------------------------------------------------------------

CASES: dict[str, Any] = {
    "plain": ("plain", None),
    "layernorm": ("layernorm", None),
    "robust": ("robust", None),
    "robust+ASPC": ("robust", Meta()),
}


def beside(case: str, dtype: torch.dtype, steps: int, seeds=(3,), **sizes) -> tuple[Engine, list[PlainTD3BC]]:
    """Engine and loops after the same steps."""
    critic, meta = CASES[case]
    adapters = (ASPC(rate=meta.rate, interval=meta.interval, ema=meta.mu),) if meta else ()
    data = random_data(1000, observation=11, action=3)
    learner = TD3BC(critic=critic, **sizes)
    engine = build(learner, *adapters, seeds=seeds, horizon=steps, data=data, dtype=dtype, traced=True)
    loops = [PlainTD3BC(engine, data, seed, meta) for seed in seeds]
    engine.run(steps)
    for loop in loops:
        loop.run(steps)
    return engine, loops


def check(engine: Engine, loop: PlainTD3BC, tolerance: float, moved: float) -> None:
    assert loop.largest_deviation(engine) < tolerance
    if loop.meta is not None:
        scale, expected = engine.diagnose()["aspc/scale"][loop.position], softplus(loop.rho.detach())
        assert abs(float(scale) - 2.5) > moved, "the scale must have moved for this to say anything"
        assert abs(float(scale - expected)) < tolerance
        average = engine.buffers["aspc"]["mean_value"][loop.position]
        assert abs(float(average - loop.average_q)) < tolerance


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop_in_float32(case):
    """At width 32: in a wide network a unit's input soon lies within rounding of 0, and ReLU makes two of one.

    After 150 steps: at 200, on one processor, the plain loop is 1.3e-5 away from itself in float64.
    """
    engine, (loop,) = beside(case, torch.float32, 150, hidden=32, batch_size=64)
    check(engine, loop, 1e-5, moved=0.05)


def test_three_seeds_equal_three_plain_loops_in_float64():
    engine, loops = beside("robust+ASPC", torch.float64, 40, seeds=(3, 0, 8), hidden=16, batch_size=32)
    for loop in loops:
        check(engine, loop, 1e-9, moved=0.03)


def test_the_real_sizes_equal_a_plain_loop():
    engine, (loop,) = beside("robust+ASPC", torch.float64, 20)
    assert (resolved_of(engine).learner.hidden, resolved_of(engine).learner.batch_size) == (256, 256)
    check(engine, loop, 1e-9, moved=0.01)


# -- ASPC's outer loss ------------------------------------------------------------------------------------------------

K, WEIGHT = torch.tensor(1.7, dtype=torch.float64), torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)


def four_rows(seed: int) -> Terms:
    draw = torch.Generator().manual_seed(seed)
    value, improvement, constraint = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    return Terms(value, improvement, constraint.abs())


def outer_loss(aspc: ASPC, facts: Facts, after: Terms) -> Tensor:
    """What the adapter says, on weights that every row has another of and a moving average of 0.3."""
    v = SimpleNamespace(
        services=SimpleNamespace(facts=facts),
        buffers={"aspc": {"mean_value": torch.tensor(0.3, dtype=torch.float64)}},
        weighted=lambda constraint: WEIGHT * constraint,
    )
    return aspc.meta_loss(v, K, four_rows(0), after).loss


def facts(scales="improvement", distribution="point") -> Facts:
    return Facts("actor", frozenset(), 2.5, scales=scales, distribution=distribution)


def l1(after: Terms) -> Tensor:
    return K * after.improvement.mean() + (WEIGHT * after.constraint).mean()


def l2(after: Terms, change: str, mu: float = 0.995) -> Tensor:
    if change == "step":
        return (after.value.mean() - four_rows(0).value.mean()) ** 2
    return (mu * 0.3 + (1 - mu) * after.value.mean() - 0.3) ** 2


L3 = {
    "D": lambda b, new, w: (b - new).abs().max(),
    "U*D": lambda b, new, w: b.max() * (b - new).abs().max(),
    "W*D": lambda b, new, w: w * (b - new).abs().max(),
    "W*U*D": lambda b, new, w: w * b.max() * (b - new).abs().max(),
    "mean": lambda b, new, w: w * b.mean() * (b - new).abs().mean(),
}


def l3(form: str, after: Terms, change: str) -> Tensor:
    return L3[form](four_rows(0).constraint, after.constraint, l2(after, change).detach())


def assert_same_function(function, expected) -> None:
    """Of the terms after the step: the same value and the same gradient."""
    leaves = [tensor.requires_grad_() for tensor in four_rows(1)]
    one, two = function(Terms(*leaves)), expected(Terms(*leaves))
    torch.testing.assert_close(one, two, rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(output, leaves, materialize_grads=True) for output in (one, two)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=0)


@pytest.mark.parametrize("change", ["ema", "step"])
@pytest.mark.parametrize("form", L3)
def test_forms_of_l3_and_of_the_change_of_value(form, change):
    assert_same_function(
        lambda after: outer_loss(ASPC(l3=form, delta_q=change), facts(), after),
        lambda after: l1(after) + l2(after, change) + l3(form, after, change),
    )


@pytest.mark.parametrize("change", ["ema", "step"])
def test_parts_of_the_outer_loss(change):
    parts = {
        "L1": lambda after: l1(after),
        "L1+L2": lambda after: l1(after) + l2(after, change),
        "L1+L3": lambda after: l1(after) + l3("W*U*D", after, change),
        "L1+L2+L3": lambda after: l1(after) + l2(after, change) + l3("W*U*D", after, change),
    }
    for loss, expected in parts.items():
        assert_same_function(
            lambda after, loss=loss: outer_loss(ASPC(loss=loss, delta_q=change), facts(), after), expected
        )


def test_the_automatic_choice_follows_the_policy():
    assert_same_function(
        lambda after: outer_loss(ASPC(), facts(), after),
        lambda after: l1(after) + l2(after, "ema") + l3("W*U*D", after, "ema"),
    )
    for distribution in ("gaussian", "tanh-gaussian", "generative"):
        assert_same_function(
            lambda after, kind=distribution: outer_loss(ASPC(), facts(distribution=kind), after),
            lambda after: l1(after) + l2(after, "step"),
        )


def test_the_scale_stands_before_the_constraint_where_the_critics_are_constrained():
    before_constraint = lambda after: after.improvement.mean() + K * (WEIGHT * after.constraint).mean()  # noqa: E731
    for aspc, constrained in ((ASPC(loss="L1"), "critic"), (ASPC(loss="L1", orientation="learner"), "actor")):
        said = replace(facts(scales="constraint"), constrained=constrained)
        assert_same_function(lambda after, aspc=aspc, said=said: outer_loss(aspc, said, after), before_constraint)


def test_the_inverse_stands_before_the_value_where_the_policy_is():
    for aspc, constrained in ((ASPC(loss="L1"), "actor"), (ASPC(loss="L1", orientation="value"), "critic")):
        said = replace(facts(scales="constraint"), constrained=constrained)
        assert_same_function(
            lambda after, aspc=aspc, said=said: outer_loss(aspc, said, after),
            lambda after: after.improvement.mean() / K + (WEIGHT * after.constraint).mean(),
        )


def test_it_warns_of_signals_that_mislead():
    assert "inflate Q" in " ".join(ASPC(loss="L1").check(CQL().facts()))
    assert "inflate Q" not in " ".join([*ASPC().check(CQL().facts()), *ASPC(loss="L1").check(TD3BC().facts())])
    assert "noisy" in " ".join(ASPC().check(IQL().facts()))
    assert "noisy" not in " ".join(ASPC().check(IQL(extraction="ddpg+bc").facts()))


@pytest.mark.parametrize(("orientation", "inverse"), [("auto", True), ("value", True), ("learner", False)])
def test_the_trade_off_is_the_learners_own_whichever_way_it_is_learned(orientation, inverse):
    """Up by a step of rho: the value's weight rises, so that a trade-off before the constraint falls."""
    engine = build(FQL(hidden=4, layers=1, batch_size=4, alpha=8.0), ASPC(orientation=orientation), dtype=torch.float64)
    tradeoff = lambda: float(engine.diagnose()["aspc/scale"])  # noqa: E731
    assert tradeoff() == pytest.approx(8.0)
    rho = engine.params["aspc.scale"]["rho"]
    assert float(softplus(rho)) == pytest.approx(1 / 8.0 if inverse else 8.0)
    with torch.no_grad():
        rho += 0.1
    assert (tradeoff() < 8.0) == inverse


def test_the_moving_average_decays_by_mu():
    v = SimpleNamespace(
        services=SimpleNamespace(facts=facts()),
        buffers={"aspc": {"mean_value": torch.tensor(0.3, dtype=torch.float64)}},
        weighted=lambda constraint: constraint,
    )
    mean = ASPC(ema=0.9).meta_loss(v, K, four_rows(0), four_rows(1)).buffers["mean_value"]
    assert float(mean) == pytest.approx(0.9 * 0.3 + 0.1 * float(four_rows(1).value.mean()), rel=1e-14)


@pytest.mark.parametrize("initial", [1e-3, 0.4, 2.5, 40.0, 1000.0])
def test_the_scale_starts_where_it_is_told_to(initial):
    engine = build(TD3BC(hidden=4, batch_size=4), ASPC(initial=initial), dtype=torch.float64)
    assert float(engine.diagnose()["aspc/scale"]) == pytest.approx(initial, rel=1e-5)


def rates(rate, interval: int, horizon: int) -> list[float]:
    """Of every outer step of a run whose actor is updated at every step."""
    step = ASPC(rate=rate, interval=interval).meta(facts())
    total = horizon // interval
    return [step.learning_rate(done, total) for done in range(total)]


def test_learning_rates_of_the_scale():
    published = rates("published", 10, 500_000)
    assert len(published) == 50_000
    assert published[0] == pytest.approx(2e-3)
    assert published[-1] == pytest.approx(2e-5, rel=1e-3)
    assert rates("published", 30, 3000)[0] == pytest.approx(6e-3)
    assert rates("scaled", 10, 500_000) == pytest.approx(published)
    assert sum(rates("scaled", 10, 50_000)) == pytest.approx(sum(published), rel=0.01), "as far in a shorter run"
    assert rates("scaled", 10, 500)[0] == 0.05, "but never faster than this"
    assert rates(0.1, 5, 50)[3] == pytest.approx(0.1 * 0.01**0.3)


# -- schedules that learn nothing -------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


@pytest.mark.parametrize("adapter", [FixedTradeoff(value=7.0), LinearTradeoff(start=7.0, end=7.0)])
def test_a_fixed_tradeoff_is_the_learners_own_of_that_value(adapter):
    assert not different(learned(trained(TD3BC(**SMALL), adapter)), learned(trained(TD3BC(alpha=7.0, **SMALL))))


def test_a_linear_tradeoff_is_a_line_to_its_end():
    engine = build(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=4.0), horizon=6, dtype=torch.float64)
    own = build(TD3BC(alpha=2.0, **SMALL), LinearTradeoff(end=8.0), horizon=6, dtype=torch.float64)
    for step in range(1, 7):
        engine.run(1), own.run(1)
        assert float(engine.diagnose()["lineartradeoff/tradeoff"]) == pytest.approx(1 + 3 * step / 6)
        assert float(own.diagnose()["lineartradeoff/tradeoff"]) == pytest.approx(2 + 6 * step / 6)


def test_a_linear_tradeoff_is_what_the_actor_is_stepped_with():
    """Its first actor update, at step 2 of 8, is that of the learner at a quarter of the way."""
    ramped, expected = (
        trained(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=5.0), steps=2, horizon=8),
        TD3BC(alpha=2.0, **SMALL),
    )
    assert not different(learned(ramped), learned(trained(expected, steps=2)))
