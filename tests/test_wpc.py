"""wPC against a plain loop written from its equations, and what it weighs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from adaptive_constraints import ANQ, ASPC, WPC, Adapter
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine import noise
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp

from .helpers import build, columns_of, different, largest_difference, learned, random_data, trained
from .sketches import TinyCQL, TinyFQL, TinyIQL

SMALL = {"hidden": 8, "batch_size": 16}
LEARNERS = {"TD3BC": TD3BC(policy_every=1, **SMALL), "FQL": TinyFQL(), "IQL": TinyIQL()}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def network(params: dict[str, Tensor], *last: nn.Module) -> nn.Sequential:
    """Two hidden ReLU layers with these parameters of one seed."""
    layers: list[nn.Module] = []
    for i in range(3):
        layer = nn.Linear(*params[f"weight{i}"].shape, dtype=params[f"weight{i}"].dtype)
        layer.weight.data, layer.bias.data = params[f"weight{i}"].mT.clone(), params[f"bias{i}"].clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1], *last)


def networks(engine: Engine) -> dict[str, nn.Sequential]:
    """Copies of the engine's only seed: value, critics, policy, and their targets."""
    found = {"value": network({name: t[0] for name, t in engine.params["wpc.value"].items()})}
    for suffix, tree in (("", engine.params), (" target", engine.targets)):
        found[f"policy{suffix}"] = network({name: t[0] for name, t in tree["actor"].items()}, nn.Tanh())
        for i in range(2):
            found[f"critic {i}{suffix}"] = network({name: t[0, i] for name, t in tree["critic"].items()})
    return found


def plain_ticks(engine: Engine, ticks: int) -> tuple[dict[str, nn.Sequential], list[float]]:
    """wPC on TD3+BC from the engine's state: V, the critics, and every second tick the policy and the averages.

    Also the share of rows that each policy step imitates.
    """
    net, shares, learner = networks(engine), [], engine.program.resolved.learner
    columns = columns_of(engine)
    critics, targets = ([net[f"critic {i}{suffix}"] for i in range(2)] for suffix in ("", " target"))
    optimizers = {name: torch.optim.Adam(net[name].parameters(), lr=3e-4) for name in net if "target" not in name}

    def step(name: str, loss: Tensor) -> None:
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    for tick in range(1, ticks + 1):
        key = {"seeds": torch.tensor(engine.seeds), "ticks": torch.tensor([tick])}
        index = noise.indices(site="batch", count=learner.batch_size, rows=len(columns["reward"]), **key)[0, 0]
        names = ("observation", "action", "reward", "next_observation", "terminal")
        s, a, r, s2, d = (columns[name][index] for name in names)
        sa = torch.cat([s, a], 1)
        with torch.no_grad():
            draw = noise.normal(site="target", shape=a.shape, dtype=a.dtype, **key)[0, 0]
            a2 = (net["policy target"](s2) + (0.2 * draw).clamp(-0.5, 0.5)).clamp(-1, 1)
            y = r + 0.99 * (1 - d) * torch.min(*(critic(torch.cat([s2, a2], 1)) for critic in targets))
        step("value", ((y - net["value"](s)) ** 2).mean())
        for i, critic in enumerate(critics):
            step(f"critic {i}", ((critic(sa) - y) ** 2).mean())
        if tick % 2:
            continue
        weight = 1.0 * (critics[0](sa) > net["value"](s)).detach()
        pi = net["policy"](s)
        q = critics[0](torch.cat([s, pi], 1))
        step("policy", -2.5 / q.abs().mean().detach() * q.mean() + (weight * (pi - a) ** 2).mean())
        shares.append(float(weight.mean()))
        for name in (each for each in net if "target" in each):
            for old, new in zip(net[name].parameters(), net[name[:-7]].parameters(), strict=True):
                old.data.copy_(0.005 * new.data + 0.995 * old.data)
    return net, shares


def test_equals_a_plain_loop():
    settings = {"seeds": (3,), "data": random_data(1000, observation=11, action=3), "dtype": torch.float64}
    engine = build(TD3BC(hidden=64, batch_size=64), WPC(hidden=64), **settings)
    expected, shares = plain_ticks(engine, 50)
    engine.run(50)
    for name, found in networks(engine).items():
        for ours, theirs in zip(found.parameters(), expected[name].parameters(), strict=True):
            assert float((ours - theirs).detach().abs().max()) < 1e-10, name
    assert min(shares) > 0.1 and max(shares) < 0.9, "some rows must count and some not for this to say anything"


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
        [1.0 if q > value else 0.0 for q, value in zip(*each, strict=True)]
        for each in zip(shown["q"].tolist(), shown["value"].tolist(), strict=True)
    ]
    assert shown["weight"].tolist() == expected
    assert {0.0, 1.0} == {each for row in expected for each in row}
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


TWO = {"seeds": (0, 1)}


def test_the_value_regresses_on_the_critics_own_target():
    """Draws included: it sees what the critics see, and another adapter's bootstrap with it."""
    for adapters in ((), (ANQ(hidden=8),)):
        engine = trained(LEARNERS["TD3BC"], *adapters, WPC(hidden=8), dtype=torch.float64)
        wpc = engine.program.resolved.adapters[-1]
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
    wpc = engine.program.resolved.adapters[1]
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
    settings = {"ticks": 5, "dtype": torch.float64}
    together = trained(learner, WPC(), **TWO, **settings)
    for position, seed in enumerate(TWO["seeds"]):
        alone = trained(learner, WPC(), seeds=(seed,), **settings)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_traced_is_eager():
    one, two = (trained(LEARNERS["TD3BC"], WPC(), **TWO, traced=each) for each in (True, False))
    assert not different(learned(one), learned(two))


@each_learner
def test_beside_a_learned_trade_off(learner):
    """The meta-gradient through the weighted imitation agrees with autograd's."""
    settings = {**TWO, "dtype": torch.float64, "horizon": 10}
    closed, oracle = (
        build(learner, WPC(), ASPC(interval=1, meta_step=each), **settings) for each in ("closed_form", "autograd")
    )
    closed.run(1)
    closed.metrics.flush()
    oracle.load({name: tensor.clone() for name, tensor in closed.state().items()}, closed.tick)
    found = []
    for engine in (closed, oracle):
        engine.run(1)
        found.append(torch.tensor(engine.metrics.flush()["aspc/gradient"], dtype=torch.float64))
    assert found[1].abs().max() > 0
    torch.testing.assert_close(*found, rtol=1e-8, atol=0)
