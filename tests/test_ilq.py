"""ILQ against plain loops written from the paper, where it is neutral, its target, its rows, what it says."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, ILQ, Dataset, Prepared, register_termination, wrap
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_dynamics
from adaptive_constraints.pretraining.preparation import BoundPreparation

from .helpers import build, different, largest_difference, learned, random_data, trained
from .imagining import SMALL, Queries, Untrained, ask, preparation
from .reference.ilq import ILQOnSAC, ILQOnTD3BC, PlainTargets
from .sketches import LEARNERS, TinyCQL, TinyFQL, TinyIQL, each_learner

pytestmark = pytest.mark.usefixtures("own_cache")


# -- plain loops ------------------------------------------------------------------------------------------------------


def test_the_published_agent_equals_a_plain_loop():
    data = random_data(400)
    ilq = Untrained(eta=0.7, delta=0.3, penalty=0.5, rule="hopper", **SMALL)
    engine = build(CQL(alpha=0.0, hidden=32, batch_size=16), ilq, seeds=(3,), horizon=50, data=data)
    shares = compare(engine, ILQOnSAC(engine, data), steps=50)
    assert shares.mean(0).min() > 0.05 and shares.mean(0).max() < 0.999, "targets are limited, and states end, at times"


def test_td3bc_with_ilq_equals_a_plain_loop():
    learner, data = TD3BC(hidden=32, batch_size=16), random_data(400)
    engine = build(learner, Untrained(eta=0.6, delta=-0.2, rule="hopper", **SMALL), seeds=(3,), data=data)
    shares = compare(engine, ILQOnTD3BC(engine, data), steps=50)
    assert shares.mean(0).min() > 0.05 and shares.mean(0).max() < 0.999


def compare(engine, loop, steps: int) -> np.ndarray:
    """Run both, assert that they agree throughout; the shares of limited targets and of imagined ends, by step."""
    shares = []
    for _ in range(steps):
        engine.run(1)
        loop.run(1)
        shares.append(loop.ilq.shares)
        assert float(engine.metrics.flush()["ilq/limited"][0]) == pytest.approx(shares[-1][0], abs=0.07)
    assert loop.largest_deviation(engine) < 1e-5
    return np.array(shares)


# -- neutral ----------------------------------------------------------------------------------------------------------


@each_learner
def test_switched_off_it_is_not_there(learner, monkeypatch):
    monkeypatch.setattr(BoundPreparation, "trained", None)
    monkeypatch.setattr(BoundPreparation, "model", None)
    off, bare = (trained(learner, *adapters, seeds=(0, 1)) for adapters in ((ILQ(eta=1.0, delta=5.0),), ()))
    assert not different(learned(off), learned(bare))
    assert off.draws == bare.draws and not off.diagnose() and off.metrics.flush() == bare.metrics.flush()


@each_learner
def test_switched_on_it_is_heard_and_finite(learner):
    one = trained(learner, Untrained(eta=0.8, warm_up=0.0, **SMALL), seeds=(0, 1))
    names = different(learned(one), learned(trained(learner, seeds=(0, 1))))
    assert any(name.startswith("params/critic") for name in names)
    scalars = one.metrics.flush()
    assert {"ilq/y_img", "ilq/y_lmt", "ilq/limited"} <= scalars.keys()
    assert torch.tensor([scalars[name] for name in scalars]).isfinite().all()
    assert one.diagnose()["ilq/model_error"].tolist() == [pytest.approx(1.3 * 2.0)] * 2
    assert not one.metrics.failures()


def test_seeds_together_are_seeds_alone_and_traced_is_eager():
    learner = TinyFQL()
    ilq = Untrained(eta=0.8, warm_up=0.0, penalty=1.0, data_action=True, **SMALL)
    together = trained(learner, ilq, seeds=(0, 7), dtype=torch.float64, traced=True)
    alone = trained(learner, ilq, seeds=(7,), dtype=torch.float64)
    assert largest_difference(learned(together, 1), learned(alone, 0)) < 1e-12


@each_learner
def test_with_aspc_the_meta_gradient_is_that_of_automatic_differentiation(learner):
    gradients = {}
    for backend in ("closed_form", "autograd"):
        aspc = ASPC(interval=1, meta_step=backend)
        engine = build(learner, Untrained(eta=0.8, warm_up=0.0, **SMALL), aspc, dtype=torch.float64)
        engine.run(1)
        engine.metrics.flush()
        engine.run(1)
        gradients[backend] = engine.metrics.flush()["aspc/gradient"][0]
    assert gradients["closed_form"] == pytest.approx(gradients["autograd"], rel=1e-6)
    assert math.isfinite(gradients["autograd"]) and gradients["autograd"] != 0


def test_it_warms_up_while_the_learner_trains_the_behaviour_model():
    ilq, horizon = Untrained(eta=0.8, warm_up=0.1, **SMALL), 60
    warm, bare = (build(TinyFQL(), *adapters, seeds=(0, 1), horizon=horizon) for adapters in ((ilq,), ()))
    warm.run(6), bare.run(6)
    assert not different(learned(warm), learned(bare))
    warm.run(1), bare.run(1)
    assert different(learned(warm), learned(bare))
    never_behaved = build(TinyFQL(), replace(ilq, limit=False), horizon=horizon)
    never_behaved.run(1)
    assert ask(never_behaved, lambda v: v.r.new_tensor(v.td_weight())) == pytest.approx(0.8), "it asks no behaviour"


# -- the target -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [LEARNERS["TD3BC"], LEARNERS["FQL"]], ids=["own model", "the learner's"])
def test_the_target_never_exceeds_the_limit_and_more_samples_never_lower_it(learner):
    ilq = Untrained(delta=0.5, **SMALL)
    engine = trained(learner, ilq, seeds=(0, 1), steps=3)
    limits = {m: ask(engine, lambda v, m=m: replace(ilq, samples=m).y_lmt(v, v.s)) for m in (1, 3, 10)}
    assert (limits[1] <= limits[3]).all() and (limits[3] <= limits[10]).all() and (limits[1] < limits[10]).any()
    target, limit = ask(engine, lambda v: (ilq.target(v, v.s, -v.a), ilq.y_lmt(v, v.s)))
    assert (target <= limit + 0.5).all()
    assert (target == limit + 0.5).any() and (target < limit + 0.5 - 1e-6).any()
    with_data = ask(engine, lambda v: replace(ilq, data_action=True, samples=1).y_lmt(v, v.s))
    assert (with_data >= limits[1]).all() and (with_data > limits[1]).any()
    data_value = ask(engine, lambda v: v.services.q(v.target["critic"], v.s, v.a).amin(0))
    assert (with_data >= data_value - 1e-6).all()


def test_the_limit_is_the_least_over_critics_of_the_largest_over_samples():
    """Also where the learner's own targets average its critics."""
    ilq = Untrained(**SMALL)
    engine = trained(TinyFQL(), ilq)
    actions, limit = ask(engine, lambda v: (ilq.behavior(v, v.s), ilq.y_lmt(v, v.s)))
    by_action = [
        ask(engine, lambda v, m=m: v.services.q(v.target["critic"], v.s, ilq.behavior(v, v.s)[m])) for m in range(4)
    ]
    assert actions.shape == (1, 4, 16, 2)
    torch.testing.assert_close(limit, torch.stack(by_action).max(0).values.min(1).values)


