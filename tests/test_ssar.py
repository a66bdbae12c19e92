"""SSAR against plain loops written from the paper's equations; its deviations, its trusted subset, its online phase."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from adaptive_constraints import ASPC, SSAR, Adapter, Dataset, FixedTradeoff, Gaussian, Point, Spec, wrap
from adaptive_constraints.adapters.deviation import TrustInterval
from adaptive_constraints.adapters.ssar_presets import ON_CQL, ON_TD3BC
from adaptive_constraints.baselines import CQL, FQL, TD3BC
from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.errors import DatasetError, StackError
from adaptive_constraints.networks import TanhGaussian
from adaptive_constraints.pretraining.preparation import prepare
from adaptive_constraints.testing import check_adapter, made_data

from .helpers import build, different, largest_difference, learned, random_data, trained
from .reference.common import NAMES, Scalar, adam, average, beside, minibatch, take, update_together
from .reference.ssar import THRESHOLD, Coefficient, OnCQL, OnTD3BC, squashed_margin
from .sketches import LEARNERS, TinyCQL, TinyFQL, TinyIQL, each_learner

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


# -- plain loops ------------------------------------------------------------------------------------------------------


def beside_ssar(loop: type[Coefficient], learner, dtype, loosen_bound: bool, steps: int) -> tuple[Engine, Coefficient]:
    """An engine and a plain loop after the same steps; n grows in between."""
    ssar = SSAR(select="return", return_threshold=THRESHOLD, loosen_bound=loosen_bound, hidden=24, growth_every=20)
    start = learned(build(learner, ssar, seeds=(0,), horizon=steps, data=random_data(1000, 11, 3), dtype=dtype))
    make = lambda engine, data: loop(engine, data, loosen_bound, 20)  # noqa: E731
    engine, plain = beside(make, learner, ssar, steps=steps, seeds=(0,), dtype=dtype)
    assert float(engine.buffers["ssar"]["n"]) == pytest.approx(plain.n) == pytest.approx(1 + 0.2 * min(10, steps // 20))
    moved = {name: float((learned(engine)[name] - start[name]).abs().max()) for name in start}
    assert moved["params/ssar.beta/bias3"] > 1e-3, "the coefficient must have moved for this to say anything"
    return engine, plain


@pytest.mark.parametrize(("loosen_bound", "steps"), [(True, 100), (False, 40)])
def test_equals_a_plain_loop_on_td3bc(loosen_bound, steps):
    engine, plain = beside_ssar(OnTD3BC, TD3BC(hidden=64, batch_size=64), torch.float32, loosen_bound, steps)
    assert plain.largest_deviation(engine) < 1e-5


@pytest.mark.parametrize(("loosen_bound", "steps"), [(True, 50), (False, 25)])
def test_equals_a_plain_loop_on_cql(loosen_bound, steps):
    engine, plain = beside_ssar(OnCQL, CQL(hidden=16, batch_size=16), torch.float64, loosen_bound, steps)
    assert plain.largest_deviation(engine) < 1e-9


# -- neutral ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{"select": "all"}, {"loosen_bound": False, "cap": 1.3}], ids=["all", "bound"])
@each_learner
def test_frozen_is_the_learner_bit_for_bit(learner, settings, dtype):
    options: dict[str, Any] = {"seeds": (0, 1), "dtype": dtype}
    bare, frozen = (trained(learner, *each, **options) for each in ((), (SSAR(frozen=True, hidden=8, **settings),)))
    plain, beside = learned(bare), learned(frozen)
    assert not different(plain, {name: beside[name] for name in plain})


def test_frozen_is_still_selective():
    """Alone, the trust flags leave out rows."""
    frozen = SSAR(frozen=True, hidden=8)
    one, two = (trained(LEARNERS["TD3BC"], *each) for each in ((), (frozen,)))
    assert not torch.equal(one.params["actor"]["weight0"], two.params["actor"]["weight0"])


@pytest.mark.parametrize("name", ["TD3BC", "CQL", "FQL"])
def test_the_laws_of_adapters(name):
    """Seeds together as alone, traced as eager, saved and resumed, apart from others, in both phases."""
    check_adapter(SSAR(hidden=8, rate=1e-3, growth_every=1), LEARNERS[name])


def test_resumes_bit_for_bit_where_seeds_trust_other_rows():
    data = made_data()
    ssar = SSAR(select="advantage", selection_steps=5, hidden=8, rate=1e-3, growth_every=2)
    whole, parted = (wrap(LEARNERS["TD3BC"], ssar) for _ in range(2))
    options: dict[str, Any] = {"steps": 8, "seeds": 2, "traced": False, "progress": False, "device": "cpu"}
    whole.fit(data, **options)
    parted.fit(data, stop_after=3, **options)
    parted.fit(data, **options)
    assert not different(learned(whole.run.engine), learned(parted.run.engine))
    assert not torch.equal(*prepared(ssar, data, (0, 1)).seed_columns["trusted"])


# -- the coefficient --------------------------------------------------------------------------------------------------


def weights(ssar: SSAR, output: Tensor) -> Tensor:
    """beta / beta_0 where the network puts out ``output``: its input, by way of one layer each way."""
    p = {"weight0": torch.ones(1, 1).to(output), "bias0": torch.zeros(1).to(output)}
    return ssar.weight(p, output[:, None])


@pytest.mark.parametrize("cap", [1.1, 1.5, 1.7, 2.0, 3.3])
def test_the_coefficient_is_a_sigmoid_that_is_one_at_zero(cap):
    output = torch.linspace(-12, 12, 97, dtype=torch.float64)
    found = weights(SSAR(cap=cap), output)
    torch.testing.assert_close(found, cap * torch.sigmoid(output - math.log(cap - 1)), rtol=1e-12, atol=0)
    assert ((found > 0) & (found < cap)).all()
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
    found = ssar.weight(p, torch.randn(2000, 17, generator=torch.Generator().manual_seed(1)))
    assert abs(float(found.mean()) - 1) < 0.1
    assert 0 < float(found.min()) < float(found.max()) < 1.5
    assert 0.005 < float(found.std()) < 0.1


@pytest.mark.parametrize(
    ("learner", "beta_0"),
    [(TD3BC(alpha=2.5), 0.4), (TinyIQL(temperature=4.0), 0.25), (CQL(alpha=5.0), 5.0), (TinyFQL(alpha=3.0), 3.0)],
)
def test_the_initial_coefficient(learner, beta_0):
    assert SSAR().beta_0(learner.facts()) == pytest.approx(beta_0)


@dataclass(frozen=True)
class Fixed(SSAR):
    """Learns from a given w."""

    name: str = "ssar"
    w: float = 0.0

    def margin(self, v):
        return torch.full_like(v.r, self.w)


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

    found = engine.ask("look", look)
    assert torch.equal(found["rows"], found["trusted"]) and 0 < found["rows"].mean() < 1
    assert (found["constraint"] > 0.5).all()


@each_learner
def test_without_trusted_rows_nothing_is_learned_or_constrained(learner):
    """n stays too."""
    ssar = Nobody(select="all", hidden=8, rate=1e-2, growth_every=1)
    start, engine, unbound = build(learner, ssar), trained(learner, ssar), trained(learner, Unbound())
    assert not different(engine.params["ssar.beta"], start.params["ssar.beta"])
    assert float(engine.buffers["ssar"]["n"]) == 1
    found, expected = learned(engine), learned(unbound)
    assert largest_difference({name: found[name] for name in expected}, expected) < 1e-6
    assert float(engine.diagnose()["ssar/trusted_margin"]) == 0


def test_the_loss_divides_by_all_rows():
    """Not by the trusted ones, and w carries no gradient."""
    engine = build(LEARNERS["TD3BC"], SSAR(hidden=8), dtype=torch.float64)
    engine.run(1)

    def look(v) -> dict[str, Tensor]:
        ssar = v.resolved.adapters[0]
        p = {name: t.detach().requires_grad_() for name, t in v.p["ssar.beta"].items()}
        with torch.enable_grad():
            beta = 1.5 * 0.4 * torch.sigmoid(perceptron_of(p, v.s) + math.log(2))
            squared = (v.services.distribution(v.p["actor"], v.s).action - v.a).square().clamp(max=1).mean(1)
            expected = ((0.01 - squared) * beta * v.batch["ssar.trusted"]).sum() / len(v.r)
            found = ssar.loss(p, v)
            gradients = [torch.autograd.grad(each, p["weight0"])[0] for each in (found, expected)]
        return {"found": found, "expected": expected, "gradients": torch.stack(gradients)}

    seen = engine.ask("ssar", look)
    torch.testing.assert_close(seen["found"], seen["expected"], rtol=1e-12, atol=0)
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
    assert learner.facts().constrained in [each.group for each in stage.updates]
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


# -- deviation --------------------------------------------------------------------------------------------------------


def margin(kind: str, policy: object, a: Tensor, n: float, distribution: str = "point", **other) -> Tensor:
    """w of a policy that says the same at all states."""
    facts = SimpleNamespace(policy="actor", distribution=distribution)
    services = SimpleNamespace(facts=facts, distribution=lambda p, s: policy, **other)
    v = SimpleNamespace(services=services, p={"actor": {}}, a=a, behavior_action=lambda: a, s=torch.zeros(len(a), 3))
    return TrustInterval(kind, 0.1, 4, "ssar/draws").margin(v, torch.tensor(n).to(a))


@pytest.mark.parametrize("n", [1.0, 1.5, 3.0, 5.0])
def test_fixed_sigma(n):
    """The margin (n / 10)^2 less the mean squared distance, with the bound of 1 on each dimension's square."""
    pi = torch.tensor([[0.3, -0.4], [0.0, 0.0], [0.9, 0.0]], dtype=torch.float64)
    data = pi + torch.tensor([[0.0, 0.0], [0.2, 0.2], [-1.8, 0.1]], dtype=torch.float64)
    found = margin("fixed_sigma", Point(pi), data, n)
    expected = [n**2 * 0.01, n**2 * 0.01 - 0.04, n**2 * 0.01 - (1 + 0.01) / 2]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    if n == 1:
        assert float(found[1]) == pytest.approx(-0.03)


