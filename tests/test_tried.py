"""What benchmarks/family.py and benchmarks/values.py measure, against plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from adaptive_constraints import Spec, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.evaluation.rollout import reset_seeds
from adaptive_constraints.networks import mlp
from benchmarks import family, values

SMALL = {"hidden": 8, "batch_size": 16}
QUIET = {"progress": False, "device": "cpu", "compiled": False, "traced": False}


def expert(episodes: int = 3):
    return load_dataset("scripted:pendulum/expert#draw=100").subset(episodes=slice(episodes))


# -- one training for all trade-offs ----------------------------------------------------------------------------------


def test_each_episode_of_each_copy_has_a_trade_off_of_its_own() -> None:
    data = expert(25)
    widened = family.with_trade_offs(data, copies=8)
    assert len(widened) == 8 * len(data) and widened.episodes == 200 and widened.observation_dim == 4
    appended = widened.observations[:, -1].reshape(200, -1)
    assert (appended == appended[:, :1]).all() and len(np.unique(appended)) == 200
    assert (widened.next_observations[:, -1] == widened.observations[:, -1]).all()
    np.testing.assert_array_equal(widened.observations[: len(data), :3], data.observations)
    trade_offs = np.exp(family.MIDDLE + family.SPREAD * appended[:, 0])
    assert 0.25 <= trade_offs.min() < 0.4 and 150 < trade_offs.max() <= 250 * (1 + 1e-5)


@pytest.mark.parametrize("trade_off", [0.25, 2.5, 250.0])
def test_the_policys_loss_is_that_of_the_trade_off_over_one_plus_it(trade_off: float) -> None:
    """Row by row: improvement times alpha, plus the constraint, over 1 + alpha."""
    draw = torch.Generator().manual_seed(0)
    s, a = torch.randn(5, 4, generator=draw), torch.rand(5, 1, generator=draw)
    s[:, -1] = family.coordinate(trade_off)
    assert family.coordinate(math.exp(family.MIDDLE)) == 0 and abs(float(s[0, -1])) <= math.sqrt(3) + 1e-6
    params = TD3BC(**SMALL).init(Spec(4, 1), draw)
    view: Any = SimpleNamespace(s=s, p=params, constraint=lambda _, default: default(), behavior_action=lambda: a)
    plain = TD3BC(**SMALL).terms(params["actor"], view)
    ours = family.FamilyTD3BC(**SMALL).terms(params["actor"], view)
    torch.testing.assert_close(ours.value, plain.value)
    torch.testing.assert_close(ours.improvement, plain.improvement * trade_off / (1 + trade_off))
    torch.testing.assert_close(ours.constraint, plain.constraint / (1 + trade_off))


def test_policies_act_at_the_trade_off_that_is_appended() -> None:
    agent = wrap(family.FamilyTD3BC.preset("pendulum"))
    agent.fit(family.with_trade_offs(expert()), steps=2, **QUIET)
    env = family.Appended(gymnasium.make("Pendulum-v1"), family.coordinate(8.0))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation[-1] == np.float32(family.coordinate(8.0))
    assert family.returns_at(agent, 8.0).shape == (1, family.EPISODES)


def test_what_is_the_fixed_policies_themselves_reaches_what_they_do() -> None:
    rows = [
        {"data": {"reference": reference}, "seed": seed, "returns": returns}
        for (reference, seed), returns in family.of_ladder().items()
        if "expert" in reference
    ]
    (found,) = family.figures(rows).values()
    assert found.family.shape == (16, 7) and set(found.draws) == {0, 1}
    np.testing.assert_array_equal(found.family, found.fixed)
    np.testing.assert_array_equal(found.chosen, found.chosen_fixed)
    assert (found.chosen <= found.fixed.max(1, keepdims=True) + 1e-9).all()
    with pytest.raises(SystemExit, match="112 of 128 runs of the family are not there"):
        family.table(rows)  # which ends in a claim about all of them


# -- what critics say -------------------------------------------------------------------------------------------------


def test_stated_trade_offsstand_beside_discounted_returns() -> None:
    """Of the first state on, in units of the learner's rewards, by a plain loop over one environment."""
    agent = wrap(TD3BC(reward_scale=0.1, reward_shift=2.0, discount=0.9, **SMALL))
    agent.fit(expert(), steps=5, seeds=2, **QUIET)
    stated, had = values.stated_and_had(agent)
    assert stated.shape == had.shape == (2, values.EPISODES)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=reset_seeds(0, 1)[0])
    engine, run = agent.run.engine, agent.run
    s = run.preprocessor.observations(torch.tensor(observation[None]))
    q = engine.ask("q", lambda v: {"q": v.services.q(v.p["critic"], s, torch.tanh(mlp(v.p["actor"], s)))})["q"]
    total, weight, ended = 0.0, 1.0, False
    while not ended:
        action = agent.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, weight, ended = total + weight * (0.1 * float(reward) + 2.0), 0.9 * weight, terminated or truncated
    assert had[0, 0] == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(torch.tensor(stated[:, 0]).float(), q.amin(1)[:, 0], rtol=1e-4, atol=1e-5)
