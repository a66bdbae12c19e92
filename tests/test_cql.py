"""CQL against a plain loop written from the papers' equations, and its parts against what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from adaptive_constraints import ASPC, Adapter, ExtraRows, FixedTradeoff, Spec
from adaptive_constraints.baselines import CQL
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import TanhGaussian

from .helpers import build, different, largest_difference, learned, meta_gradients, random_data, resolved_of, trained
from .reference.common import beside
from .reference.cql import PlainCQL

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 16}

# -- the plain loop ---------------------------------------------------------------------------------------------------


CASES: dict[str, Any] = {
    "gym": {},
    "Lagrange, LayerNorm, another temperature": {"target_gap": 4.0, "critic": "robust", "gap_temperature": 2.0},
    "max-target backup, clipped, imitating, no entropy": {
        "entropy": "off",
        "backup_actions": 10,
        "smallest_gap": 5.0,
        "largest_gap": 5.3,
        "actor_imitation": 0.5,
        "critic_layers": 2,
    },
    "no gap, cosine": {"alpha": 0.0, "learning_rate_decay": "cosine"},
}


def test_equals_a_plain_loop_in_float32():
    """The critics' 2000 rows a step soon hold a unit's input within rounding of 0, and ReLU makes two of one."""
    engine, loop = beside(PlainCQL, CQL(hidden=64, batch_size=64), steps=50, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop_in_float64(case):
    """With an actor as fast as the critics, so that it moves."""
    learner = CQL(**{"hidden": 16, "batch_size": 32, "actor_learning_rate": 3e-4, **CASES[case]})
    engine, loop = beside(PlainCQL, learner, steps=100, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10
    if "clipped" in case:
        assert loop.below > 100 and loop.above > 100
    assert ("temperature" in engine.params) == ("no entropy" not in case)
    if "multiplier" in engine.params:
        assert abs(float(loop.log_multiplier.detach()) - 1) > 0.01, "it must have moved for this to say anything"


# -- the gap ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer(Adapter):
    """Answers one seam, away from its default by ``by``; the same on every row unless `rows`."""

    seam: str = ""
    by: float = 0.5
    rows: bool = False

    def answers(self, facts, phase):
        return frozenset({self.seam})

    def weight(self, v):
        return 1 + self.by * (v.r > 0) if self.rows else 1 + self.by

    def td_weight(self, v):
        return 1 + self.by

    constraint_scale = td_weight
    constraint_weight = sample_weight = weight

    def bootstrap(self, v, observation, site, batch, default):
        return default() + self.by

    def critic_rows(self, v):
        return [ExtraRows(self.by, v.s, -v.a, v.r)]

    def behavior_action(self, v, default):
        return default() * (1 - self.by)

    def conservative_value(self, v, action, default):
        return default() * (1 + self.by)

    def tradeoff(self, v, default):
        return default() * (1 + self.by)


def test_the_soft_maximum_estimates_an_integral():
    """log sum exp(Q) / density over three densities of n draws each is log(3n) + log of the integral of exp(Q)."""
    draws, rows = 10_000, 4
    learner = CQL(hidden=16, batch_size=rows, gap_actions=draws, critic_learning_rate=0.0, actor_learning_rate=0.0)
    engine = build(learner, data=random_data(action=1), dtype=torch.float64)
    engine.params["critic"]["weight3"] *= 300  # values of the size of 1 rather than of 1e-2,
    engine.params["actor"]["weight3"] *= 100  # policies that differ between states,
    engine.params["actor"]["log_std_offset"] += 1  # and reach the ends of the box
    engine.run(1)
    shown = engine.ask("look", lambda v: {"gap": learner.gap(v.p["critic"], v), "s": v.s, "a": v.a})
    gap, s, a = (shown[name][0] for name in ("gap", "s", "a"))
    critic = {name: tensor[0] for name, tensor in engine.params["critic"].items()}
    grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    q = learner.q(critic, s.repeat_interleave(len(grid), 0), grid.repeat(rows)[:, None]).view(2, rows, -1)
    assert (q.amax(-1) - q.amin(-1)).mean() > 0.5, "Q must differ between actions for this to say anything"
    integral = torch.trapezoid(q.exp(), grid, dim=-1).log()
    expected = math.log(3 * draws) + integral - learner.q(critic, s, a)
    torch.testing.assert_close(gap, expected.sum(0), rtol=0, atol=0.05)


def test_the_penalty_lifts_the_datas_actions_over_others():
    data, other = random_data(), 2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 1
    columns = {"s": torch.tensor(data.observations), "a": torch.tensor(data.actions)}

    def advantage(engine: Engine) -> Tensor:
        critic = {name: tensor[0] for name, tensor in engine.params["critic"].items()}
        q = resolved_of(engine).learner.q
        return (q(critic, columns["s"], columns["a"]) - q(critic, columns["s"], other)).mean(1)

    settings: dict[str, Any] = {"hidden": 32, "batch_size": 64, "critic_learning_rate": 3e-3}
    start, free, held = (
        advantage(trained(CQL(alpha=alpha, **settings), steps=steps, data=data))
        for alpha, steps in ((0.0, 0), (0.0, 60), (10.0, 60))
    )
    assert (held > start + 0.1).all() and (held > free + 0.1).all()


def test_without_a_gap_no_action_is_drawn_for_it():
    def sites(alpha: float) -> set[str]:
        return {draw.site for draw in trained(CQL(alpha=alpha, **SMALL), steps=1).draws}

    assert sites(0.0) == {"policy", "target"}
    assert sites(1.0) == {"policy", "target", "gap/uniform", "gap/policy", "gap/next"}


# -- what is learned beside -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entropy(Adapter):
    """Answers nothing and estimates the policy's entropy."""

    def answers(self, facts, phase):
        return frozenset()

    def diagnostics(self, v):
        return {"found": -v.resolved.learner.draw(v, v.p["actor"], v.s, "entropy", 50)[1].mean()}


