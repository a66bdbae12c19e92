"""The coefficient of SSAR: where it starts, what moves it, how fast it learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import SSAR, Adapter, Dataset, Spec
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.testing import made_data

from .helpers import build, different, largest_difference, learned, trained
from .selective import SMALL, Fixed
from .sketches import LEARNERS, TinyFQL, TinyIQL, each_learner

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


def weights(ssar: SSAR, output: Tensor) -> Tensor:
    """beta / beta_0 where the network puts out ``output``: its input, by way of one layer each way."""
    p = {"weight0": torch.ones(1, 1).to(output), "bias0": torch.zeros(1).to(output)}
    return ssar.weight(p, output[:, None])


@pytest.mark.parametrize("cap", [1.1, 1.5, 1.7, 2.0, 3.3])
def test_the_coefficient_is_a_sigmoid_that_is_one_at_zero(cap):
    output = torch.linspace(-12, 12, 97, dtype=torch.float64)
    weight = weights(SSAR(cap=cap), output)
    torch.testing.assert_close(weight, cap * torch.sigmoid(output - math.log(cap - 1)), rtol=1e-12, atol=0)
    assert ((weight > 0) & (weight < cap)).all()
    for dtype in (torch.float32, torch.float64):
        assert (weights(SSAR(cap=cap), torch.zeros(100, dtype=dtype)) == 1).all()


def test_the_coefficient_has_finite_derivatives_everywhere():
    output = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4], requires_grad=True)
    (first,) = torch.autograd.grad(weights(SSAR(), output).sum(), output, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), output)
    assert first.isfinite().all() and second.isfinite().all()
    assert (first >= 0).all()


def test_the_coefficient_starts_near_the_learners_own():
    """Within 10 %, inside (0, 1.5), other from state to state, hidden biases 0."""
    ssar = SSAR()
    p = ssar.init(Spec(17, 6), TD3BC().facts(), torch.Generator().manual_seed(0))["beta"]
    assert [tuple(p[f"weight{i}"].shape) for i in range(4)] == [(17, 512), (512, 512), (512, 512), (512, 1)]
    assert all((p[f"bias{i}"] == 0).all() for i in range(4))
    assert float(p["weight1"].abs().max()) == pytest.approx(math.sqrt(6 / 1024), rel=1e-3)
    weight = ssar.weight(p, torch.randn(2000, 17, generator=torch.Generator().manual_seed(1)))
    assert abs(float(weight.mean()) - 1) < 0.1
    assert 0 < float(weight.min()) < float(weight.max()) < 1.5
    assert 0.005 < float(weight.std()) < 0.1


@pytest.mark.parametrize(
    ("learner", "beta_0"),
    [(TD3BC(alpha=2.5), 0.4), (TinyIQL(temperature=4.0), 0.25), (CQL(alpha=5.0), 5.0), (TinyFQL(alpha=3.0), 3.0)],
)
def test_the_initial_coefficient(learner, beta_0):
    assert SSAR().beta_0(learner.facts()) == pytest.approx(beta_0)


@pytest.mark.parametrize(("w", "sign"), [(0.005, -1), (-0.05, 1)])
def test_a_constant_w_moves_the_coefficient(w, sign):
    ssar = Fixed(select="all", w=w, hidden=8, rate=1e-2)
    engine = trained(LEARNERS["TD3BC"], ssar, steps=1)
    before = engine.diagnose()
    engine.run(40)
    after = engine.diagnose()
    for percent in (10, 50, 90):
        assert sign * float(after[f"ssar/weight_{percent}"] - before[f"ssar/weight_{percent}"]) > 0.2
    assert float(after["ssar/trusted_margin"]) == pytest.approx(w)


@dataclass(frozen=True)
class Nobody(SSAR):
    """Trusts no row."""

    name: str = "ssar"

    def trusted(self, v):
        return torch.zeros_like(v.r)


@dataclass(frozen=True)
class Unbound(Adapter):
    """No constraint."""

    def constraint_weight(self, v):
        return 0.0


def test_untrusted_rows_leave_an_imitation_by_advantage():
    """There a weight of the constraint divides an exponent: 0 would make such rows count up to 100 times."""
    engine = trained(TinyIQL(), SSAR(hidden=8, trusted_fraction=0.5), data=made_data())

    def look(v) -> dict[str, Tensor]:
        return {"rows": v.sample_weight(), "trusted": v.batch["ssar.trusted"], "constraint": v.constraint_weight()}

    shown = engine.ask("look", look)
    assert torch.equal(shown["rows"], shown["trusted"]) and 0 < shown["rows"].mean() < 1
    assert (shown["constraint"] > 0.5).all()


@each_learner
def test_without_trusted_rows_nothing_is_learned_or_constrained(learner):
    """n stays too."""
    ssar = Nobody(select="all", loosen_bound=True, hidden=8, rate=1e-2, growth_every=1)
    start, engine, unbound = build(learner, ssar), trained(learner, ssar), trained(learner, Unbound())
    assert not different(engine.params["ssar.beta"], start.params["ssar.beta"])
    assert float(engine.buffers["ssar"]["n"]) == 1
    selective, expected = learned(engine), learned(unbound)
    assert largest_difference({name: selective[name] for name in expected}, expected) < 1e-6
    assert float(engine.diagnose()["ssar/trusted_margin"]) == 0


def test_the_loss_divides_by_all_rows():
    """Not by the trusted ones, and w carries no gradient."""
    engine = build(LEARNERS["TD3BC"], SSAR(select="return", hidden=8), dtype=torch.float64)
    engine.run(1)

    def look(v) -> dict[str, Tensor]:
        ssar = v.resolved.adapters[0]
        p = {name: t.detach().requires_grad_() for name, t in v.p["ssar.beta"].items()}
        with torch.enable_grad():
            beta = 1.5 * 0.4 * torch.sigmoid(perceptron_of(p, v.s) + math.log(2))
            squared = (v.services.distribution(v.p["actor"], v.s).action - v.a).square().clamp(max=1).mean(1)
            expected = ((0.01 - squared) * beta * v.batch["ssar.trusted"]).sum() / len(v.r)
            loss = ssar.loss(p, v)
            gradients = [torch.autograd.grad(value, p["weight0"])[0] for value in (loss, expected)]
        return {"loss": loss, "expected": expected, "gradients": torch.stack(gradients)}

    seen = engine.ask("ssar", look)
    torch.testing.assert_close(seen["loss"], seen["expected"], rtol=1e-12, atol=0)
    torch.testing.assert_close(*seen["gradients"][0], rtol=1e-9, atol=1e-15)
    assert 0 < float(engine.diagnose()["ssar/trusted_in_batch"]) < 1


def perceptron_of(p: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in range(3):
        x = torch.relu(x @ p[f"weight{i}"] + p[f"bias{i}"])
    return (x @ p["weight3"] + p["bias3"])[:, 0]


def rate_of(learner, ssar: SSAR, horizon: int) -> float:
    stage = next(s for s in Stack(learner, (ssar,)).resolve().stages if any("beta" in u.group for u in s.updates))
    update = stage.updates[-1]
    assert update.clip == 0.5
    assert learner.facts().constrained in [update.group for update in stage.updates]
    return update.learning_rate(1, horizon) if callable(update.learning_rate) else update.learning_rate


def test_learning_rates():
    """Its product with the number of beta's steps is the published one, however often beta steps."""
    on_point, on_others = TD3BC(**SMALL), LEARNERS["CQL"]
    assert rate_of(on_point, SSAR(), 1_000_000) == pytest.approx(3e-8)
    assert rate_of(on_others, SSAR(), 1_000_000) == pytest.approx(1e-8)
    assert rate_of(on_point, SSAR(), 50_000) == pytest.approx(6e-7)
    assert rate_of(on_point, SSAR(published_steps=2_000_000), 2_000_000) == pytest.approx(3e-8)
    assert rate_of(on_point, SSAR(rate="published"), 50_000) == pytest.approx(3e-8)
    assert rate_of(on_others, SSAR(rate=1e-4), 50_000) == 1e-4
    for every in (1, 2, 4):
        steps = 50_000 // every
        assert rate_of(TD3BC(**SMALL, policy_every=every), SSAR(), 50_000) * steps == pytest.approx(0.015)


def of_returns(returns: list[float]) -> Dataset:
    """Single rows, each an episode with this return."""
    count = len(returns)
    return Dataset.from_arrays(
        observations=np.arange(3 * count).reshape(count, 3) % 7,
        actions=np.arange(2 * count).reshape(count, 2) % 5 / 5,
        rewards=returns,
        next_observations=np.ones((count, 3)),
        terminals=np.ones(count, bool),
    )


@pytest.mark.parametrize(("critic", "loosened"), [("plain", False), ("layernorm", True), ("robust", True)])
def test_untrusted_states_are_let_go_where_the_critics_bear_it(critic, loosened):
    """By default; the learner of a plain critic keeps its constraint there."""
    data = of_returns([0.0] * 16 + [9.0] * 16)
    engine = trained(TD3BC(hidden=8, batch_size=32, critic=critic), SSAR(hidden=8), data=data)
    seen = engine.ask("ssar", lambda v: {"weight": v.constraint_weight(), "trusted": v.batch["ssar.trusted"]})
    untrusted = seen["weight"][seen["trusted"] == 0]
    assert len(untrusted) and (untrusted == 0).all() == loosened
