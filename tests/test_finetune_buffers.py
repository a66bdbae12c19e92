"""The online phase: what minibatches are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.engine.batches import Growth, batches_of
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.errors import TrainingError

from .fine_tuning import Columns, Walk, check_rows, collected, engine, finetune, make_data, minibatch, offline


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


@pytest.mark.parametrize(("batch", "half"), [(16, 8), (15, 8)])
def test_half_of_every_minibatch_is_collected(batch, half):
    data, agent = make_data(), offline(Columns(), learner=TD3BC(hidden=8, batch_size=batch))
    finetune(agent, buffer="half", stop_after=30)
    assert engine(agent).step == 6 + 30 - half
    for step in range(100, 120):
        own = check_rows(agent, minibatch(agent, step), data)
        assert (own.sum(1) == half).all() and own[:, batch // 2 :].all()


def test_all_of_the_data_and_what_was_collected():
    data, agent = make_data(), offline(Columns())
    finetune(agent, steps=60, buffer="all", warm_up=0)
    assert engine(agent).step == 66 and len(engine(agent).batches) == 120 + 60
    share = torch.cat([check_rows(agent, minibatch(agent, step), data) for step in range(100, 200)], 1).float().mean(1)
    assert ((share - 1 / 3).abs() < 0.05).all()


def test_the_best_episodes_and_what_was_collected():
    data, agent = make_data(), offline(Columns())
    finetune(agent, buffer="part", part_episodes=3)
    best = set(np.argsort(data.episode_returns())[-3:])
    numbers = torch.cat([minibatch(agent, step)["columns.number"] for step in range(100, 200)], 1)
    assert {int(number) // 10 for number in numbers.unique() if number >= 0} == best
    assert len(numbers.unique()) == 30 + 1
    check_rows(agent, minibatch(agent, 300), data)


def test_nothing_but_what_was_collected():
    agent = offline(Columns())
    finetune(agent, buffer="none")
    assert engine(agent).step == 6 + 40 - 16, "as many steps as a minibatch has rows only collect"
    assert check_rows(agent, minibatch(agent, 100), make_data()).all()
    numbers = torch.cat([minibatch(agent, step)["reward"] for step in range(100, 160)], 1)
    assert all(len(numbers[seed].unique()) == 40 for seed in range(2)), "every row is drawn"


def test_a_full_ring_replaces_the_oldest_and_draws_from_all():
    whole, ring = offline(Columns()), offline(Columns())
    finetune(whole, steps=30, warm_up=29, buffer="all"), finetune(ring, steps=30, warm_up=29, buffer="all", capacity=12)
    all_rows, kept = collected(whole), collected(ring)
    assert kept["reward"].shape == (2, 12) and len(engine(ring).batches) == 120 + 12
    order = [24, 25, 26, 27, 28, 29, 18, 19, 20, 21, 22, 23]
    for name in ("observation", "action", "reward", "next_observation", "terminal"):
        assert torch.equal(kept[name], all_rows[name][:, order])
    drawn = torch.cat([minibatch(ring, step)["reward"] for step in range(100, 200)], 1)
    for seed in range(2):
        assert np.isin(kept["reward"][seed], drawn[seed]).all()
    check_rows(ring, minibatch(ring, 99), make_data())


def test_rows_of_a_step_depend_on_seed_step_and_size_alone():
    def batches(seeds, growth=None):
        cpu, dtype = torch.device("cpu"), torch.float32
        return batches_of({"x": torch.arange(50.0)}, {}, NoiseTables(seeds, cpu, dtype), 8, cpu, dtype, growth)

    def replay(seeds, rows):
        made = batches(seeds, Growth(9, {}))
        for row in range(rows):
            made.add({"x": torch.tensor([100.0 * seed + row for seed in seeds])})
        return made

    long, short, alone = replay((4, 7), 5), replay((4, 7), 3), replay((7,), 5)
    assert torch.equal(long.at(3)["x"][1], alone.at(3)["x"][0])
    assert not torch.equal(long.at(3)["x"], short.at(3)["x"])
    short.add({"x": torch.tensor([403.0, 703.0])}), short.add({"x": torch.tensor([404.0, 704.0])})
    assert torch.equal(long.at(3)["x"], short.at(3)["x"])
    assert torch.equal(replay((4, 7), 0).at(11)["x"], batches((4, 7)).at(11)["x"])


def test_a_column_without_a_value_online_is_refused():
    agent = offline(Columns(online=(1.0,)))
    with pytest.raises(TrainingError, match="adapter 'columns' prepared the column 'own' but does not say which value"):
        finetune(agent)