@pytest.mark.parametrize(("offset", "sign"), [(0.0, -1), (-4.0, 1)])
def test_the_temperature_leads_the_entropy_to_its_target(offset, sign):
    """Minus the number of action dimensions, 2: from above, the temperature falls at first; from below, it rises."""
    learner = CQL(alpha=0.0, hidden=16, batch_size=64, actor_learning_rate=2e-2, critic_learning_rate=0.0)
    engine = build(learner, Entropy())
    engine.params["actor"]["log_std_offset"].fill_(offset)
    engine.params["critic"]["weight3"] *= 5000  # values that are worth giving up randomness for
    engine.run(1)
    start = float(engine.diagnose()["entropy/found"])
    assert sign * float(engine.params["temperature"]["log"]) == pytest.approx(2e-2, rel=1e-3)
    assert sign * (-2 - start) > 3
    engine.run(100)
    entropies = []  # of one minibatch and one draw each, so that single ones lie far off now and then
    for _ in range(10):
        engine.run(5)
        entropies.append(float(engine.diagnose()["entropy/found"]))
    assert abs(sum(entropies) / len(entropies) + 2) < 0.5


@pytest.mark.parametrize(("target", "sign"), [(-10.0, 1), (100.0, -1)])
def test_the_multiplier_rises_while_the_gap_exceeds_its_target(target, sign):
    engine = trained(CQL(target_gap=target, **SMALL), steps=3)
    assert sign * (float(engine.params["multiplier"]["log"]) - 1) == pytest.approx(3 * 3e-4, rel=1e-3)


def test_the_multiplier_is_bounded():
    learner = CQL(target_gap=1.0, **SMALL)
    for log in (0.0, math.log(1e6), 200.0):
        p = torch.tensor(log, requires_grad=True)
        learner.multiplier({"log": p}).backward()
        assert float(learner.multiplier({"log": p}).detach()) == pytest.approx(min(math.exp(log), 1e6), rel=1e-4)
        assert p.grad.isfinite()


