"""ILQ against plain loops written from the paper, its operator on small tables, and where it is neutral."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import (
    ASPC,
    ILQ,
    Adapter,
    Dataset,
    Facts,
    Preparation,
    Prepared,
    Spec,
    load_agent,
    load_dataset,
    register_termination,
    wrap,
)
from adaptive_constraints.adapters import termination
from adaptive_constraints.adapters.ilq import Imagined
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.core.types import chosen
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_dynamics, init_noise_network
from adaptive_constraints.pretraining.preparation import BoundPreparation
from adaptive_constraints.support import checkpoint
from adaptive_constraints.testing import made_data

from .helpers import build, different, largest_difference, learned, random_data, resolved_of, trained
from .reference.ilq import ILQOnSAC, ILQOnTD3BC, PlainTargets
from .sketches import LEARNERS, TinyCQL, TinyFQL, TinyIQL, each_learner

TINY: dict[str, Any] = {
    "model_hidden": 8,
    "model_members": 3,
    "model_elites": 2,
    "model_epochs": 1,
    "behavior_steps": 3,
    "behavior_hidden": 8,
    "termination_steps": 3,
}


pytestmark = pytest.mark.usefixtures("own_cache")


@dataclass(frozen=True)
class Untrained(ILQ):
    """ILQ whose models are as they were initialised, but larger, so that what they say varies."""

    name: str = "ilq"
    rule: str = "none"

    def prepare(self, preparation):
        if self.off:
            return None
        spec, models = preparation.spec, []
        for seed in preparation.seeds:
            random = generator(seed, "models")
            dynamics = init_dynamics(*spec, random, self.model_members, self.model_hidden)
            dynamics |= {"input_mean": torch.randn(sum(spec), generator=random), "input_std": torch.full((5,), 2.0)}
            dynamics |= {"holdout_error": torch.arange(1.0, 1.0 + self.model_members)}
            behavior = init_noise_network(*spec, random, self.behavior_hidden)
            models.append(
                {f"dynamics.{name}": 1.3 * tensor for name, tensor in dynamics.items()}
                | {f"behavior.{name}": tensor for name, tensor in behavior.items()}
                | {"delta": torch.tensor(self.delta)}
                | {"observation_mean": torch.zeros(spec.observation_dim)}
                | {"observation_std": torch.ones(spec.observation_dim)}
            )
        stacked = {name: torch.stack([each[name] for each in models]) for name in models[0]}
        return Prepared(models=stacked, choices={"termination": self.rule})


SMALL: dict[str, Any] = {"model_hidden": 16, "model_members": 4, "model_elites": 3, "behavior_hidden": 16, "samples": 4}


@dataclass(frozen=True)
class Queries(Adapter):
    """Reads Q at two made-up actions."""

    def query_action(self, v):
        return [v.a / 2, -v.a]


def ask(engine, answer):
    """What ``answer(view)`` says at the engine's last step; a tensor [S, ...] or several."""
    found = engine.ask("test", lambda v: {str(i): t for i, t in enumerate(_several(answer(v)))})
    return next(iter(found.values())) if len(found) == 1 else tuple(found.values())


def _several(answer):
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def preparation(data: Dataset, seeds=(0,), owns_behavior=False, **settings) -> Preparation:
    facts = Facts(constrained="actor", seams=frozenset(), tradeoff=None, owns_behavior=owns_behavior)
    spec = Spec(data.observation_dim, data.action_dim)
    return BoundPreparation(data, Preprocessor.fit(data, **settings), facts, spec, tuple(seeds), discount=0.99)


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


# -- the operator on tables -------------------------------------------------------------------------------------------

STATES, ACTIONS, GAMMA = 5, 4, 0.9


