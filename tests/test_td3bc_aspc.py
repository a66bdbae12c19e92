"""TD3+BC and ASPC against a plain loop written from the papers' equations, and their parts against plain formulas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss, softplus

from adaptive_constraints import ASPC, Facts, FixedTradeoff, LinearTradeoff, Terms
from adaptive_constraints.baselines import CQL, FQL, IQL, TD3BC
from adaptive_constraints.engine import noise
from adaptive_constraints.engine.engine import Engine

from .helpers import build, columns_of, different, learned, random_data, trained

ACTOR_EVERY = 2

# -- the plain loop ---------------------------------------------------------------------------------------------------


class Policy(nn.Sequential):
    """The actor of TD3+BC."""

    def __init__(self, states: int, width: int, actions: int) -> None:
        super().__init__(
            nn.Linear(states, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, actions),
            nn.Tanh(),
        )


class Critic(nn.Module):
    """One critic; robust ones have three hidden layers, each followed by LayerNorm, others may have it before ReLU."""

    def __init__(self, inputs: int, width: int, robust: bool, before: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        layers, sizes = [], [inputs, *[width] * (3 if robust else 2)]
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), *([nn.LayerNorm(narrow)] if before else []), nn.ReLU()]
            layers += [nn.LayerNorm(narrow, eps=epsilon)] if robust else []
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.layers(torch.cat([state, action], 1)).squeeze(1)


@dataclass
class Meta:
    """The paper's outer step: rate of rho at the start, actor steps between two outer steps, mu."""

    rate: float = 0.03
    interval: int = 5
    mu: float = 0.995


