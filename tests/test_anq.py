"""ANQ against plain loops written from the paper's equations, and where the answer is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints import ANQ, ASPC, Adapter, Dataset, FixedTradeoff, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.baselines.iql import IQL
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.data.checks.doctor import split_at_joins
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError

from .helpers import build, different, largest_difference, learned, random_data, resolved_of, trained
from .reference.anq import PlainANQ
from .reference.common import network, one
from .sketches import TinyCQL, TinyFQL, TinyIQL

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
LEARNERS = {
    "TD3BC": TD3BC(policy_every=1, **SMALL),
    "IQL": IQL(**SMALL),
    "CQL": TinyCQL(),
    "FQL": TinyFQL(),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
WIDE: dict[str, Any] = {"hidden": 8, "output_variance": 0.2, "learning_rate": 3e-3}
"""A mu that moves far from the start."""


def seen(engine: Engine, what: Callable[..., Tensor]) -> Tensor:
    """What a view of the engine's first seed shows at its last step."""
    return engine.ask("anq", lambda v: {"seen": what(v)})["seen"][0]


# -- plain loops ------------------------------------------------------------------------------------------------------


FAR: dict[str, Any] = {
    "output_variance": 1.0,
    "learning_rate": 1e-3,
    "smallest_factor": 0.01,
    "largest_factor": 1.02,
    "largest_weight": 1.05,
}
"""Settings under which displacements, averages and bounds all matter within some dozen steps."""
CASES: dict[str, Any] = {
    "TD3BC": (
        TD3BC,
        ANQ(hidden=64, value_aggregate="mean", value_expectile=0.8, adaptivity=2.0, polyak=0.05, **FAR),
        50,
    ),
    "TD3BC, norm": (
        TD3BC,
        ANQ(hidden=64, penalty="norm", penalty_weight=0.5, objective_aggregate="mean", reach=1.0, polyak=0.05, **FAR),
        30,
    ),
    "IQL": (IQL, ANQ(hidden=64, penalty_weight=5.0, polyak=0.05, **FAR), 60),
    "IQL, raw Q": (IQL, ANQ(hidden=64, normalize_q=False, polyak=0.05, **FAR | {"smallest_factor": 0.99}), 30),
    "IQL, no target mu": (
        IQL,
        ANQ(hidden=64, objective_aggregate="mean", target_mu=False, **FAR),
        30,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop(case):
    kind, anq, steps = CASES[case]
    learner = kind(hidden=64, batch_size=64, **({"schedule": "constant"} if kind is IQL else {}))
    data = random_data(1000, observation=11, action=3)
    engine = build(learner, anq, seeds=(3,), horizon=steps, data=data, dtype=torch.float64)
    loop = PlainANQ(engine, data)
    start = learned(engine)
    engine.run(steps)
    loop.run(steps)
    assert loop.largest_deviation(engine) < 1e-10
    moved = {name: (tensor - start[name]).abs().max() for name, tensor in learned(engine).items() if "weight" in name}
    assert min(moved.values()) > 3e-5, "every network must have moved for this to say anything"
    assert loop.cut > 0, "and so must the bounds of actions"
    bounds = engine.diagnose()
    assert all(0 < share < 1 for name, share in bounds.items() if name.endswith("bounded"))
    assert ("anq/weight_bounded" in bounds) == (kind is TD3BC)


# -- neutral ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["squared", "norm"])
@pytest.mark.parametrize("learner", [TinyIQL(), IQL(**SMALL), IQL(extraction="ddpg+bc", **SMALL)])
def test_within_no_reach_it_is_iql_bit_for_bit(learner, penalty):
    """Where imitation has weights exp(advantage) of its own, or none (``imitate="data"``)."""
    imitate = "refined" if learner.facts().exponential_weights else "data"
    beside = learned(trained(learner, ANQ(reach=0.0, penalty=penalty, imitate=imitate, **SMALL_MU), **TWO))
    plain = learned(trained(learner, **TWO))
    assert not different(plain, {name: beside[name] for name in plain})
    moved = learned(trained(learner, ANQ(reach=0.5, penalty=penalty, imitate=imitate, **SMALL_MU), **TWO))
    assert different(plain, {name: moved[name] for name in plain}), "which a reach above 0 is not"


SMALL_MU, TWO = {"hidden": 8, "output_variance": 0.2}, {"seeds": (0, 1), "steps": 6}


@each_learner
def test_what_mu_is_trained_for_trains_nothing_else(learner):
    """Its loss alone: an ANQ that nobody asks leaves the learner bit for bit as it was, and still learns."""

    @dataclass(frozen=True)
    class Unheard(ANQ):
        def answers(self, facts, phase):
            return frozenset()

    engine = build(learner, Unheard(name="anq", **WIDE))
    start = learned(engine)
    engine.run(4)
    beside, plain = learned(engine), learned(trained(learner))
    assert not different(plain, {name: beside[name] for name in plain})
    assert not [name for name in different(start, beside) if "log" in name and "anq" in name]
    assert all(name in different(start, beside) for name in beside if "anq.mu/weight" in name)


def test_mu_is_trained_by_its_own_loss_alone():
    """Whether the policy imitates refined actions or not, mu goes the same way."""
    one, two = (trained(TD3BC(**SMALL), ANQ(imitate=imitated, **WIDE)) for imitated in ("refined", "data"))
    assert "params/actor/weight0" in different(learned(one), learned(two))
    assert not [name for name in different(learned(one), learned(two)) if "actor" not in name]


# -- a bandit whose values are known ----------------------------------------------------------------------------------

OFFSET, SLOPE, LEVELS = 5.0, (0.5, -0.3), (0.5, 0.3, 0.1, -0.1, -0.3, -0.5)


@dataclass(frozen=True)
class Bandit(TD3BC):
    """Q(s, a) = 5 + slope . a - curvature |a|^2 in both critics and V(s) = 5 + w . s: known, and learned no more."""

    curvature: float = 0.0
    critic_learning_rate: float = 0.0

    def facts(self):
        facts = super().facts()
        return replace(facts, owns_value=True, seams=facts.seams | {"value_action"})

    def init(self, spec, generator):
        slope = torch.tensor([SLOPE] * 2)
        return {"actor": super().init(spec, generator)["actor"], "critic": {"slope": slope}}

    def q(self, p, observation, action):
        return OFFSET + (action @ p["slope"].mT).mT - self.curvature * action.square().sum(-1)

    def value(self, p, observation):
        return OFFSET + observation @ torch.tensor(LEVELS)


def rows_of(s: Tensor) -> Dataset:
    """One step at each of these states, with an action of its own."""
    a = torch.rand(len(s), 2, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.6
    nothing = torch.zeros(len(s)).numpy()
    return Dataset.from_arrays(
        observations=s.numpy(),
        actions=a.numpy(),
        rewards=nothing,
        next_observations=s.numpy(),
        terminals=nothing == 0,
        timeouts=nothing == 1,
        name="bandit",
    )


SIX_STATES = 2 * torch.eye(6)


def converged(
    steps: int, s: Tensor = SIX_STATES, curvature: float = 0.0, **settings
) -> tuple[Engine, ANQ, Tensor, Tensor]:
    """Engine, adapter, and the data's observations and actions."""
    anq = ANQ(policy_every=1, hidden=32, learning_rate=5e-3, smallest_factor=0.01, **settings)
    learner, data = Bandit(policy_every=10**6, batch_size=32, curvature=curvature, hidden=4), rows_of(s)
    engine = build(learner, anq, horizon=steps, data=data)
    engine.run(steps)
    return engine, anq, torch.tensor(data.observations), torch.tensor(data.actions)


def displacement(engine: Engine, anq: ANQ, s: Tensor, a: Tensor) -> Tensor:
    return anq.displacement(one(engine.params["anq.mu"]), s, a)


@pytest.mark.parametrize(("curvature", "adaptivity"), [(0.0, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_displacement_is_the_one_in_closed_form(curvature, adaptivity):
    """A kappa grad Q / (2 lambda W), the gradient at the refined action: of a linear Q, the slope."""
    weight = 3.0
    engine, anq, s, a = converged(300, curvature=curvature, adaptivity=adaptivity, penalty_weight=weight)
    slope = torch.tensor(SLOPE)

    def q(action: Tensor) -> Tensor:
        return OFFSET + action @ slope - curvature * (action**2).sum(1)

    w = torch.exp(adaptivity * (q(a) - OFFSET - s @ torch.tensor(LEVELS)))[:, None]
    displaced = displacement(engine, anq, s, a)
    kappa = 1 / q(a + displaced).abs().mean()
    # 2 lambda W delta / A = kappa (slope - 2 curvature (a + delta))
    expected = kappa * (slope - 2 * curvature * a) / (weight * w + 2 * kappa * curvature)
    assert (w.max() / w.min() > 3) if adaptivity else (w == 1).all(), "rows must differ for this to say anything"
    assert float((displaced - expected).abs().max() / expected.abs().max()) < 0.02


def test_the_displacement_falls_as_its_price_rises():
    def size(weight: float) -> float:
        return float(displacement(*converged(100, penalty_weight=weight)).abs().mean())

    sizes = [size(weight) for weight in (0.1, 1.0, 10.0, 100.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 20 * sizes[-1]


def test_better_actions_are_kept_nearer():
    states = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    engine, anq, s, a = converged(300, states, penalty_weight=3.0)
    advantage = a @ torch.tensor(SLOPE) - s @ torch.tensor(LEVELS)
    size = displacement(engine, anq, s, a).norm(dim=1)
    ranks = torch.stack([values.argsort().argsort().double() for values in (advantage, size)])
    assert float(torch.corrcoef(ranks)[0, 1]) < -0.9
    order = advantage.argsort()
    batch: dict[str, Any] = {"observation": s, "action": a}
    factor = engine.ask("anq", lambda v: {"w": anq.penalty_factor(at(v, batch))})["w"][0]
    assert (factor[order].diff() > 0).all()
    torch.testing.assert_close(factor, advantage.exp())


def at(v, batch: dict[str, Tensor]):
    """The view on other rows."""
    v.batch = {**v.batch, **batch}
    return v


def test_without_adaptivity_all_neighbourhoods_are_of_one_size():
    engine = trained(TD3BC(**SMALL), ANQ(adaptivity=0.0, **WIDE))
    assert (seen(engine, resolved_of(engine).adapters[0].penalty_factor) == 1).all()
    assert float(engine.diagnose()["anq/penalty_factor_bounded"]) == 0


def test_by_default_neighbourhoods_only_shrink():
    """So that a row whose action is bad has no more room than one at the mean."""
    engine = trained(TD3BC(**SMALL), ANQ(adaptivity=1e4, **WIDE))
    factor = seen(engine, resolved_of(engine).adapters[0].penalty_factor)
    assert float(factor.min()) == 1.0 and float(factor.max()) == pytest.approx(30.0)


def test_factors_and_weights_stay_within_their_bounds():
    anq = ANQ(
        adaptivity=1e4, smallest_factor=0.01, largest_factor=7.0, inverse_temperature=1e4, largest_weight=2.0, **WIDE
    )
    engine = trained(TD3BC(**SMALL), anq)
    factor, weight = (seen(engine, what) for what in (anq.penalty_factor, anq.sample_weight))
    assert float(factor.min()) == pytest.approx(0.01) and float(factor.max()) == pytest.approx(7.0)
    assert float(weight.min()) == 0 and float(weight.max()) == pytest.approx(2.0)
    shares = {"penalty_factor": (factor < 0.0101) | (factor > 6.999), "weight": weight > 1.999}
    for name, rows in shares.items():
        assert float(engine.diagnose()[f"anq/{name}_bounded"]) == pytest.approx(float(rows.float().mean()))


# -- the refined action -----------------------------------------------------------------------------------------------


@each_learner
def test_refined_actions_stay_within_the_bounds(learner):
    """And reach them, here."""
    engine = trained(learner, ANQ(reach=3.0, **(WIDE | {"output_variance": 80.0})))
    refined = seen(engine, lambda v: torch.stack([v.value_action(), v.behavior_action(), *v.query_action()]))
    assert refined.shape == (3, 16, 2)
    assert ((refined.abs() == 1).any(1)).any(1).all() and (refined.abs() <= 1).all()


@pytest.mark.parametrize(("hidden", "actions"), [(8, 2), (256, 6), (64, 1)])
def test_displacements_begin_small(hidden, actions):
    """The last layer's variance is 0.01 over the mean of its inputs and outputs; its biases are 0."""
    data, learner = random_data(rows=40, action=actions), TD3BC(**SMALL)
    params = build(learner, ANQ(hidden=hidden), data=data, seeds=range(8)).params["anq.mu"]
    variance = 0.01 / ((hidden + actions) / 2)
    assert params["weight2"].shape == (8, hidden, actions)
    assert float(params["weight2"].abs().max()) <= (3 * variance) ** 0.5
    assert float(params["weight2"].var()) == pytest.approx(variance, rel=0.25)
    assert not params["bias2"].any()
    wider = build(learner, ANQ(hidden=hidden, output_variance=0.04), data=data, seeds=range(8)).params["anq.mu"]
    torch.testing.assert_close(wider["weight2"], 2 * params["weight2"])
    assert torch.equal(wider["weight1"], params["weight1"])


def test_a_displacement_beyond_the_bounds_is_still_pulled_back():
    """Every action at a bound and pushed beyond it: Q has no gradient by mu there, the penalty has."""
    data = random_data()
    data = replace(data, actions=torch.ones(data.actions.shape).numpy())

    def moved(weight: float) -> float:
        engine = build(TD3BC(**SMALL), ANQ(penalty_weight=weight, **WIDE), data=data)
        engine.params["anq.mu"]["weight2"].zero_()
        engine.params["anq.mu"]["bias2"].fill_(0.5)
        engine.run(2)
        return float(engine.params["anq.mu"]["bias2"].max()) - 0.5

    assert moved(0.0) == 0
    assert moved(1.0) < 0


def test_the_value_regresses_at_the_averaged_mu():
    anq = ANQ(polyak=0.5, **WIDE)
    engine, without = (trained(TD3BC(**SMALL), adapter) for adapter in (anq, replace(anq, target_mu=False)))
    assert "anq.mu" in engine.targets and "anq.mu" not in without.targets
    assert "params/value/weight0" in different(learned(engine), learned(without))
    networks = {True: engine.targets["anq.mu"], False: engine.params["anq.mu"]}
    for averaged, seam in ((True, "value_action"), (False, "behavior_action"), (False, "query_action")):
        answer = seen(engine, lambda v, seam=seam: getattr(v, seam)()[0] if "query" in seam else getattr(v, seam)())
        expected = anq.refined(one(networks[averaged]), engine.batch["observation"][0], engine.batch["action"][0])
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-7)
        assert (answer - seen(engine, lambda v: v.a)).abs().max() > 1e-3


def test_it_refines_what_adapters_before_it_say():
    @dataclass(frozen=True)
    class Halved(Adapter):
        def value_action(self, v, default):
            return default() / 2

        def behavior_action(self, v, default):
            return default() / 2

    anq = ANQ(**WIDE)
    engine = trained(TD3BC(**SMALL), Halved(), anq)
    for seam, networks in (("value_action", engine.targets), ("behavior_action", engine.params)):
        halves = engine.batch["action"][0] / 2
        expected = anq.refined(one(networks["anq.mu"]), engine.batch["observation"][0], halves)
        answer = seen(engine, lambda v, seam=seam: getattr(v, seam)())
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-7)


def test_the_target_follows_the_value_and_ends_where_episodes_end():
    engine = trained(TD3BC(**SMALL), ANQ(**WIDE))
    s2, r, d, y = (
        seen(engine, what)
        for what in (lambda v: v.s2, lambda v: v.r, lambda v: v.d, resolved_of(engine).learner.target)
    )
    assert 0 < d.sum() < len(d)
    assert torch.equal(y[d == 1], r[d == 1])
    value = network(one(engine.params["value"]))(s2).squeeze(1)
    torch.testing.assert_close(y, r + 0.99 * (1 - d) * value, rtol=1e-5, atol=1e-5)
    imagined = seen(engine, lambda v: v.bootstrap(v.s + 1, "imagined"))
    torch.testing.assert_close(imagined, network(one(engine.params["value"]))(seen(engine, lambda v: v.s) + 1)[:, 0])


def test_the_norm_has_a_gradient_where_nothing_moves():
    engine = build(TD3BC(**SMALL), ANQ(penalty="norm", **WIDE), dtype=torch.float64)
    engine.params["anq.mu"]["weight2"].zero_()
    engine.params["anq.mu"]["bias2"].zero_()
    engine.run(2)
    assert all(tensor.isfinite().all() for tensor in engine.state().values())
    assert (engine.params["anq.mu"]["bias2"] != 0).all(), "Q moves it away from there"


def test_the_learning_rate_falls_to_nothing_over_the_run():
    anq = ANQ(learning_rate=0.1, policy_every=2)
    rates = [anq.rate(step, 100) for step in range(2, 101, 2)]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * done / 50)) for done in range(50)])
    assert ANQ(schedule="constant").rate(90, 100) == 3e-4


# -- on which learner -------------------------------------------------------------------------------------------------

ANSWERS = {
    "TD3BC": {"value_action", "query_action", "bootstrap", "behavior_action", "sample_weight"},
    "FQL": {"value_action", "query_action", "bootstrap", "behavior_action", "sample_weight"},
    "CQL": {"value_action", "query_action", "bootstrap", "behavior_action"},
    "IQL": {"value_action", "query_action", "behavior_action"},
}
WARNINGS = {
    "TD3BC": "nothing trains Q where the policy climbs it",
    "FQL": "nothing trains Q where the policy climbs it",
    "CQL": "pushes Q down",
    "IQL": None,
}


@pytest.mark.parametrize("name", LEARNERS)
def test_what_it_answers_and_warns_of(name):
    for imitate, less in (("refined", set()), ("data", {"behavior_action", "sample_weight"})):
        resolved = Stack(LEARNERS[name], (ANQ(imitate=imitate),)).resolve()
        assert {seam for seam, adapters in resolved.answering.items() if adapters} == ANSWERS[name] - less
    expected = WARNINGS[name]
    assert not resolved.warnings if expected is None else expected in str(resolved.warnings[0])


def test_a_policy_that_climbs_q_is_weighted_where_it_imitates():
    """IQL with weights of its own and without."""
    resolved = Stack(IQL(extraction="ddpg+bc"), (ANQ(),)).resolve()
    assert "sample_weight" in {seam for seam, adapters in resolved.answering.items() if adapters}
    assert not resolved.answering["bootstrap"]
    assert "nothing trains Q" in str(resolved.warnings[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"reach": -1.0},
        {"penalty_weight": -1.0},
        {"adaptivity": -1.0},
        {"smallest_factor": 0.0},
        {"smallest_factor": 31.0},
        {"value_expectile": 1.0},
        {"inverse_temperature": -1.0},
        {"largest_weight": 0.0},
        {"policy_every": 0},
        {"polyak": 0.0},
        {"hidden": 0},
        {"output_variance": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(StackError, match=f"(?i)anq: {next(iter(settings))} must"):
        ANQ(**settings)


def test_two_that_decide_the_bootstrap_are_refused():
    with pytest.raises(StackError, match="both decide 'bootstrap'"):
        Stack(TD3BC(), (ANQ(), ANQ(name="other")))
    assert Stack(IQL(), (ANQ(), ANQ(name="other"))), "IQL's V decides it there"


def test_presets():
    assert ANQ.preset("gym") == ANQ(smallest_factor=0.01, penalty_weight=0.1)
    assert ANQ.preset("gym-expert") == ANQ(smallest_factor=0.01, penalty_weight=5.0)
    assert ANQ.preset("antmaze").smallest_factor == 0.01
    antmaze = ANQ.preset("antmaze", penalty_weight=0.1)
    assert (antmaze.value_expectile, antmaze.value_aggregate, antmaze.objective_aggregate) == (0.9, "learner", "min")
    learner = IQL.preset("anq-antmaze")
    assert (learner.aggregate_q, learner.critics, learner.beta, learner.expectile) == ("mean", 4, 10.0, 0.9)
    assert antmaze.penalty_weight == 0.1 and ANQ.preset("antmaze").penalty_weight == 5.0


# -- laws -------------------------------------------------------------------------------------------------------------


@each_learner
def test_seeds_together_are_seeds_alone(learner):
    settings: dict[str, Any] = {"steps": 5, "dtype": torch.float64}
    together = trained(learner, ANQ(**WIDE), seeds=(0, 1), **settings)
    for position, seed in enumerate((0, 1)):
        alone = trained(learner, ANQ(**WIDE), seeds=(seed,), **settings)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_traced_is_eager():
    one, two = (
        trained(LEARNERS["IQL"], ANQ(penalty="norm", **WIDE), seeds=(0, 1), traced=traced) for traced in (True, False)
    )
    assert not different(learned(one), learned(two))


@each_learner
def test_beside_a_learned_trade_off(learner):
    """Finite, and the meta-gradient through the weighted imitation agrees with autograd's."""
    settings: dict[str, Any] = {"seeds": (0, 1), "dtype": torch.float64, "horizon": 10}
    closed, oracle = (
        build(learner, ANQ(**WIDE), ASPC(interval=1, meta_step=meta_step), **settings)
        for meta_step in ("closed_form", "autograd")
    )
    closed.run(1)
    for _ in range(2):
        closed.metrics.flush()
        oracle.load({name: tensor.clone() for name, tensor in closed.state().items()}, closed.step)
        gradients = []
        for engine in (closed, oracle):
            engine.run(1)
            gradients.append(torch.tensor(engine.metrics.flush()["aspc/gradient"], dtype=torch.float64))
        assert gradients[1].abs().min() > 0
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=0)
    assert all(tensor.isfinite().all() for tensor in closed.state().values())


def test_beside_the_learners_own_trade_off_nothing_changes():
    one, two = (trained(TD3BC(**SMALL), ANQ(**WIDE), *more, **TWO) for more in ((), (FixedTradeoff(),)))
    assert not different(learned(one), learned(two))
    three = trained(TD3BC(**SMALL), FixedTradeoff(value=9.0), ANQ(**WIDE), **TWO)
    assert "params/actor/weight0" in different(learned(one), learned(three))


def test_a_run_that_stopped_goes_on_bit_for_bit(tmp_path):
    def fit(agent, **options):
        options |= {"steps": 20, "seeds": 2, "device": "cpu", "log_every": 5, "progress": False, "traced": False}
        agent.fit(split_at_joins(random_data()), **options)
        return agent.run.engine.state()

    agent = wrap(TD3BC(**SMALL), ANQ(**WIDE))
    whole, half = fit(agent.untrained()), agent.untrained()
    fit(half, stop_after=9)
    half.save(tmp_path / "half.npz")
    rest = load_agent(tmp_path / "half.npz", device="cpu")
    assert rest.step == 9
    assert not different(whole, fit(rest))