def test_the_ablations_take_one_side():
    ilq = Untrained(delta=0.5, **SMALL)
    engine = trained(LEARNERS["TD3BC"], ilq)
    img, lmt = ask(engine, lambda v: (ilq.y_img(v, v.s, v.a), ilq.y_lmt(v, v.s)))
    only = {"imagination": lmt, "limit": img}
    for switch, expected in only.items():
        target = ask(engine, lambda v, switch=switch: replace(ilq, **{switch: False}).target(v, v.s, v.a))
        torch.testing.assert_close(target, expected + 0.5)
    with pytest.raises(StackError, match="there is no target"):
        ILQ(imagination=False, limit=False)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_perfect_model_imagines_what_the_data_says(normalize):
    """A system that drifts by a constant, its model written down; without noise in the policy, y_img is y_in."""
    register_termination("far", lambda x: x[:, 0] > 1.0)
    draw, drift = np.random.default_rng(0), np.array([0.3, -0.2, 0.1])
    s = draw.normal(size=(200, 3))
    data = Dataset.from_arrays(
        observations=s,
        actions=draw.uniform(-1, 1, size=(200, 2)),
        rewards=np.full(200, 1.5),
        next_observations=s + drift,
        terminals=(s + drift)[:, 0] > 1.0,
        timeouts=(s + drift)[:, 0] <= 1.0,
        env_id="far",
    )
    assert 20 < data.terminals.sum() < 100

    @dataclass(frozen=True)
    class Perfect(ILQ):
        def prepare(self, preparation):
            own = preparation.preprocessor
            p = {n: torch.zeros_like(t) for n, t in init_dynamics(3, 2, torch.Generator(), 7, 8).items()}
            p["bias4"][:, :3], p["bias4"][:, 3] = torch.tensor(drift) / own.observation_std, 1.5
            p["largest_log_variance"] -= 200
            p["smallest_log_variance"] -= 200
            p |= {"input_mean": torch.zeros(5), "input_std": torch.ones(5)}
            return Prepared(
                models={f"dynamics.{n}": t[None] for n, t in p.items()}
                | {"delta": torch.zeros(1)}
                | self.termination_models("far", preparation),
                choices={"termination": "far"},
            )

    learner = TD3BC(hidden=8, batch_size=64, policy_noise=0.0, normalize_observations=normalize)
    ilq = Perfect(name="ilq", limit=False)
    agent = wrap(learner, ilq)
    agent.fit(data, steps=3, progress=False, traced=False, device="cpu")
    engine = agent.run.engine
    y_img, y_in = ask(engine, lambda v: (ilq.y_img(v, v.s, v.a), learner.target(v)))
    torch.testing.assert_close(y_img, y_in, rtol=1e-4, atol=1e-4)
    ended = ask(engine, lambda v: (ilq.imagine(v, v.s, v.a).terminal, v.d))
    assert torch.equal(*ended) and 0 < ended[0].mean() < 1