class PlainLoop:
    """Five networks stepped one at a time, as the reference implementations do it."""

    def __init__(self, engine: Engine, seed: int, meta: Meta | None = None) -> None:
        learner = engine.program.resolved.learner
        self.seed, self.batch, self.meta, self.position = seed, learner.batch_size, meta, engine.seeds.index(seed)
        self.columns = columns_of(engine)
        dtype = self.columns["reward"].dtype
        states, actions = self.columns["observation"].shape[1], self.columns["action"].shape[1]
        robust, width = learner.critic == "robust", learner.hidden

        def critic() -> Critic:
            return Critic(states + actions, width, robust, learner.critic == "layernorm").to(dtype)

        self.policy, self.policy_target = (Policy(states, width, actions).to(dtype) for _ in range(2))
        self.critics, self.critic_targets = [critic(), critic()], [critic(), critic()]
        for (name, index), network in self.networks().items():
            take(network, {key: t[self.position] for key, t in engine.params[name.partition("/")[0]].items()}, index)
        self.critic_optimizers = [torch.optim.Adam(each.parameters(), lr=3e-4, foreach=True) for each in self.critics]
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=3e-4, foreach=True)
        self.first = [torch.zeros_like(p) for p in self.policy.parameters()]
        self.second = [torch.zeros_like(p) for p in self.policy.parameters()]
        self.steps = 0
        self.average_q = torch.zeros((), dtype=dtype)
        if meta is not None:
            self.rho = engine.params["aspc.scale"]["rho"][self.position].clone().requires_grad_()
            self.rho_optimizer = torch.optim.Adam([self.rho], lr=meta.rate)
            outer_steps = engine.horizon // (ACTOR_EVERY * meta.interval)
            self.rho_schedule = torch.optim.lr_scheduler.ExponentialLR(self.rho_optimizer, 0.01 ** (1 / outer_steps))

    def networks(self) -> dict[tuple[str, int | None], nn.Module]:
        """By (group in the engine, critic)."""
        return {
            ("actor", None): self.policy,
            ("actor/target", None): self.policy_target,
            ("critic", 0): self.critics[0],
            ("critic", 1): self.critics[1],
            ("critic/target", 0): self.critic_targets[0],
            ("critic/target", 1): self.critic_targets[1],
        }

    def largest_deviation(self, engine: Engine) -> float:
        """Over every parameter of every network and target of this seed."""
        largest = 0.0
        for (name, index), network in self.networks().items():
            group, _, target = name.partition("/")
            tree = engine.targets if target else engine.params
            given = give({key: t[self.position] for key, t in tree[group].items()}, index)
            for ours, theirs in zip(network.parameters(), given, strict=True):
                largest = max(largest, float((ours.detach() - theirs).abs().max()))
        return largest

    def tick(self, tick: int) -> None:
        key = {"seeds": torch.tensor([self.seed]), "ticks": torch.tensor([tick])}
        index = noise.indices(site="batch", count=self.batch, rows=len(self.columns["reward"]), **key)[0, 0]
        names = ("observation", "action", "reward", "next_observation", "terminal")
        s, a, r, s2, d = (self.columns[name][index] for name in names)
        r, d = r.squeeze(1), d.squeeze(1)
        with torch.no_grad():
            draw = noise.normal(site="target", shape=a.shape, dtype=a.dtype, **key)[0, 0]
            a2 = (self.policy_target(s2) + (0.2 * draw).clamp(-0.5, 0.5)).clamp(-1, 1)
            y = r + 0.99 * (1 - d) * torch.min(*(target(s2, a2) for target in self.critic_targets))
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            optimizer.zero_grad()
            mse_loss(critic(s, a), y).backward()
            optimizer.step()
        if tick % ACTOR_EVERY:
            return
        if self.meta is None:
            self.policy_optimizer.zero_grad()
            self.policy_loss(self.policy(s), s, a, 2.5).backward()
            self.policy_optimizer.step()
        else:
            self.scaled_policy_step(s, a, tick, self.meta)
        for target, network in zip(
            (*self.critic_targets, self.policy_target), (*self.critics, self.policy), strict=True
        ):
            for old, new in zip(target.parameters(), network.parameters(), strict=True):
                old.data.copy_(0.005 * new.data + (1 - 0.005) * old.data)

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        q = self.critics[0](s, action)
        return -alpha / q.abs().mean().detach() * q.mean() + mse_loss(action, a)

    def scaled_policy_step(self, s: Tensor, a: Tensor, tick: int, meta: Meta) -> None:
        """The actor's Adam step as a function of alpha, and every so often alpha's own step through it."""
        names, theta = zip(*self.policy.named_parameters(), strict=True)
        alpha = softplus(self.rho)
        action = functional_call(self.policy, dict(zip(names, theta, strict=True)), s)
        gradients = torch.autograd.grad(self.policy_loss(action, s, a, alpha), theta, create_graph=True)
        self.steps += 1
        after = []
        for i, (p, g) in enumerate(zip(theta, gradients, strict=True)):
            m = 0.9 * self.first[i] + 0.1 * g
            v = 0.999 * self.second[i] + 0.001 * g * g
            seen = v > 0  # elsewhere the step is 0 and the square root has no derivative
            root = torch.where(seen, v / (1 - 0.999**self.steps), 1.0).sqrt()
            after.append(p - torch.where(seen, 3e-4 * m / (1 - 0.9**self.steps) / (root + 1e-8), 0.0))
            self.first[i], self.second[i] = m.detach(), v.detach()
        if tick % (ACTOR_EVERY * meta.interval) == 0:
            new_action = functional_call(self.policy, dict(zip(names, after, strict=True)), s)
            q = self.critics[0](s, new_action).mean()
            average = (1 - meta.mu) * q + meta.mu * self.average_q
            l1 = self.policy_loss(new_action, s, a, alpha.detach())
            l2 = (average - self.average_q).square()
            b, b_new = ((action - a).square().mean(1).detach(), (new_action - a).square().mean(1))
            l3 = l2.detach() * b.max() * (b - b_new).abs().max()
            (self.rho.grad,) = torch.autograd.grad(l1 + l2 + l3, self.rho)
            self.rho_optimizer.step()
            self.rho_schedule.step()
            self.average_q = average.detach()
        with torch.no_grad():
            for p, new in zip(theta, after, strict=True):
                p.copy_(new)


def give(params: dict[str, Tensor], index: int | None) -> list[Tensor]:
    """The engine's tensors in the order and orientation of a module's parameters."""
    each = params if index is None else {name: tensor[index] for name, tensor in params.items()}
    given = []
    for layer in range(sum(name.startswith("weight") for name in each)):
        given += [each[f"weight{layer}"].mT, each[f"bias{layer}"]]
        given += [each[f"gain{layer}"], each[f"shift{layer}"]] if f"gain{layer}" in each else []
    return given


def take(network: nn.Module, params: dict[str, Tensor], index: int | None) -> None:
    with torch.no_grad():
        for ours, theirs in zip(network.parameters(), give(params, index), strict=True):
            ours.copy_(theirs)