class Table:
    """A random deterministic decision process, and ILQ's own target on tables of Q."""

    def __init__(self, seed: int, reward_error: float = 0.0) -> None:
        draw = np.random.default_rng(seed)
        self.reward = torch.tensor(draw.normal(size=(STATES, ACTIONS)))
        self.next = torch.tensor(draw.integers(STATES, size=(STATES, ACTIONS)))
        self.support = torch.tensor([sorted(draw.choice(ACTIONS, size=2, replace=False)) for _ in range(STATES)])
        imagined = self.reward + reward_error

        class OnTables(ILQ):
            def imagine(_, v, s, a):
                at = (s[:, 0].long(), a[:, 0].long())
                return Imagined(self.next[at].double()[:, None], imagined[at], torch.zeros(len(s)))

            def behavior(_, v, s):
                return self.support[s[:, 0].long()].T[..., None].double()

        self.ilq = OnTables(delta=0.25, name="ilq")

    def view(self, q: Tensor) -> SimpleNamespace:
        services = SimpleNamespace(discount=GAMMA, q=lambda p, s, a: p[s[:, 0].long(), a[:, 0].long()][None])
        return SimpleNamespace(
            frozen={"ilq": {"delta": torch.tensor(0.25)}},
            target={"critic": q},
            services=services,
            bootstrap=lambda s, site: q.max(1).values[s[:, 0].long()],
            log=lambda name, value: None,
        )

    def backup(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """T Q [STATES, ACTIONS], and where the limit decided."""
        s, a = (each.reshape(-1, 1).double() for each in torch.meshgrid(*map(torch.arange, q.shape), indexing="ij"))
        v = self.view(q)
        off = self.ilq.target(v, s, a).view_as(q)
        capped = (self.ilq.y_lmt(v, s) < self.ilq.y_img(v, s, a)).view_as(q)
        inside = torch.zeros_like(q, dtype=torch.bool).scatter(1, self.support, True)
        on = self.reward + GAMMA * q.max(1).values[self.next]
        return torch.where(inside, on, off), capped & ~inside


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max())


def test_applied_twice_the_operator_contracts_and_once_it_need_not():
    draw, once, twice = torch.Generator().manual_seed(0), [], []
    for seed in range(20):
        table = Table(seed)
        for size in (0.1, 1.0, 10.0):
            q1 = size * torch.randn(STATES, ACTIONS, generator=draw, dtype=torch.float64)
            q2 = q1 + torch.randn(STATES, ACTIONS, generator=draw, dtype=torch.float64)
            (a1, capped1), (a2, capped2) = table.backup(q1), table.backup(q2)
            once.append(distance(a1, a2) / distance(q1, q2))
            twice.append(distance(table.backup(a1)[0], table.backup(a2)[0]) / distance(q1, q2))
            free = ~(capped1 | capped2)
            assert distance(a1[free], a2[free]) <= GAMMA * distance(q1, q2) + 1e-12
    assert max(twice) <= GAMMA + 1e-12
    assert GAMMA + 0.01 < max(once) <= 1 + 1e-12


def test_an_error_of_the_model_is_limited():
    """A model that promises 1000 per step raises no value above the best of the behaviour, plus delta."""
    for seed in range(3):
        wrong, right = Table(seed, reward_error=1000.0), Table(seed)
        found = []
        for table in (wrong, right):
            q = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
            for _ in range(250):
                q = table.backup(q)[0]
            assert distance(q, table.backup(q)[0]) < 1e-5, "it has a fixed point"
            best = q.gather(1, table.support).max(1).values
            assert (q <= best[:, None] + 0.25 + 1e-5).all()
            found.append(q)
        values = [q.max(1).values for q in found]
        assert (found[0] >= found[1] - 1e-4).all() and distance(*values) <= 0.25 / (1 - GAMMA) + 1e-4
        unlimited = replace(wrong.ilq, limit=False)
        v, s = wrong.view(found[0]), torch.zeros(1, 1, dtype=torch.float64)
        assert unlimited.target(v, s, s) > 900


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
    found = {}
    for backend in ("closed_form", "autograd"):
        aspc = ASPC(interval=1, meta_step=backend)
        engine = build(learner, Untrained(eta=0.8, warm_up=0.0, **SMALL), aspc, dtype=torch.float64)
        engine.run(1)
        engine.metrics.flush()
        engine.run(1)
        found[backend] = engine.metrics.flush()["aspc/gradient"][0]
    assert found["closed_form"] == pytest.approx(found["autograd"], rel=1e-6)
    assert math.isfinite(found["autograd"]) and found["autograd"] != 0


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
        found = ask(engine, lambda v, switch=switch: replace(ilq, **{switch: False}).target(v, v.s, v.a))
        torch.testing.assert_close(found, expected + 0.5)
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
    s, a = (each[0] for each in ask(engine, lambda v: (v.s, v.a)))
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


