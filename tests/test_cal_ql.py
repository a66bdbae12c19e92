"""Cal-QL against a plain loop and CORL's settings, its returns-to-go offline and online, and where it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, CalQL, load_agent, wrap
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.data.returns import sums_to_go
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_adapter

from .fine_tuning import Walk, collected, different, engine, finetune, make_data, minibatch, offline, state, walks
from .helpers import apart_from_alone, learned, random_data, trained
from .helpers import different as bits
from .reference.cal_ql import PlainCalQL, returns_to_go
from .reference.common import beside

SMALL = CQL(hidden=8, batch_size=16, gap_actions=2)


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


# -- the plain loop ---------------------------------------------------------------------------------------------------

CASES: dict[str, Any] = {
    "gym": ({}, CalQL()),
    "sparse, Lagrange, clipped": (
        {"target_gap": 0.8, "smallest_gap": -200.0, "backup_actions": 10},
        CalQL(sparse=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop(case):
    settings, adapter = CASES[case]
    learner = CQL(hidden=16, batch_size=32, actor_learning_rate=3e-4, gap_actions=4, **settings)
    ran, loop = beside(PlainCalQL, learner, adapter, steps=60, dtype=torch.float64)
    assert loop.largest_deviation(ran) < 1e-10
    assert loop.raised > 1000, "it must have raised values for this to say anything"


def test_equals_a_plain_loop_in_float32():
    ran, loop = beside(PlainCalQL, CQL(hidden=32, batch_size=32, gap_actions=4), CalQL(), steps=30)
    assert loop.largest_deviation(ran) < 1e-5


def test_a_bound_that_no_value_reaches_changes_nothing():
    """Far below all values it is CQL, bit for bit."""
    low = random_data()
    object.__setattr__(low, "rewards", low.rewards - np.float32(1e4))
    plain, calibrated = (trained(SMALL, *adapters, steps=4, data=low) for adapters in ((), (CalQL(),)))
    assert not bits(learned(plain), learned(calibrated))
    plain, calibrated = (trained(SMALL, *adapters, steps=4) for adapters in ((), (CalQL(),)))
    assert bits(learned(plain), learned(calibrated))


def test_seeds_together_and_traced_are_seeds_alone():
    assert apart_from_alone(SMALL, CalQL(), ASPC(interval=2), traced=True, steps=5) < 1e-12


def test_it_keeps_the_laws():
    check_adapter(CalQL(), SMALL)


# -- returns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 37, 1000])
def test_returns_are_those_of_a_loop(rows, sparse):
    """Episodes of many lengths, true ends inside recordings and at their ends."""
    draw = np.random.default_rng(rows)
    reward = draw.normal(size=rows)
    ends, terminal = draw.random(rows) < 0.02, draw.random(rows) < 0.01
    ends[-1] = True
    adapter = CalQL(sparse=sparse)
    given = torch.tensor(reward), torch.tensor(terminal).double(), torch.tensor(ends)
    expected = returns_to_go(reward.tolist(), ends.tolist(), terminal.tolist(), 0.97, sparse)
    np.testing.assert_allclose(adapter.returns(*given, 0.97).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_sums_look_no_further_than_they_may():
    value, kept = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    assert sums_to_go(value, kept).tolist() == [7.0, 6.0, 4.0, 24.0, 16.0]


def test_a_maze_that_never_was_solved_is_worth_its_reward_for_ever():
    """CORL's rule: reward / (1 - discount) in every row of an episode that ends with the reward of failure."""
    reward = torch.tensor([-5.0, -5.0, -5.0, -5.0, 5.0])
    terminal, ends = torch.tensor([0.0, 0, 0, 0, 1]), torch.tensor([False, False, True, False, True])
    returns = CalQL.preset("antmaze").returns(reward, terminal, ends, 0.99)
    assert returns[:3].tolist() == pytest.approx([-500.0] * 3) and returns[3:].tolist() == pytest.approx([-0.05, 5.0])


def test_a_reward_for_ever_needs_a_discount():
    with pytest.raises(StackError, match=r"sparse=True needs a learner with discount < 1"):
        trained(CQL(hidden=8, batch_size=16, discount=1.0), CalQL(sparse=True))


# -- online -----------------------------------------------------------------------------------------------------------


def bounds_of(agent, discount: float = 0.99, sparse: bool = False) -> list[list[float]]:
    """What the environments' own logs say each collected row's bound is, seed by seed."""
    shift, scale = float(agent.run.preprocessor.reward_shift), float(agent.run.preprocessor.reward_scale)
    expected = []
    for env in walks():
        rows, episode = [], []
        for _, _, reward, _, terminal, timeout in env.log:
            episode.append((scale * float(np.float32(reward)) + shift, terminal or timeout, terminal))
            if terminal or timeout:
                rows += returns_to_go(*map(list, zip(*episode, strict=True)), discount, sparse)
                episode = []
        expected.append(rows + [-np.inf] * len(episode))
    return expected


