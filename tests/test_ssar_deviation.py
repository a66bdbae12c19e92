"""How far a policy is from the data by SSAR, and when n grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from adaptive_constraints import SSAR, Dataset, Gaussian, Point
from adaptive_constraints.adapters.deviation import TrustInterval
from adaptive_constraints.baselines import FQL, TD3BC
from adaptive_constraints.networks import TanhGaussian

from .helpers import build, trained
from .reference.ssar import squashed_margin
from .selective import Fixed
from .sketches import LEARNERS, TinyCQL

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


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
    w = margin("fixed_sigma", Point(pi), data, n)
    expected = [n**2 * 0.01, n**2 * 0.01 - 0.04, n**2 * 0.01 - (1 + 0.01) / 2]
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64))
    if n == 1:
        assert float(w[1]) == pytest.approx(-0.03)


def test_fixed_sigma_around_the_mean_of_gaussians():
    mean, data = torch.tensor([[0.5]]), torch.tensor([[0.2]])
    policy = Gaussian(mean, torch.ones(1, 1), Normal(mean, 1.0).log_prob)
    for distribution, center in (("gaussian", 0.5), ("tanh-gaussian", math.tanh(0.5))):
        w = margin("fixed_sigma", policy, data, 1.0, distribution)
        assert float(w) == pytest.approx(0.01 - (center - 0.2) ** 2)


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
    w = margin("density", Gaussian(policy.mean, policy.std, policy.log_density), data, n, "tanh-gaussian")
    torch.testing.assert_close(w, squashed_margin(normal, data, n), rtol=1e-6, atol=1e-9)
    assert (w > 0).any() and (w < 0).any()


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
    before = [margin("pre_tanh", gaussian, a, 1.0, "tanh-gaussian") for a in (at_mean, farther)]
    assert [float(w) for w in before] == pytest.approx([0.5, (0.5 + (1 - 1.5**2) / 2) / 2])
    after = [margin("density", gaussian, a, 1.0, "tanh-gaussian") for a in (at_mean, farther)]
    assert float(after[1]) > float(after[0])


def test_surrogate_is_the_nearest_of_the_draws():
    draws = torch.tensor([[0.9], [-0.3], [0.1], [-2.0], [0.45], [0.0], [0.8], [0.5]])
    asked = []

    def sample(p, s, site):
        asked.append((len(s), site))
        return draws

    w = margin("surrogate", None, torch.tensor([[0.5], [-0.2]]), 3.0, "generative", sample=sample)
    # Draws of state 0 stand at 0, 2, 4, 6; of state 1 at 1, 3, 5, 7.
    torch.testing.assert_close(w, torch.tensor([0.09 - 0.05**2, 0.09 - 0.1**2]))
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
    path = []
    for _ in range(steps):
        engine.run(1)
        path.append(float(engine.buffers["ssar"]["n"]))
    return path


def test_n_grows_in_ten_steps():
    """The published growth, on a run of 60 steps: every 3 of them."""
    path = path_of_n(Fixed(select="all", w=-1.0, hidden=8), 40, horizon=60)
    expected = [min(3.0, 1 + 0.2 * (step // 3)) for step in range(1, 41)]
    assert path == pytest.approx(expected)
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
    path = path_of_n(Scripted(select="all", inside_at=(4,), hidden=8, growth_every=1), 8, 100)
    assert path == pytest.approx([1.2, 1.4, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6])
    path = path_of_n(Scripted(select="all", inside_at=(3,), hidden=8, growth_every=2), 8, 100)
    assert path == pytest.approx([1.0, 1.2, 1.2, 1.4, 1.4, 1.6, 1.6, 1.8]), "only when n is due"


def test_a_minibatch_without_trusted_rows_changes_nothing():
    ssar = Scripted(select="all", trusted_from=4, inside_at=(2, 6), hidden=8, growth_every=1)
    path = path_of_n(ssar, 7, 100)
    assert path == pytest.approx([1.0, 1.0, 1.0, 1.2, 1.4, 1.4, 1.4])
