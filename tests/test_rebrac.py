"""ReBRAC against a plain loop written from the paper's equations, and its penalties, presets and seams."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from adaptive_constraints import ASPC, Dataset
from adaptive_constraints.baselines import ReBRAC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine import noise
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError

from .helpers import build, different, largest_difference, learned, random_data, seen, trained
from .test_meta_gradient import deviation, outer_step, put
from .test_seams import Probe, groups
from .test_td3bc_aspc import Critic, give, take

SMALL = ReBRAC(hidden=8, batch_size=16, policy_every=1)

# -- the plain loop ---------------------------------------------------------------------------------------------------


class Actor(nn.Sequential):
    """Three hidden layers and a tanh."""

    def __init__(self, states: int, width: int, actions: int) -> None:
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise([states, width, width, width]):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, actions), nn.Tanh())


class PlainLoop:
    """An actor and twin critics with their targets, stepped one after the other on rows of the data set itself."""

    def __init__(self, engine: Engine, data: Dataset, dtype: torch.dtype) -> None:
        self.settings: ReBRAC = engine.program.resolved.learner
        (self.seed,) = engine.seeds
        ends = data.terminals | data.timeouts
        self.columns = [
            torch.tensor(array).to(dtype)
            for array in (
                data.observations,
                data.actions,
                data.rewards,
                data.next_observations,
                data.terminals,
                np.roll(data.actions, -1, axis=0),
                ~ends,
            )
        ]
        width, states, actions = self.settings.hidden, data.observation_dim, data.action_dim
        self.actor, self.actor_target = (Actor(states, width, actions).to(dtype) for _ in range(2))
        self.critics, self.critic_targets = (
            [Critic(states + actions, width, robust=True, epsilon=1e-6).to(dtype) for _ in range(2)] for _ in range(2)
        )
        for name, index, network in self.networks():
            take(network, {key: tensor[0] for key, tensor in engine.params[name.partition("/")[0]].items()}, index)
        critic_parameters = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(critic_parameters, lr=self.settings.critic_learning_rate, foreach=True)
        self.actor_optimizer = torch.optim.Adam(
            self.actor.parameters(), lr=self.settings.actor_learning_rate, foreach=True
        )

    def networks(self) -> list[tuple[str, int | None, nn.Module]]:
        """(Group in the engine, critic, network)."""
        online = [("critic", i, critic) for i, critic in enumerate(self.critics)]
        averaged = [("critic/target", i, critic) for i, critic in enumerate(self.critic_targets)]
        return [("actor", None, self.actor), ("actor/target", None, self.actor_target), *online, *averaged]

    def largest_deviation(self, engine: Engine) -> float:
        """Over every parameter."""
        largest = 0.0
        for name, index, network in self.networks():
            group, _, target = name.partition("/")
            tree = engine.targets if target else engine.params
            given = give({key: tensor[0] for key, tensor in tree[group].items()}, index)
            for ours, theirs in zip(network.parameters(), given, strict=True):
                largest = max(largest, float((ours.detach() - theirs).abs().max()))
        return largest

    def tick(self, tick: int) -> None:
        key = {"seeds": torch.tensor([self.seed]), "ticks": torch.tensor([tick])}
        count, rows = self.settings.batch_size, len(self.columns[0])
        index = noise.indices(site="batch", count=count, rows=rows, **key)[0, 0]
        s, a, r, s2, d, next_a, has_next = (column[index] for column in self.columns)
        with torch.no_grad():
            draw = noise.normal(site="target", shape=a.shape, dtype=a.dtype, **key)[0, 0]
            a2 = (self.actor_target(s2) + (0.2 * draw).clamp(-0.5, 0.5)).clamp(-1, 1)
            penalty = self.settings.beta2 * has_next * ((a2 - next_a) ** 2).sum(1)
            next_q = torch.min(*(target(s2, a2) for target in self.critic_targets)) - penalty
            y = r + (1 - d) * self.settings.discount * next_q
        self.step(self.critic_optimizer, sum(mse_loss(critic(s, a), y) for critic in self.critics))
        if tick % self.settings.policy_every:
            return
        action = self.actor(s)
        q = torch.min(*(critic(s, action) for critic in self.critics))
        distance = ((action - a) ** 2).sum(1)
        self.step(self.actor_optimizer, (self.settings.beta1 * distance - q / q.abs().mean().detach()).mean())
        for target, network in zip((*self.critic_targets, self.actor_target), (*self.critics, self.actor), strict=True):
            for old, new in zip(target.parameters(), network.parameters(), strict=True):
                old.data.copy_(0.005 * new.data + (1 - 0.005) * old.data)

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def beside(learner: ReBRAC, dtype: torch.dtype, ticks: int) -> tuple[Engine, PlainLoop]:
    """Engine and loop after the same ticks, on data a twentieth of which ends an episode."""
    data = random_data(1000, observation=11, action=3)
    engine = build(learner, seeds=(3,), horizon=ticks, data=data, dtype=dtype)
    loop = PlainLoop(engine, data, dtype)
    engine.run(ticks)
    for tick in range(1, ticks + 1):
        loop.tick(tick)
    return engine, loop


def test_equals_a_plain_loop_in_float32():
    learner = ReBRAC(hidden=64, batch_size=64, beta2=0.5, actor_learning_rate=3e-4, critic_learning_rate=3e-4)
    engine, loop = beside(learner, torch.float32, 100)
    assert loop.largest_deviation(engine) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"policy_every": 1, "beta1": 2.0, "beta2": 0.5, "discount": 0.9}])
def test_equals_a_plain_loop(settings):
    engine, loop = beside(ReBRAC(hidden=16, batch_size=32, **settings), torch.float64, 60)
    assert loop.largest_deviation(engine) < 1e-10


def test_the_real_sizes_equal_a_plain_loop():
    engine, loop = beside(ReBRAC(), torch.float64, 4)
    assert (engine.program.resolved.learner.hidden, engine.program.resolved.learner.batch_size) == (256, 1024)
    assert loop.largest_deviation(engine) < 1e-10


def test_initial_weights_are_the_papers():
    params = build(ReBRAC(), data=random_data(observation=4, action=2)).params
    for group, inputs, bound in (("actor", 4, 1e-3), ("critic", 6, 3e-3)):
        for layer, fan_in in enumerate((inputs, 256, 256)):
            weight, bias = params[group][f"weight{layer}"], params[group][f"bias{layer}"]
            assert 0.9 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
            assert (bias == 0.1).all()
        assert 0.9 * bound < params[group]["weight3"].abs().max() <= bound
        assert 0 < params[group]["bias3"].abs().max() <= bound
    assert "gain0" in params["critic"] and "gain0" not in params["actor"]


# -- the penalty on the critic ----------------------------------------------------------------------------------------


def test_the_penalty_is_absent_at_the_ends_of_episodes():
    """Where every row ends an episode, though none truly, its weight changes nothing, bit for bit."""
    data = random_data()
    short = Dataset.from_arrays(
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        next_observations=data.next_observations,
        terminals=np.zeros(len(data), bool),
        timeouts=np.ones(len(data), bool),
    )
    for each, changes in ((short, False), (data, True)):
        one, two = (learned(trained(replace(SMALL, beta2=beta2), data=each)) for beta2 in (0.0, 5.0))
        assert bool(different(one, two)) == changes


def test_the_penalty_is_for_states_of_the_data_alone():
    learner = replace(SMALL, batch_size=64)

    def shown(v):
        action = learner.sample(v, v.target["actor"], v.s2, "site")
        penalty = v.bootstrap(v.s2, "site") - v.bootstrap(v.s2, "site", v.batch)
        distance = (action - v.batch["next_action"]).square().sum(-1)
        return torch.stack([penalty, learner.beta2 * distance, v.batch["next_action_mask"]])

    (found,) = seen(learner, what=shown, dtype=torch.float64)
    penalty, expected, mask = found
    assert set(mask.tolist()) == {0.0, 1.0}, "the batch has rows of both kinds"
    assert (penalty[mask == 0] == 0).all() and (penalty[mask == 1] > 0).all()
    torch.testing.assert_close(penalty, mask * expected, rtol=1e-12, atol=1e-14)


# -- many seeds, traces, the trade-off --------------------------------------------------------------------------------


def test_seeds_together_and_traced_are_seeds_alone():
    settings = {"ticks": 5, "dtype": torch.float64}
    together = trained(SMALL, ASPC(interval=2), seeds=(5, 0), traced=True, **settings)
    for position, seed in enumerate(together.seeds):
        alone = trained(SMALL, ASPC(interval=2), seeds=(seed,), **settings)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_the_meta_gradient_agrees_with_autograd():
    closed, autograd = (
        build(SMALL, ASPC(interval=1, meta_step=name), seeds=(0, 1), dtype=torch.float64)
        for name in ("closed_form", "autograd")
    )
    outer_step(closed)
    found, expected = [], []
    for _ in range(3):
        expected.append(outer_step(put(autograd, closed)))
        found.append(outer_step(closed))
    assert all((derivative != 0).all() for derivative in expected)
    assert deviation(found, expected) < 1e-10


def test_the_trade_off_weighs_the_actors_penalty():
    """A learned scale starts from beta1, and a larger one holds the policy closer to the data."""
    assert float(build(SMALL, ASPC()).diagnose()["aspc/scale"]) == pytest.approx(SMALL.beta1)
    assert SMALL.facts().scales == "constraint"
    learner = replace(SMALL, actor_learning_rate=1e-2)
    loose, tight = (trained(replace(learner, beta1=beta1), ticks=30) for beta1 in (1e-3, 10.0))
    (far,), (near,) = (engine.metrics.flush()["actor/constraint"] for engine in (loose, tight))
    assert far > 1.2 * near


# -- presets and refusals ---------------------------------------------------------------------------------------------

PRESETS = {
    # batch, actor's and critics' learning rate, discount, reward scale
    "gym": (1024, 1e-3, 1e-3, 0.99, 1.0),
    "antmaze": (256, 3e-4, 5e-5, 0.999, 100.0),
    "maze2d": (256, 3e-4, 3e-4, 0.99, 1.0),
    "adroit": (256, 3e-4, 3e-4, 0.99, 1.0),
}


def test_presets_are_the_published_settings():
    assert set(ReBRAC.presets) == set(PRESETS)
    for family, expected in PRESETS.items():
        rebrac = ReBRAC.preset(family)
        rates = (rebrac.actor_learning_rate, rebrac.critic_learning_rate)
        assert (rebrac.batch_size, *rates, rebrac.discount, rebrac.reward_scale) == expected, family
        assert (rebrac.hidden, rebrac.policy_every, rebrac.polyak) == (256, 2, 0.005)


REFUSED = {
    "beta1": ({"beta1": 0.0}, "beta1 must be a number > 0, not 0.0"),
    "beta2": ({"beta2": -0.1}, "beta2 must be a number >= 0, not -0.1"),
    "hidden": ({"hidden": 0}, "hidden must be a whole number >= 1, not 0"),
    "policy_every": ({"policy_every": 0}, "policy_every must be a whole number >= 1, not 0"),
    "polyak": ({"polyak": 1.5}, "polyak must be a number in (0, 1], not 1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_make_no_sense_are_refused(case):
    settings, text = REFUSED[case]
    with pytest.raises(StackError) as refused:
        Stack(ReBRAC(**settings))
    assert "ReBRAC" in str(refused.value) and text in str(refused.value)


# -- seams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", sorted(SMALL.facts().seams))
def test_every_seam_is_heard_where_it_should_be(seam):
    """In the parameters of one group alone, apart from the actor, which steps on the new critics."""
    plain, probed = (build(SMALL, *probe, dtype=torch.float64) for probe in ((), (Probe(seam=seam, by=0.5),)))
    plain.run(1), probed.run(1)
    heard = groups(different(learned(plain), learned(probed)))
    assert heard == ({"actor", "critic"} if seam in ("bootstrap", "td_weight", "critic_rows") else {"actor"})
