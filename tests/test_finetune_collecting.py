"""The online phase: which rows are collected, by which actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptive_constraints.baselines import CQL, IQL, TD3BC
from adaptive_constraints.errors import TrainingError

from .fine_tuning import HIGH, LOW, SMALL, Walk, collected, finetune, make_data, offline, walks


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


def test_rows_are_what_the_environments_gave_in_learner_space():
    agent = offline(learner=TD3BC(**SMALL, reward_scale=2.0, reward_shift=-1.0))
    finetune(agent, buffer="none")
    rows, data = collected(agent), make_data()
    mean, std = data.observations.mean(0), data.observations.std(0) + 1e-3
    ends = {"true": 0, "time": 0}
    assert int(rows["count"]) == 40 and len(walks()) == 2
    for seed, env in enumerate(walks()):
        before, action, reward, after, terminal, timeout = map(np.array, zip(*env.log, strict=True))
        close = lambda name, wanted: np.testing.assert_allclose(rows[name][seed], wanted, atol=1e-5)  # noqa: B023, E731
        close("observation", (before - mean) / std)
        close("next_observation", (after - mean) / std)
        close("action", 2 * (action - LOW) / (HIGH - LOW) - 1)
        close("reward", 2 * reward - 1)
        assert (rows["terminal"][seed].numpy() == terminal).all()
        ends["true"] += terminal.sum()
        ends["time"] += (timeout & ~terminal).sum()
        assert len(set(env.resets)) == len(env.resets) == (terminal | timeout).sum() + 1
    assert ends["true"] >= 3 and ends["time"] >= 1, "both kinds of ends occur here"
    assert not set(walks()[0].resets) & set(walks()[1].resets), "each seed has starts of its own"


def test_it_acts_as_the_learner_explores_on_noise_of_its_own():
    class Jumpy(TD3BC):
        def act(self, v, observation):
            return 0.99 * torch.tanh(v.normal("jump", (*observation.shape[:-1], 2)))

    agent = offline(learner=Jumpy(**SMALL), seeds=[3])
    finetune(agent, steps=200, buffer="all", warm_up=40, stop_after=50)
    actions = collected(agent)["action"][0]
    assert 0.4 < actions.std() < 0.8 and actions.shape == (50, 2)
    assert len(torch.unique(actions[:, 0])) == 50, "the noise of every step is its own"
    (env,) = walks()
    assert np.abs(agent.act(np.zeros(3), step=7) - env.log[7][1]).max() > 1e-3, "an evaluation draws otherwise"


@pytest.mark.parametrize("learner", [CQL(**SMALL, gap_actions=2), IQL(**SMALL)], ids=["CQL", "IQL"])
def test_gaussian_policies_collect_by_sampling(learner):
    agent = offline(learner=learner, seeds=1)
    finetune(agent, steps=4, warm_up=1, buffer="all")
    (env,) = walks()
    mean = agent.act(np.array([row[0] for row in env.log[:1]], np.float32))
    assert np.abs(mean - env.log[0][1]).max() > 1e-3


def test_the_next_action_is_filled_in_once_it_is_known():
    class Reads(TD3BC):
        def columns(self):
            return ("next_action", "next_action_mask")

    agent = offline(learner=Reads(**SMALL))
    finetune(agent, buffer="all")
    rows = collected(agent)
    space = agent.run.preprocessor
    for seed, env in enumerate(walks()):
        _, actions, _, _, terminal, timeout = map(np.array, zip(*env.log, strict=True))
        last = terminal | timeout | (np.arange(40) == 39)
        following = np.where(last[:, None], 0, np.roll(actions, -1, axis=0)).astype(np.float32)
        assert torch.equal(rows["next_action_mask"][seed], torch.from_numpy(~last).float())
        assert torch.equal(rows["next_action"][seed], space.actions(torch.from_numpy(following)))


def test_columns_that_are_not_known_online_are_refused():
    class Reads(TD3BC):
        def columns(self):
            return ("return",)

    agent = offline(learner=Reads(**SMALL))
    with pytest.raises(TrainingError, match="Reads reads the column 'return' .*next_action and next_action_mask"):
        finetune(agent)