def test_fixed_sigma_around_the_mean_of_gaussians():
    mean, data = torch.tensor([[0.5]]), torch.tensor([[0.2]])
    policy = Gaussian(mean, torch.ones(1, 1), Normal(mean, 1.0).log_prob)
    for distribution, center in (("gaussian", 0.5), ("tanh-gaussian", math.tanh(0.5))):
        found = margin("fixed_sigma", policy, data, 1.0, distribution)
        assert float(found) == pytest.approx(0.01 - (center - 0.2) ** 2)


def some_normals() -> tuple[Normal, Tensor]:
    """Narrow and wide, in the middle and near a bound; with data anywhere."""
    draw = torch.Generator().manual_seed(0)
    mean = 1.5 * torch.randn(400, 3, generator=draw, dtype=torch.float64)
    std = torch.exp(1.2 * torch.randn(400, 3, generator=draw, dtype=torch.float64) - 2)
    data = 2 * torch.rand(400, 3, generator=draw, dtype=torch.float64) - 1
    return Normal(mean, std), data.clamp(-0.9999, 0.9999)


@pytest.mark.parametrize("n", [1.0, 1.4, 3.0, 5.0])
def test_density_of_a_squashed_policy(n):
    normal, data = some_normals()
    policy = TanhGaussian(normal.mean, normal.stddev.log())
    found = margin("density", Gaussian(policy.mean, policy.std, policy.log_density), data, n, "tanh-gaussian")
    torch.testing.assert_close(found, squashed_margin(normal, data, n), rtol=1e-6, atol=1e-9)
    assert (found > 0).any() and (found < 0).any()