# -- initial networks -------------------------------------------------------------------------------------------------


def test_initial_networks():
    groups = CQL(critic_layers=5).init(Spec(11, 3), torch.Generator().manual_seed(0))
    actor, critic = groups["actor"], groups["critic"]
    assert sorted(groups) == ["actor", "critic", "temperature"]
    assert [critic[f"weight{i}"].shape for i in (0, 4, 5)] == [(2, 14, 256), (2, 256, 256), (2, 256, 1)]
    for layer in range(6):
        gain = math.sqrt(2) if layer < 5 else 1e-2
        for weight in critic[f"weight{layer}"]:
            small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
            torch.testing.assert_close(small, gain**2 * torch.eye(len(small)), rtol=0, atol=1e-5)
        assert (critic[f"bias{layer}"] == 0).all()
    assert not torch.equal(*critic["weight0"])
    bound = 1e-2 * math.sqrt(6 / (256 + 6))
    assert 0.95 * bound < actor["weight3"].abs().max() <= bound
    assert (actor["bias3"] == 0).all() and (actor["bias2"] != 0).any()
    assert (float(actor["log_std_factor"]), float(actor["log_std_offset"])) == (1, -1)


# -- the policy -------------------------------------------------------------------------------------------------------

POLICY = TanhGaussian(
    torch.tensor([[0.0, -0.4, 1.5]], dtype=torch.float64), torch.tensor([[-1.0, 0.3, -2.0]], dtype=torch.float64)
)


def test_the_density_integrates_to_one():
    edges = torch.tanh(torch.linspace(-9, 9, 200_001, dtype=torch.float64))
    middle = (edges[1:] + edges[:-1]) / 2
    inside = middle.abs() < 1 - 1e-6
    mass = POLICY.log_density(middle[:, None].expand(-1, 3)).exp() * edges.diff()[:, None]
    torch.testing.assert_close(mass[inside].sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)