CASES = {
    "plain": ("plain", None),
    "layernorm": ("layernorm", None),
    "robust": ("robust", None),
    "robust+ASPC": ("robust", Meta()),
}


def beside(case: str, dtype: torch.dtype, ticks: int, seeds=(3,), **sizes) -> tuple[Engine, list[PlainLoop]]:
    """Engine and loops after the same ticks."""
    critic, meta = CASES[case]
    adapters = (ASPC(rate=meta.rate, interval=meta.interval, ema=meta.mu),) if meta else ()
    data = random_data(1000, observation=11, action=3)
    learner = TD3BC(critic=critic, **sizes)
    engine = build(learner, *adapters, seeds=seeds, horizon=ticks, data=data, dtype=dtype, traced=True)
    loops = [PlainLoop(engine, seed, meta) for seed in seeds]
    engine.run(ticks)
    for loop, tick in itertools.product(loops, range(1, ticks + 1)):
        loop.tick(tick)
    return engine, loops


def check(engine: Engine, loop: PlainLoop, tolerance: float, moved: float) -> None:
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

    After 150 ticks: at 200, on one processor, the plain loop is 1.3e-5 away from itself in float64.
    """
    engine, (loop,) = beside(case, torch.float32, 150, hidden=32, batch_size=64)
    check(engine, loop, 1e-5, moved=0.05)


def test_three_seeds_equal_three_plain_loops_in_float64():
    engine, loops = beside("robust+ASPC", torch.float64, 40, seeds=(3, 0, 8), hidden=16, batch_size=32)
    for loop in loops:
        check(engine, loop, 1e-9, moved=0.03)


def test_the_real_sizes_equal_a_plain_loop():
    engine, (loop,) = beside("robust+ASPC", torch.float64, 20)
    assert (engine.program.resolved.learner.hidden, engine.program.resolved.learner.batch_size) == (256, 256)
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


def assert_same_function(found, expected) -> None:
    """Of the terms after the step: the same value and the same gradient."""
    leaves = [tensor.requires_grad_() for tensor in four_rows(1)]
    one, two = found(Terms(*leaves)), expected(Terms(*leaves))
    torch.testing.assert_close(one, two, rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(each, leaves, materialize_grads=True) for each in (one, two)]
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
    found = ASPC(ema=0.9).meta_loss(v, K, four_rows(0), four_rows(1)).buffers["mean_value"]
    assert float(found) == pytest.approx(0.9 * 0.3 + 0.1 * float(four_rows(1).value.mean()), rel=1e-14)


@pytest.mark.parametrize("initial", [1e-3, 0.4, 2.5, 40.0, 1000.0])
def test_the_scale_starts_where_it_is_told_to(initial):
    engine = build(TD3BC(hidden=4, batch_size=4), ASPC(initial=initial), dtype=torch.float64)
    assert float(engine.diagnose()["aspc/scale"]) == pytest.approx(initial, rel=1e-5)


def rates(rate, interval: int, horizon: int) -> list[float]:
    """Of every outer step of a run whose actor steps at every tick."""
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

SMALL = {"hidden": 8, "batch_size": 16}


@pytest.mark.parametrize("adapter", [FixedTradeoff(value=7.0), LinearTradeoff(start=7.0, end=7.0)])
def test_a_fixed_tradeoff_is_the_learners_own_of_that_value(adapter):
    assert not different(learned(trained(TD3BC(**SMALL), adapter)), learned(trained(TD3BC(alpha=7.0, **SMALL))))


def test_a_linear_tradeoff_is_a_line_to_its_end():
    engine = build(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=4.0), horizon=6, dtype=torch.float64)
    own = build(TD3BC(alpha=2.0, **SMALL), LinearTradeoff(end=8.0), horizon=6, dtype=torch.float64)
    for tick in range(1, 7):
        engine.run(1), own.run(1)
        assert float(engine.diagnose()["lineartradeoff/tradeoff"]) == pytest.approx(1 + 3 * tick / 6)
        assert float(own.diagnose()["lineartradeoff/tradeoff"]) == pytest.approx(2 + 6 * tick / 6)


def test_a_linear_tradeoff_is_what_the_actor_is_stepped_with():
    """Its first actor step, at tick 2 of 8, is that of the learner at a quarter of the way."""
    found, expected = (
        trained(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=5.0), ticks=2, horizon=8),
        TD3BC(alpha=2.0, **SMALL),
    )
    assert not different(learned(found), learned(trained(expected, ticks=2)))