@pytest.mark.parametrize("n", [1.0, 3.0])
def test_density_of_a_plain_gaussian(n):
    """log pi(a) - C_n is (n^2 - z^2) / 2 there, and 10 standard deviations are the most that counts."""
    normal, data = some_normals()
    gaussian = Gaussian(normal.mean, normal.stddev, normal.log_prob)
    z = (data - normal.mean) / normal.stddev
    expected = (n**2 - z.abs().clamp(max=10) ** 2).mean(-1) / 2
    torch.testing.assert_close(margin("density", gaussian, data, n, "gaussian"), expected, rtol=1e-9, atol=1e-9)


def test_density_before_the_tanh():
    """The data's action at the mean is inside wherever the mean is; after the tanh, one beside it may count as more."""
    mean = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    policy = TanhGaussian(mean, torch.full_like(mean, math.log(0.5)))
    gaussian = Gaussian(mean, policy.std, policy.log_density)
    at_mean, farther = torch.tanh(mean), torch.tanh(mean + torch.tensor([[0.75, 0.0]]))
    found = [margin("pre_tanh", gaussian, a, 1.0, "tanh-gaussian") for a in (at_mean, farther)]
    assert [float(each) for each in found] == pytest.approx([0.5, (0.5 + (1 - 1.5**2) / 2) / 2])
    found = [margin("density", gaussian, a, 1.0, "tanh-gaussian") for a in (at_mean, farther)]
    assert float(found[1]) > float(found[0])


def test_surrogate_is_the_nearest_of_the_draws():
    draws = torch.tensor([[0.9], [-0.3], [0.1], [-2.0], [0.45], [0.0], [0.8], [0.5]])
    asked = []

    def sample(p, s, site):
        asked.append((len(s), site))
        return draws

    found = margin("surrogate", None, torch.tensor([[0.5], [-0.2]]), 3.0, "generative", sample=sample)
    # Draws of state 0 stand at 0, 2, 4, 6; of state 1 at 1, 3, 5, 7.
    torch.testing.assert_close(found, torch.tensor([0.09 - 0.05**2, 0.09 - 0.1**2]))
    assert asked == [(8, "ssar/draws")]