# -- models -----------------------------------------------------------------------------------------------------------


def test_models_are_trained_once_per_seed_and_go_on_bit_for_bit(own_cache, tmp_path):
    stack, data = (TD3BC(hidden=8, batch_size=16), ILQ(termination="learned", **TINY)), made_data()
    options: dict[str, Any] = {"steps": 8, "seeds": 2, "progress": False, "traced": False, "device": "cpu"}
    whole, half = wrap(*stack), wrap(*stack)
    whole.fit(data, **options)
    files = {file.name: checkpoint.read(file)[1] for file in own_cache.iterdir()}
    kinds = {"ilq.behavior", "ilq.dynamics", "ilq.termination"}
    assert len(files) == 6 and {name.split("-")[0] for name in files} == kinds
    half.fit(data, stop_after=4, **options)
    half.save(tmp_path / "half.npz")
    for present in (True, False):
        if not present:
            for file in own_cache.iterdir():
                file.unlink()
        resumed = load_agent(tmp_path / "half.npz", device="cpu")
        resumed.fit(data, **options)
        one, two = (each.run.engine.state() for each in (whole, resumed))
        assert one.keys() == two.keys() and not different(one, two)
    assert not list(own_cache.iterdir()), "the checkpoint has the models"
    wrap(*stack).fit(data, **options)
    made_anew = {file.name: checkpoint.read(file)[1] for file in own_cache.iterdir()}
    assert made_anew.keys() == files.keys()
    assert not [name for name in files if different(files[name], made_anew[name])], "trained anew, the same bits"


def test_a_termination_that_is_not_known_is_refused_before_anything_is_trained(own_cache):
    agent = wrap(TD3BC(hidden=8, batch_size=16), ILQ(**(TINY | {"termination": "hoper"})))
    with pytest.raises(StackError, match="hoper"):
        agent.fit(made_data(), steps=8, progress=False, device="cpu")
    assert not own_cache.exists()


def test_only_what_is_needed_is_trained(own_cache):
    cases = [
        ({"imagination": False}, False, {"ilq.behavior"}),
        ({"limit": False}, False, {"ilq.dynamics"}),
        ({}, True, {"ilq.dynamics"}),
        ({"termination": "learned"}, True, {"ilq.dynamics", "ilq.termination"}),
    ]
    for settings, owns_behavior, expected in cases:
        for file in own_cache.glob("*"):
            file.unlink()
        ILQ(**(TINY | {"termination": "none"} | settings)).prepare(preparation(random_data(), (0,), owns_behavior))
        assert {file.name.split("-")[0] for file in own_cache.iterdir()} == expected


def test_shared_models_are_the_same_for_all_seeds():
    one = preparation(random_data(), (3, 4))
    models = ILQ(shared_models=True, termination="learned", **TINY).prepare(one).models
    assert all(torch.equal(tensor[0], tensor[1]) for tensor in models.values()) and "behavior.weight0" in models
    assert not torch.equal(*ILQ(**TINY).prepare(one).models["behavior.weight0"])


def test_the_behaviour_model_imitates():
    data = random_data(400)
    taken = 0.5 * np.sign(data.observations[:, :1]) * np.array([1.0, -1.0])
    engine = build(
        LEARNERS["TD3BC"],
        ILQ(imagination=False, behavior_steps=450, behavior_hidden=64),
        data=replace(data, actions=taken.astype(np.float32)),
    )
    engine.run(1)
    (ilq,) = resolved_of(engine).adapters
    drawn, wanted = ask(engine, lambda v: (ilq.behavior(v, v.s), v.a))
    assert drawn.shape == (1, 10, 16, 2)
    assert (drawn * wanted[:, None] > 0).float().mean() > 0.65, "half of them by chance"


def test_small_data_of_one_dimension_and_one_episode():
    data = random_data(10, observation=1, action=1)
    data = replace(data, terminals=np.zeros(10, bool), timeouts=np.arange(10) == 9)
    engine = trained(LEARNERS["TD3BC"], ILQ(**TINY), data=data, steps=2)
    assert not engine.metrics.failures() and chosen(engine.frozen["ilq"], "termination") == "none"