def test_the_density_of_a_draw_is_that_of_its_action():
    draw = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    action, log_density = POLICY.sample(draw)
    torch.testing.assert_close(POLICY.log_density(action), log_density, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_is_finite_at_the_ends_of_the_box(dtype):
    learner = CQL(hidden=8)
    p = learner.init(Spec(3, 2), torch.Generator().manual_seed(0))["actor"]
    p = {name: tensor.to(dtype).requires_grad_() for name, tensor in p.items()}
    action = torch.tensor([-1.0, -1 + 1e-6, -1 + 1e-4, 0.0, 1 - 1e-4, 1 - 1e-6, 1.0], dtype=dtype)
    action = action[:, None].expand(-1, 2).clone().requires_grad_()
    gaussian = learner.distribution(None, p, torch.ones(7, 3, dtype=dtype))
    log_density = gaussian.log_density(action)
    assert log_density.shape == gaussian.mean.shape == gaussian.std.shape == (7, 2)
    gradients = torch.autograd.grad(log_density.sum(), [action, *p.values()])
    assert log_density.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
    inner = action.detach()[2:5]
    expected = TransformedDistribution(Normal(gaussian.mean[2:5], gaussian.std[2:5]), TanhTransform()).log_prob(inner)
    torch.testing.assert_close(log_density[2:5], expected, rtol=1e-3, atol=0)


def test_acting_takes_the_mean():
    engine = trained(CQL(**SMALL), steps=2)
    states = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    actor = {name: tensor[0] for name, tensor in engine.params["actor"].items()}
    mean = resolved_of(engine).learner.policy(actor, states[0]).mean
    torch.testing.assert_close(engine.act(states, 1)[0], torch.tanh(mean))


# -- settings ---------------------------------------------------------------------------------------------------------

TABLE: dict[str, Any] = {
    # alpha, target gap, backup actions, smallest gap, actor's rate, layers, z-scored states, reward scale and shift
    "gym": (10.0, None, 1, None, 3e-5, 3, True, 1.0, 0.0),
    "hopper-medium": (10.0, None, 1, None, 3e-5, 3, True, "return_range", 0.0),
    "maze2d": (10.0, 5.0, 1, None, 3e-5, 3, True, 1.0, 0.0),
    "antmaze": (5.0, 0.8, 10, -200.0, 1e-4, 5, False, 10.0, -5.0),
    "adroit": (1.0, None, 1, None, 1e-4, 3, True, 1.0, 0.0),
}


@pytest.mark.parametrize("family", TABLE)
def test_presets_are_the_published_ones(family):
    chosen = CQL.preset(family)
    preprocess = chosen
    assert TABLE[family] == (
        chosen.alpha,
        chosen.target_gap,
        chosen.backup_actions,
        chosen.smallest_gap,
        chosen.actor_learning_rate,
        chosen.critic_layers,
        preprocess.normalize_observations,
        preprocess.reward_scale,
        preprocess.reward_shift,
    )
    common = (chosen.critic_learning_rate, chosen.polyak, chosen.batch_size, chosen.discount, chosen.entropy)
    assert common == (3e-4, 0.005, 256, 0.99, "automatic")
    assert (chosen.gap_actions, chosen.gap_temperature, chosen.largest_gap, chosen.hidden) == (10, 1.0, None, 256)
    assert (chosen.critic, chosen.actor_imitation, preprocess.action_margin) == ("plain", 0.0, 1e-4)


@pytest.mark.parametrize(
    ("name", "actor", "critic", "entropy", "decay"),
    [
        ("ilq", 3e-4, 5e-4, "automatic", "none"),
        ("ilq-hopper-random", 1e-4, 3e-4, "automatic", "none"),
        ("ilq-hopper-medium-replay", 1e-4, 3e-4, "automatic", "none"),
        ("ilq-walker2d-medium-replay", 1e-4, 3e-4, "automatic", "none"),
        ("ilq-adroit", 1e-4, 3e-4, "off", "cosine"),
    ],
)
def test_presets_of_imagination_limited_q_learning(name, actor, critic, entropy, decay):
    chosen = CQL.preset(name)
    assert (chosen.actor_learning_rate, chosen.critic_learning_rate) == (actor, critic)
    assert (chosen.alpha, chosen.entropy, chosen.learning_rate_decay) == (0.0, entropy, decay)
    assert (chosen.critic_layers, chosen.hidden, chosen.normalize_observations) == (3, 256, False)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": 0.0, "target_gap": 1.0}, "target_gap"),
        ({"gap_actions": 0}, "gap_actions"),
        ({"gap_temperature": 0.0}, "gap_temperature"),
        ({"smallest_gap": 1.0, "largest_gap": 0.0}, "smallest_gap"),
        ({"backup_actions": 0}, "backup_actions"),
        ({"actor_imitation": -0.5}, "actor_imitation"),
        ({"critic_layers": 0}, "critic_layers"),
        ({"hidden": 0}, "hidden"),
        ({"polyak": 0.0}, "polyak"),
        ({"action_margin": 0.0}, "action_margin"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, text):
    with pytest.raises(StackError, match=f"CQL: .*{text}"):
        CQL(**settings)


# -- seams ------------------------------------------------------------------------------------------------------------

LEARNERS = {
    "plain": CQL(**SMALL),
    "Lagrange": CQL(target_gap=1.0, **SMALL),
    "no gap": CQL(alpha=0.0, **SMALL),
    "imitating": CQL(actor_imitation=0.5, **SMALL),
}
TD = {"bootstrap", "td_weight", "critic_rows"}
GAP = {"behavior_action", "conservative_value", "constraint_weight", "constraint_scale", "tradeoff"}
HEARERS = {
    "plain": {seam: {"critic"} for seam in TD | GAP},
    "Lagrange": {seam: {"critic"} for seam in TD} | {seam: {"critic", "multiplier"} for seam in GAP - {"tradeoff"}},
    "no gap": {seam: {"critic"} for seam in TD},
    "imitating": {seam: {"critic"} for seam in TD | GAP}
    | {"behavior_action": {"critic", "actor"}, "sample_weight": {"actor"}},
}


@pytest.mark.parametrize(("name", "seam"), [(name, seam) for name, seams in HEARERS.items() for seam in sorted(seams)])
def test_every_seam_is_heard_where_it_should_be(name, seam):
    """In the first gradients of these groups alone."""
    plain, probed = trained(LEARNERS[name], steps=1), trained(LEARNERS[name], Answer(seam=seam, rows=True), steps=1)
    one, two = ({n: t for n, t in engine.state().items() if "exp_avg" in n} for engine in (plain, probed))
    assert {tensor.split("/")[1] for tensor in different(one, two)} == HEARERS[name][seam]


def test_no_other_seam_is_asked():
    for name, learner in LEARNERS.items():
        asked = set(HEARERS[name]) | ({"tradeoff"} if name == "Lagrange" else set())
        assert learner.facts().seams == asked


@pytest.mark.parametrize("target", [None, 1.0])
def test_a_weight_of_two_is_twice_the_alpha(target):
    """The gap's target is weighted with the gap."""
    twice = learned(trained(CQL(alpha=2.0, target_gap=target, **SMALL)))
    for seam in ("constraint_weight", "constraint_scale"):
        weighted = trained(CQL(alpha=1.0, target_gap=target, **SMALL), Answer(seam=seam, by=1.0))
        assert not different(learned(weighted), twice)
    if target is None:
        assert not different(learned(trained(CQL(alpha=1.0, **SMALL), FixedTradeoff(value=2.0))), twice)


@pytest.mark.parametrize("learner", ["Lagrange", "no gap"])
def test_a_trade_off_is_refused_where_there_is_none_to_set(learner):
    for adapter in (ASPC(), FixedTradeoff()):
        with pytest.raises(StackError, match=r"CQL.*(itself|never asks|none to set)"):
            Stack(LEARNERS[learner], (adapter,))


# -- engine -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "adapters"),
    [({}, (ASPC(interval=2),)), ({"target_gap": 1.0, "backup_actions": 3, "smallest_gap": 4.0}, ())],
    ids=["aspc", "Lagrange"],
)
def test_seeds_together_and_traced_equal_seeds_alone(settings, adapters):
    learner, options = CQL(**settings, **SMALL), {"dtype": torch.float64, "steps": 20}
    together = trained(learner, *adapters, seeds=(0, 5), traced=True, **options)
    for position, seed in enumerate((0, 5)):
        alone = trained(learner, *adapters, seeds=(seed,), **options)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


@pytest.mark.parametrize("critic", ["plain", "robust"])
def test_back_ends_of_the_meta_step_agree(critic):
    gradients = meta_gradients(CQL(critic=critic, **SMALL), rounds=2, horizon=10)
    for closed, autograd in zip(*gradients, strict=True):
        assert (closed != 0).all()
        torch.testing.assert_close(closed, autograd, rtol=1e-9, atol=1e-13)


def test_facts():
    facts = {name: learner.facts() for name, learner in LEARNERS.items()}
    assert [facts[name].tradeoff for name in LEARNERS] == [10.0, 10.0, None, 10.0]
    assert [facts[name].learns_tradeoff for name in LEARNERS] == [False, True, False, False]
    assert CQL(critic="robust").facts().normalized_critic and not facts["plain"].normalized_critic
    (warning,) = Stack(CQL(critic="robust"), (ASPC(),)).resolve().warnings
    assert "raises CQL's weight of conservatism" in warning.text