@pytest.mark.parametrize("sparse", [False, True])
def test_a_collected_row_gets_its_return_when_its_episode_ends(sparse):
    agent = offline(CalQL(sparse=sparse), learner=SMALL)
    finetune(agent, steps=60, buffer="half")
    kept = collected(agent)["calql.return_to_go"]
    for seed, expected in enumerate(bounds_of(agent, sparse=sparse)):
        assert len(expected) == 60 and np.isinf(expected).sum() < 7
        np.testing.assert_allclose(kept[seed].numpy(), expected, rtol=1e-5, atol=1e-5)
    drawn = torch.cat([minibatch(agent, step)["calql.return_to_go"] for step in range(100, 130)], 1)
    assert drawn.isfinite().any() and torch.isin(drawn, torch.cat([kept.flatten(), offline_returns(agent)])).all()


def offline_returns(agent) -> torch.Tensor:
    return engine(agent).batches.select(torch.arange(120))[0]["calql.return_to_go"].flatten()


def test_a_full_ring_keeps_the_returns_of_the_rows_that_it_keeps():
    whole, ring = (offline(CalQL(), learner=SMALL) for _ in range(2))
    finetune(whole, steps=30, warm_up=29, buffer="all"), finetune(ring, steps=30, warm_up=29, buffer="all", capacity=12)
    order = [24, 25, 26, 27, 28, 29, 18, 19, 20, 21, 22, 23]
    every, kept = (collected(agent)["calql.return_to_go"] for agent in (whole, ring))
    assert torch.equal(kept, every[:, order])


def test_an_episode_longer_than_the_ring():
    ring = offline(CalQL(), learner=SMALL)
    finetune(ring, steps=40, warm_up=39, buffer="all", capacity=3)
    for seed, expected in enumerate(bounds_of(ring)):
        order = np.argsort([37 % 3, 38 % 3, 39 % 3])
        np.testing.assert_allclose(
            collected(ring)["calql.return_to_go"][seed].numpy(), np.array(expected[-3:])[order], rtol=1e-5, atol=1e-5
        )


def test_an_online_run_resumes_bit_for_bit(tmp_path):
    whole, parted = (offline(CalQL(), learner=SMALL) for _ in range(2))
    finetune(whole, steps=50)
    finetune(parted, steps=50, stop_after=13)
    parted.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz", device="cpu")
    finetune(loaded, steps=50, dataset=make_data())
    assert not different(state(whole), state(loaded))


def test_the_bound_can_be_off_online():
    bounded, free = offline(CalQL(), learner=SMALL), offline(CalQL(online="off"), learner=SMALL)
    assert not different(state(bounded), state(free))
    assert "conservative_value calql" in " ".join(bounded.explain("online").split())
    assert "conservative_value the critics' own" in " ".join(free.explain("online").split())
    finetune(bounded), finetune(free)
    assert different(state(bounded), state(free))


# -- where it belongs -------------------------------------------------------------------------------------------------


def test_it_is_refused_where_nothing_is_pushed_down():
    for learner in (TD3BC(), CQL(alpha=0)):
        with pytest.raises(StackError, match="calql: the learner pushes no values of Q down"):
            wrap(learner, CalQL())
    assert "tested by its paper (arXiv 2303.05479)" in wrap(CQL(), CalQL()).explain()


def test_corls_settings():
    antmaze, adroit = CQL.preset("calql-antmaze"), CQL.preset("calql-adroit")
    assert (antmaze.alpha, antmaze.target_gap, antmaze.smallest_gap, antmaze.largest_gap) == (5.0, 0.8, -200.0, None)
    assert (antmaze.critic_layers, antmaze.reward_scale, antmaze.reward_shift) == (5, 10.0, -5.0)
    assert (adroit.alpha, adroit.target_gap, adroit.smallest_gap, adroit.critic_layers) == (1.0, None, -200.0, 3)
    assert (adroit.reward_scale, adroit.reward_shift) == (1.0, 0.0)
    for learner in (antmaze, adroit):
        assert (learner.batch_size, learner.discount, learner.polyak, learner.gap_actions) == (256, 0.99, 0.005, 10)
        assert (learner.actor_learning_rate, learner.critic_learning_rate) == (1e-4, 3e-4)
        assert (learner.backup_actions, learner.gap_temperature, learner.normalize_observations) == (10, 1.0, False)
    assert (CalQL.preset("antmaze").sparse, CalQL.preset("adroit").sparse) == (True, False)