# -- where episodes end -----------------------------------------------------------------------------------------------


def test_the_known_rules_say_what_the_simulators_say():
    hopper = torch.zeros(6, 11)
    hopper[:, 0] = torch.tensor([1.2, 0.69, 1.2, 1.2, 1.2, float("nan")])
    hopper[2, 1], hopper[3, 7], hopper[4, 1] = -0.21, 101.0, 0.19
    assert termination.hopper(hopper).tolist() == [False, True, True, True, False, True]
    walker = torch.zeros(5, 17)
    walker[:, 0], walker[4, 1] = torch.tensor([1.2, 0.79, 2.01, 1.9, 1.2]), 1.1
    assert termination.walker2d(walker).tolist() == [False, True, True, False, True]
    ant = torch.full((4, 27), 0.5)
    ant[:, 0], ant[3, 20] = torch.tensor([0.5, 0.1, 1.1, 0.5]), math.inf
    assert termination.ant(ant).tolist() == [False, True, True, True]
    assert not termination.never(ant).any()


def test_the_rule_agrees_with_the_bundled_data():
    data = load_dataset("bundled:hopper")
    assert termination.choose_termination("auto", data) == "hopper"
    found = termination.hopper(torch.tensor(data.next_observations)).numpy()
    assert data.terminals.sum() > 100 and (found == data.terminals).all()


def made(env_id=None, task=None, ends=False, dims=3):
    data = random_data(60, observation=dims)
    return replace(data, env_id=env_id, task=task, terminals=data.terminals & ends)


@pytest.mark.parametrize(
    ("data", "auto", "known"),
    [
        (made("Hopper-v5", dims=11), "hopper", "hopper"),
        (made(task="walker2d", dims=17), "walker2d", "walker2d"),
        (made("Hopper-v4", dims=12, ends=True), "learned", None),
        (made("HalfCheetah-v5", "halfcheetah"), "none", "none"),
        (made("PointMaze_UMaze-v3"), "none", "none"),
        (made("PointMaze_UMaze-v3", ends=True), "learned", "none"),
        (made(task="maze2d-large"), "none", "none"),
        (made("AdroitHandPen-v1", "pen"), "none", "none"),
        (made(task="antmaze", ends=True), "learned", None),
        (made(ends=True), "learned", None),
        (made(), "none", "none"),
    ],
)
def test_which_rule_holds(data, auto, known):
    assert termination.choose_termination("auto", data) == auto
    if known is not None:
        assert termination.choose_termination("known", data) == known
        return
    with pytest.raises(StackError, match=r"no termination rule is known.*hopper, walker2d.*register_termination"):
        termination.choose_termination("known", data)


def test_rules_are_registered_by_name_or_by_place():
    register_termination("Mine-v3", lambda x: x[:, 0] > 3)
    assert termination.choose_termination("auto", made("Mine-v3", "hopper", dims=11)) == "Mine-v3"
    assert termination.choose_termination("Mine-v3", made()) == "Mine-v3"
    with pytest.raises(StackError, match="'learned' is taken"):
        register_termination("learned", termination.never)
    with pytest.raises(StackError, match=r"named 'hoper': did you mean 'hopper'\?"):
        termination.choose_termination("hoper", made())
    with pytest.raises(StackError, match="has none: use 'none'"):
        termination.choose_termination("learned", made())


def test_a_learned_end_is_a_calibrated_probability():
    """Rows end with probability 0.8 beyond 1, and never elsewhere."""
    draw = np.random.default_rng(0)
    after = draw.normal(size=(2000, 3)) * 5
    ends = (after[:, 0] > 5) & (draw.random(2000) < 0.8)
    data = replace(
        random_data(2000), next_observations=after.astype(np.float32), terminals=ends, timeouts=np.zeros(2000, bool)
    )
    ilq = ILQ(limit=False, **(TINY | {"termination_steps": 150}))
    models = {name: tensor[0] for name, tensor in ilq.prepare(preparation(data)).models.items()}
    found = ilq.terminal("learned", models, torch.tensor(data.next_observations))
    assert found[after[:, 0] > 6].mean() == pytest.approx(0.8, abs=0.12)
    assert found[after[:, 0] < 3].mean() < 0.05


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