def test_on_a_learner_with_a_model_of_the_behaviour_it_is_the_distance_to_that():
    learner = FQL(hidden=8, layers=2, batch_size=16)
    engine = trained(learner, SSAR(hidden=8, n_start=2.0), steps=2, dtype=torch.float64)
    w, constraint = (
        engine.ask("ssar", lambda v, what=what: {"": what(v)})[""]
        for what in (lambda v: v.resolved.adapters[0].margin(v), lambda v: learner.terms(v.p["student"], v).constraint)
    )
    torch.testing.assert_close(w, 0.04 - constraint.clamp(max=1))
    surrogate = trained(learner, SSAR(hidden=8, deviation="surrogate"), steps=2)
    assert any(site == "ssar/draws" for _, site, *_ in surrogate.draws)


def two_places() -> Dataset:
    """Where the state is negative the data's action is 0, elsewhere it is +-0.9."""
    draw, rows = np.random.default_rng(0), 400
    side = np.where(np.arange(rows) % 2 == 0, -1.0, 1.0)
    action = np.where(side < 0, 0.0, 0.9 * draw.choice([-1.0, 1.0], rows))
    return Dataset.from_arrays(
        observations=side[:, None] + 0.1 * draw.normal(size=(rows, 1)),
        actions=np.stack([action, action], 1),
        rewards=np.zeros(rows),
        next_observations=np.zeros((rows, 1)),
        terminals=np.arange(rows) % 10 == 9,
    )


@pytest.mark.parametrize("learner", [TD3BC(hidden=8, policy_every=1), TinyCQL()], ids=["point", "density"])
def test_the_coefficient_falls_where_the_policy_covers_the_data_and_rises_elsewhere(learner):
    """A policy whose mean is about 0 throughout the run."""
    engine = build(learner, SSAR(select="all", hidden=16, rate=6e-3, growth_every=1000), data=two_places())
    last = max(name for name in engine.params["actor"] if name.startswith("weight"))
    for name in (last, last.replace("weight", "bias")):
        engine.params["actor"][name].zero_()
    engine.run(50)

    def look(v) -> dict[str, Tensor]:
        places = torch.tensor([[-1.0], [1.0]])
        return {"weight": v.resolved.adapters[0].weight(v.p["ssar.beta"], places)}

    covered, uncovered = engine.ask("ssar", look)["weight"][0].tolist()
    assert covered < 0.8 and uncovered > 1.2


# -- the schedule of n ------------------------------------------------------------------------------------------------


def path_of_n(ssar: SSAR, steps: int, horizon: int) -> list[float]:
    engine = build(LEARNERS["TD3BC"], ssar, horizon=horizon)
    found = []
    for _ in range(steps):
        engine.run(1)
        found.append(float(engine.buffers["ssar"]["n"]))
    return found