def test_the_penalty_is_paid_in_doubt_of_all_members():
    ilq = Untrained(**SMALL)
    engine = trained(LEARNERS["TD3BC"], ilq)
    plain, paid, s2, s2_paid = ask(
        engine,
        lambda v: [
            getattr(replace(ilq, penalty=k).imagine(v, v.s, v.a), what)
            for what in ("reward", "next_observation")
            for k in (0.0, 2.0)
        ],
    )
    torch.testing.assert_close(s2, s2_paid)
    models = {name: tensor[0] for name, tensor in engine.frozen["ilq"].items()}
    s, a = (of_seeds[0] for of_seeds in ask(engine, lambda v: (v.s, v.a)))
    loop = PlainTargets(replace(ilq, penalty=2.0), models, 0)
    _, by_hand = loop.imagine(s, a, engine.step)
    torch.testing.assert_close(paid[0], by_hand)
    assert (plain > paid).all()


def test_delta_is_in_units_of_the_raw_return():
    prepared = ILQ(delta=-2.0, imagination=False).prepare(
        preparation(random_data(), (0, 1), owns_behavior=True, reward_scale=10.0, reward_shift=3.0)
    )
    assert prepared.models.keys() == {"delta"} and prepared.models["delta"].tolist() == [-20.0, -20.0]


# -- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_split_among_the_policy_and_those_who_read_q():
    ilq, learner = Untrained(**SMALL), TD3BC(hidden=8, batch_size=16, policy_every=1, policy_noise=0.0)
    for rows, shares in ((None, [6, 5, 5]), (7, [3, 2, 2]), (100, [6, 5, 5])):
        mine = replace(ilq, rows=rows)
        engine = trained(learner, mine, Queries(), seeds=(0, 1))
        (s, a, of_policy, data, states) = ask(
            engine, lambda v, mine=mine: (*mine.queried(v), learner.policy(v.p["actor"], v.s), v.a, v.s)
        )
        total = sum(shares)
        expected = [of_policy[:, :total], data[:, :total] / 2, -data[:, :total]]
        ends = list(itertools.accumulate(shares))
        for source, first, last in zip(expected, [0, *ends], ends, strict=False):
            # A product of fewer rows may round otherwise, which depends on the processor.
            torch.testing.assert_close(a[:, first:last], source[:, first:last], rtol=1e-6, atol=1e-7)
        assert a.shape == (2, total, 2) and torch.equal(s, states[:, :total])
    (row,) = engine.ask("row", lambda v: {"w": v.r.new_tensor(v.critic_rows()[0].weight)}).values()
    assert row.tolist() == [pytest.approx(0.1)] * 2


# -- what it says -----------------------------------------------------------------------------------------------------


def test_warnings_and_presets():
    def warned(learner, *adapters):
        return " ".join(map(str, Stack(learner, adapters).resolve().warnings))

    assert "nobody reads Q off the data" in warned(TinyIQL(), ILQ())
    assert "nobody reads Q" not in warned(TinyIQL(), ILQ(), Queries()) + warned(TD3BC(), ILQ())
    assert "two opposed targets" in warned(TinyCQL(), ILQ())
    assert warned(CQL(alpha=0.0), ILQ()) == warned(TD3BC(), ILQ()) == ""
    assert "rows=64" in warned(TinyFQL(), ILQ()) and "rows=64" not in warned(TinyFQL(), ILQ(rows=64))
    assert "share one set of models" in warned(TD3BC(), ILQ(shared_models=True))
    assert all(warned(learner, ILQ(eta=1.0)) == "" for learner in LEARNERS.values())
    assert "not tested by its paper" in Stack(TD3BC(), (ILQ(),)).explain()
    one = ILQ.preset("hopper-medium")
    assert (one.eta, one.delta, one.penalty) == (0.95, -2.0, 2.0)
    assert ILQ.preset("Hopper-Medium-Expert", rows=9) == ILQ(eta=0.4, delta=-0.5, rows=9)
    assert all(Stack.from_spec(Stack(TD3BC(), (ILQ.preset(name),)).to_spec()) for name in ILQ.presets)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"eta": 1.1}, "eta must be a number in"),
        ({"warm_up": -0.1}, "warm_up must be a number in"),
        ({"penalty": -1.0}, "penalty must be a number >= 0"),
        ({"rows": 0}, "rows must be a whole number >= 1"),
        ({"samples": 0}, "samples must be a whole number >= 1"),
        ({"model_elites": 8}, "of 7 model_members, 8 cannot be"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(StackError, match=text):
        ILQ(**settings)