def test_n_grows_in_ten_steps():
    """The published growth, on a run of 60 steps: every 3 of them."""
    found = path_of_n(Fixed(select="all", w=-1.0, hidden=8), 40, horizon=60)
    expected = [min(3.0, 1 + 0.2 * (step // 3)) for step in range(1, 41)]
    assert found == pytest.approx(expected)
    assert path_of_n(Fixed(select="all", w=-1.0, hidden=8, n_start=5.0, n_end=5.0), 6, 60) == [5.0] * 6


def test_n_grows_at_the_published_times():
    facts = TD3BC().facts()
    assert SSAR().advance_every(facts, 1_000_000) == 50_000
    assert SSAR().advance_every(facts, 20_000) == 1_000
    assert SSAR(published_steps=2_000_000).advance_every(facts, 2_000_000) == 50_000
    assert SSAR().advance_every(facts, 5) == 1
    assert SSAR(growth_every=7).advance_every(facts, 1_000_000) == 7


@dataclass(frozen=True)
class Scripted(SSAR):
    """w and trust as the step says."""

    name: str = "ssar"
    inside_at: tuple[int, ...] = ()
    trusted_from: int = 0

    def trusted(self, v):
        """The first half of the rows, and from some step on."""
        first = torch.arange(len(v.r)) < len(v.r) // 2
        return (first & (v.step >= self.trusted_from)).to(v.r.dtype)

    def margin(self, v):
        """Untrusted rows say the contrary of what the trusted do."""
        inside = sum((v.step == step).to(v.r.dtype) for step in self.inside_at)
        return (2 * inside - 1) * (3 * (torch.arange(len(v.r)) < len(v.r) // 2) - 2).to(v.r.dtype)


def test_n_is_frozen_for_ever_once_the_trusted_rows_are_inside():
    found = path_of_n(Scripted(select="all", inside_at=(4,), hidden=8, growth_every=1), 8, 100)
    assert found == pytest.approx([1.2, 1.4, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6])
    found = path_of_n(Scripted(select="all", inside_at=(3,), hidden=8, growth_every=2), 8, 100)
    assert found == pytest.approx([1.0, 1.2, 1.2, 1.4, 1.4, 1.6, 1.6, 1.8]), "only when n is due"


def test_a_minibatch_without_trusted_rows_changes_nothing():
    ssar = Scripted(select="all", trusted_from=4, inside_at=(2, 6), hidden=8, growth_every=1)
    found = path_of_n(ssar, 7, 100)
    assert found == pytest.approx([1.0, 1.0, 1.0, 1.2, 1.4, 1.4, 1.4])


# -- the trusted subset -----------------------------------------------------------------------------------------------


def episodes(*rewards: list[float]) -> Dataset:
    """One episode per list; every second one is cut off by time."""
    flat = np.concatenate(rewards)
    ends = np.cumsum([len(each) for each in rewards]) - 1
    terminals, timeouts = np.zeros(len(flat), bool), np.zeros(len(flat), bool)
    terminals[ends[::2]], timeouts[ends[1::2]] = True, True
    draw = np.random.default_rng(0)
    return Dataset.from_arrays(
        observations=draw.normal(size=(len(flat), 3)),
        actions=draw.uniform(-0.9, 0.9, size=(len(flat), 2)),
        rewards=flat,
        next_observations=draw.normal(size=(len(flat), 3)),
        terminals=terminals,
        timeouts=timeouts,
        name="hand-made",
    )


def prepared(ssar: SSAR, data: Dataset, seeds=(0,), learner=None, **preprocess):
    resolved = Stack(learner or LEARNERS["TD3BC"], (ssar,)).resolve()
    return prepare(resolved, data, Preprocessor.fit(data, **preprocess), seeds, CPU)["ssar"]


def test_trusted_by_return():
    """Strictly above, by raw rewards, whole episodes."""
    data = episodes([1, 2, 3], [1, 1], [4], [3, 3, 3])
    for threshold, expected in (
        (4, [1, 1, 1, 0, 0, 0, 1, 1, 1]),
        (3.9, [1, 1, 1, 0, 0, 1, 1, 1, 1]),
        (6, [0, 0, 0, 0, 0, 0, 1, 1, 1]),
    ):
        found = prepared(SSAR(return_threshold=float(threshold)), data, (0, 1), reward_scale=100.0)
        assert found.columns["trusted"].tolist() == expected
        assert found.online == {"trusted": 1.0}
        torch.testing.assert_close(found.models["trusted_share"], torch.full((2,), sum(expected) / 9))


def test_trusted_by_rank():
    data = episodes([1, 2, 3], [1, 1], [4], [3, 3, 3], [6])  # returns 6, 2, 4, 9, 6
    for fraction, expected in (
        (0.01, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),
        (0.2, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),
        (0.4, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]),  # a tie
        (0.8, [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
        (1.0, [1] * 10),
    ):
        assert prepared(SSAR(trusted_fraction=fraction), data).columns["trusted"].tolist() == expected


def test_trusted_by_success():
    data = episodes([0, 0, 1], [0, 1, 0], [1], [0, 0])
    found = prepared(SSAR(select="success"), data, reward_shift=-1.0)
    assert found.columns["trusted"].tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 0]


def test_one_episode_is_trusted_whole():
    data = episodes([1.0, -2.0, 0.5])
    assert prepared(SSAR(), data).columns["trusted"].tolist() == [1, 1, 1]
    engine = trained(LEARNERS["TD3BC"], SSAR(hidden=8), data=data)
    assert all(tensor.isfinite().all() for tensor in engine.state().values())


def test_all_needs_no_column():
    assert prepared(SSAR(select="all"), episodes([1.0, 2.0])).columns == {}
    engine = trained(LEARNERS["TD3BC"], SSAR(select="all", hidden=8))
    assert float(engine.diagnose()["ssar/trusted_in_batch"]) == 1


def test_nothing_to_trust_is_an_error_that_names_rule_threshold_and_best_return():
    data = episodes([1, 2, 3], [1.5])
    with pytest.raises(DatasetError, match=r"ssar.*'hand-made'.*'return'.*above 6\.0.*best return in the data is 6\b"):
        prepared(SSAR(return_threshold=6.0), data)
    with pytest.raises(DatasetError, match=r"'success'.*episodes that reached the goal.*best return in the data is 3"):
        prepared(SSAR(select="success"), episodes([3.0, 0.0], [1.0, -1.0]))


def test_a_tiny_trusted_share_is_warned_of():
    data = episodes([1.0] * 300, [400.0], [0.0] * 200)
    with pytest.warns(UserWarning, match=r"ssar trusts only 0\.20% of 'hand-made'.*'return'.*above 399"):
        prepared(SSAR(return_threshold=399.0), data)
    with pytest.warns(UserWarning, match=r"only 0\.20%.*the best 0\.10% of episodes"):
        prepared(SSAR(trusted_fraction=0.001), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared(SSAR(return_threshold=299.0), data)


def test_the_flag_reaches_the_minibatch_and_the_log():
    data = episodes(*([[float(i % 5 == 0)] * 4 for i in range(20)]))
    engine = trained(TD3BC(hidden=8, batch_size=256), SSAR(return_threshold=0.0, hidden=8), data=data, seeds=(0, 1))
    found = engine.diagnose()
    torch.testing.assert_close(found["ssar/trusted_share"], torch.tensor([0.2, 0.2]))
    assert ((found["ssar/trusted_in_batch"] > 0.1) & (found["ssar/trusted_in_batch"] < 0.3)).all()
    assert not torch.equal(*found["ssar/trusted_in_batch"])


def bandit(rows: int = 300) -> Dataset:
    """One-step episodes; the better action's sign is that of the state."""
    draw = np.random.default_rng(0)
    state, action = draw.normal(size=(rows, 1)), draw.choice([-0.5, 0.5], size=(rows, 1))
    return Dataset.from_arrays(
        observations=state,
        actions=action,
        rewards=(np.sign(state) == np.sign(action))[:, 0].astype(float),
        next_observations=state,
        terminals=np.ones(rows, bool),
    )


def test_trusted_by_advantage_is_the_better_half_of_a_bandit(own_cache):
    data, ssar = bandit(), SSAR(select="advantage", selection_steps=80)
    found = prepared(ssar, data, (3, 5))
    flags = found.seed_columns["trusted"]
    assert flags.shape == (2, len(data)) and found.columns == {}
    agreement = (flags == torch.tensor(data.rewards)).float().mean(1)
    assert (agreement > 0.8).all() and not torch.equal(*flags)
    torch.testing.assert_close(found.models["trusted_share"], flags.mean(1))
    # Kept: a second run reads, seeds alone or in another order.
    files = {file: file.stat().st_mtime_ns for file in own_cache.glob("*.npz")}
    again = prepared(ssar, data, (5, 3)).seed_columns["trusted"]
    assert torch.equal(again, flags.flip(0))
    assert {file: file.stat().st_mtime_ns for file in own_cache.glob("*.npz")} == files and len(files) == 2


def test_the_selecting_critics_are_those_of_implicit_q_learning():
    """A plain loop of 30 minibatches decides the same on every row."""
    data, steps, seed = random_data(), 30, 4
    found = prepared(SSAR(select="advantage", selection_steps=steps, selection_expectile=0.6), data, (seed,))
    from adaptive_constraints.adapters.trust import Advantage
    from adaptive_constraints.core.preparation import generator

    start = Advantage(0.6, steps, 0.99).init(Spec(3, 2), generator(seed, "ssar.advantage"))
    value, critics = Scalar(3, 256, 256, 1), [Scalar(5, 256, 256, 1) for _ in range(2)]
    targets = [Scalar(5, 256, 256, 1) for _ in range(2)]
    take(value, start["value"])
    for j, each in itertools.product(range(2), (critics, targets)):
        take(each[j], {name: tensor[j] for name, tensor in start["critic"].items()})
    optimizers = [adam(value), adam(*critics)]
    table = Preprocessor.fit(data).table(data)
    for step in range(1, steps + 1):
        index = minibatch(256, len(data), seed, step, "ssar.advantage/batch")
        s, a, r, s2, d = (table[name][index] for name in NAMES)
        with torch.no_grad():
            y = r + 0.99 * (1 - d) * value(s2)
            q = torch.min(*(target(s, a) for target in targets))
        u = q - value(s)
        value_loss = torch.where(u > 0, 0.6 * u**2, 0.4 * u**2).mean()
        first, second = (mse_loss(critic(s, a), y) for critic in critics)
        update_together(optimizers, [value_loss, (first + second) / 2])
        average(targets, critics)
    s, a = table["observation"], table["action"]
    with torch.no_grad():
        advantage = torch.min(*(critic(s, a) for critic in critics)) - value(s)
    clear = advantage.abs() > 1e-4
    assert clear.float().mean() > 0.95
    assert torch.equal(found.seed_columns["trusted"][0][clear], (advantage >= 0).float()[clear])
    assert 0.02 < float((advantage >= 0).float().mean()) < 0.98


def test_length_of_the_selecting_training():
    from adaptive_constraints.adapters.trust import Advantage

    assert [Advantage.steps_for(rows) for rows in (100, 50_000, 202_000, 2_000_000)] == [100_000, 250_000, 10**6, 10**6]


# -- online -----------------------------------------------------------------------------------------------------------


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
    engine, found = online(LEARNERS["TD3BC"], ssar, **options), []
    for _ in range(steps):
        engine.run(1)
        found.append(engine.ask("ssar", lambda v: {"scale": v.constraint_scale()})["scale"].tolist())
    assert all(one == two for one, two in found)
    return [one for one, _ in found]


def test_the_constraint_is_annealed_online_and_never_below_zero():
    linear = [max(0.0, 1 - k / 5) for k in range(1, 9)]
    assert scales(SSAR(hidden=8, annealing_steps=5), 8) == pytest.approx(linear, abs=1e-6)
    cosine = [math.cos(min(k / 5, 1) * math.pi / 2) for k in range(1, 9)]
    found = scales(SSAR(hidden=8, annealing_steps=5, annealing="cosine"), 8)
    assert found == pytest.approx(cosine, abs=1e-6) and min(found) == 0
    planned = [1 - k / (1.6 * 60) for k in range(1, 4)]
    assert scales(SSAR(hidden=8, annealing_steps=None), 3) == pytest.approx(planned)
    assert scales(SSAR(hidden=8), 1) == pytest.approx([1 - 1 / 400_000])


def test_annealing_can_be_off():
    ssar = SSAR(annealing="none", hidden=8)
    assert ssar.answers(TD3BC().facts(), "online") == ssar.answers(TD3BC().facts(), "offline") == {"constraint_weight"}
    assert SSAR().answers(TD3BC().facts(), "offline") == {"constraint_weight"}


@each_learner
def test_online_the_coefficient_is_used_but_not_trained(learner):
    ssar = SSAR(hidden=8, rate=1e-2, growth_every=1, annealing_steps=10)
    engine = online(learner, ssar)
    before = learned(engine)
    engine.run(3)
    changed = different(before, learned(engine))
    assert changed and not [name for name in changed if "ssar" in name]
    flat = online(learner, replace(ssar, frozen=True))
    flat.run(3)
    assert different(learned(flat), learned(engine)), "heard"

    def look(v) -> dict[str, Tensor]:
        weight = v.resolved.adapters[0].weight(v.p["ssar.beta"], v.s) * v.batch["ssar.trusted"] * (1 - 3 / 10)
        return {"found": v.sample_weight() * v.constraint_scale() * v.constraint_weight(), "expected": weight}

    seen = engine.ask("ssar", look)
    torch.testing.assert_close(seen["found"], seen["expected"])


# -- beside others ----------------------------------------------------------------------------------------------------


def test_a_learned_trade_off_says_how_much_and_the_weights_where():
    """Mean 1 over the trusted rows, 0 elsewhere, in the proportions of the coefficient."""
    engine = trained(LEARNERS["TD3BC"], ASPC(interval=1), SSAR(hidden=8, rate=1e-2), steps=5, seeds=(0, 1))

    def look(v) -> dict[str, Tensor]:
        raw = v.resolved.adapters[1].constraint_weight(v)
        return {"normalised": v.constraint_weight(), "raw": raw, "trusted": v.batch["ssar.trusted"]}

    seen = engine.ask("ssar", look)
    for normalised, raw, trusted in zip(*seen.values(), strict=True):
        assert 0 < float(trusted.mean()) < 1
        assert float(normalised[trusted > 0].mean()) == pytest.approx(1, rel=1e-5)
        assert (normalised[trusted == 0] == 0).all()
        torch.testing.assert_close(normalised, raw / raw[trusted > 0].mean())
        assert float(raw[trusted > 0].std()) > 1e-3


@each_learner
def test_the_meta_gradient_agrees_with_automatic_differentiation(learner):
    options: dict[str, Any] = {"seeds": (0, 1), "horizon": 10, "dtype": torch.float64}
    adapters = [
        (ASPC(interval=1, meta_step=backend), SSAR(hidden=8, rate=1e-2)) for backend in ("closed_form", "autograd")
    ]
    one, two = (build(learner, *each, **options) for each in adapters)
    one.run(1), one.metrics.flush()
    two.load({name: tensor.clone() for name, tensor in one.state().items()}, one.step)
    found = []
    for engine in (one, two):
        engine.metrics.flush()
        engine.run(1)
        found.append(torch.tensor(engine.metrics.flush()["aspc/gradient"], dtype=torch.float64))
    torch.testing.assert_close(*found, rtol=1e-9, atol=0)
    assert largest_difference(learned(one), learned(two)) < 1e-9


def test_products_commute_with_other_adapters():
    ssar, scale = SSAR(hidden=8, rate=1e-2), FixedTradeoff(value=4.0)
    one, two = (trained(LEARNERS["TD3BC"], *each) for each in ((ssar, scale), (scale, ssar)))
    assert not different(learned(one), learned(two))


# -- what is refused and what is warned of ----------------------------------------------------------------------------


def warned(learner, ssar: SSAR) -> str:
    return "\n".join(map(str, Stack(learner, (ssar,)).resolve().warnings))


def test_a_learner_without_a_constraint_is_refused():
    with pytest.raises(StackError, match=r"ssar: .*none \(no trade-off\).*configure it.*remove the adapter"):
        Stack(CQL(alpha=0.0), (SSAR(),))
    Stack(CQL(target_gap=5.0), (SSAR(),))  # one that adapts its trade-off is fine: it multiplies


@pytest.mark.parametrize(
    ("learner", "deviation"),
    [
        (TD3BC(), "density"),
        (TinyIQL(), "pre_tanh"),
        (TinyFQL(), "fixed_sigma"),
        (TD3BC(), "surrogate"),
        (CQL(), "model"),
    ],
)
def test_a_deviation_that_is_not_defined_is_refused(learner, deviation):
    with pytest.raises(StackError, match=rf"deviation='{deviation}'.*{learner.facts().distribution}.*'auto'"):
        Stack(learner, (SSAR(deviation=deviation),))


def test_doubts():
    assert "questionable" in warned(TinyIQL(), SSAR())
    assert "multimodal" in warned(TinyFQL(), SSAR(deviation="surrogate"))
    assert "multimodal" not in warned(TinyFQL(), SSAR())
    assert "LayerNorm" in warned(TD3BC(), SSAR())
    for ssar in (SSAR(select="all"), SSAR(loosen_bound=False)):
        assert not warned(TD3BC(), ssar)
    assert not warned(TD3BC(critic="robust"), SSAR())


BAD: dict[str, dict] = {
    "sigma": {"sigma": 0.0},
    "samples": {"samples": 0},
    "n_start": {"n_start": 4.0},
    "growth_every": {"growth_every": 0},
    "rate": {"rate": -1.0},
    "cap": {"cap": 1.0},
    "hidden": {"hidden": 0},
    "trusted_fraction": {"trusted_fraction": 0.0},
    "selection_expectile": {"selection_expectile": 1.0},
    "selection_steps": {"selection_steps": 0},
    "annealing_steps": {"annealing_steps": 0},
    "published_steps": {"published_steps": 0},
}


@pytest.mark.parametrize("setting", BAD)
def test_settings_are_checked(setting):
    with pytest.raises(StackError, match=rf"(?i)ssar: {setting}"):
        SSAR(**BAD[setting])


# -- presets ----------------------------------------------------------------------------------------------------------

BEST_RETURNS = {
    "halfcheetah-medium": 5309,
    "halfcheetah-expert": 11252,
    "hopper-medium": 3222,
    "hopper-expert": 3759,
    "walker2d-medium": 4227,
    "walker2d-expert": 5012,
}
"""Of D4RL v2; a medium-expert set holds the expert's episodes too."""


def test_presets_trust_something():
    """The published thresholds of CQL on two halfcheetah sets lie above every return there; ours do not."""
    checked = set()
    for table, (name, settings) in itertools.chain(
        *(zip(itertools.repeat(k), t.items()) for k, t in (("", ON_TD3BC), ("cql-", ON_CQL)))
    ):
        ssar = SSAR.preset(f"{table}{name}")
        if settings["select"] == "return":
            assert ssar.return_threshold < BEST_RETURNS[name.replace("medium-expert", "expert")], name
            checked.add(f"{table}{name}")
    assert {"halfcheetah-medium", "cql-halfcheetah-medium", "cql-halfcheetah-medium-expert"} <= checked
