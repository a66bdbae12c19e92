"""A random walk, agents shortly trained on data like it, and the online phase: what it collected and drew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from adaptive_constraints import Adapter, Dataset, Prepared, wrap
from adaptive_constraints.baselines import TD3BC

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
QUIET: dict[str, Any] = {"progress": False, "traced": False, "log_every": 10, "checkpoint_every": 10}
LOW, HIGH = np.array([-2.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
EPISODE = 7
"""Steps after which time runs out."""


class Walk(gymnasium.Env):
    """A state that drifts at random; the episode ends truly where it has drifted far, or after seven steps."""

    made: list[Walk]

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gymnasium.spaces.Box(LOW, HIGH)
        self.log: list[tuple] = []
        self.resets: list[int] = []
        Walk.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append(seed)
        self.state, self.time = self.np_random.normal(size=3), 0
        return self.state, {}

    def step(self, action):
        assert self.action_space.contains(action)
        before = self.state
        self.time += 1
        self.state = 0.9 * before + 0.3 * np.append(action, 0.0) + self.np_random.normal(size=3) * 0.7
        reward, terminal, timeout = float(self.state[0]), bool(abs(self.state[1]) > 1.6), self.time == EPISODE
        self.log.append((before, action, reward, self.state, terminal, timeout))
        return self.state, reward, terminal, timeout, {}


def walks() -> list[Walk]:
    """The environments that stepped, in the order in which they were made."""
    return [env for env in Walk.made if env.log]


def make_data(rows: int = 120, shift: float = 0.0) -> Dataset:
    """Random transitions in twelve episodes of ten steps, with returns all over."""
    draw = np.random.default_rng(0)
    ends, states = np.arange(1, rows + 1) % 10 == 0, draw.normal(2.0, 3.0, size=(rows + 1, 3))
    return Dataset.from_arrays(
        observations=states[:-1],
        actions=draw.uniform(LOW, HIGH, size=(rows, 2)),
        rewards=draw.normal(size=rows) + shift,
        next_observations=np.where(ends[:, None], draw.normal(size=(rows, 3)), states[1:]),
        terminals=ends & (np.arange(rows) % 20 < 10),
        timeouts=ends & (np.arange(rows) % 20 >= 10),
        action_low=LOW,
        action_high=HIGH,
        name="made up",
    )


def offline(*adapters, learner=None, steps=6, seeds=2, data=None, **options):
    """A shortly trained agent."""
    agent = wrap(learner or TD3BC(**SMALL), *adapters)
    agent.fit(data or make_data(), steps=steps, seeds=seeds, device="cpu", **{**QUIET, **options})
    return agent


def finetune(agent, env=Walk, steps=40, **options):
    """A short quiet online phase."""
    return agent.finetune(env, steps=steps, **{**QUIET, "eval_env": None, **options})


def engine(agent):
    return agent.run.engine


def state(agent) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine(agent).state().items()}


def different(one, two) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


def collected(agent) -> dict[str, Tensor]:
    """The collected rows by column, [S, rows, ...]."""
    return engine(agent).batches.state()


@dataclass(frozen=True)
class Columns(Adapter):
    """Numbers the rows of the data, for all seeds and for each."""

    online: tuple[float, ...] = (-1.0, -2.0)

    def prepare(self, preparation):
        number = torch.arange(len(preparation.data)).float()
        own = torch.stack([torch.stack([number + 1000 * seed, number], -1) for seed in preparation.seeds])
        names = ("number", "own")
        return Prepared({"number": number}, {"own": own}, online=dict(zip(names, self.online, strict=False)))


def minibatch(agent, step: int) -> dict[str, Tensor]:
    return engine(agent).batches.at(step)


def check_rows(agent, batch: Mapping[str, Tensor], data: Dataset) -> Tensor:
    """Each row is that of the data or of the right seed that it says it is; whether it was collected, [S, B]."""
    table, rows = agent.run.preprocessor.table(data), collected(agent)
    own = batch["columns.number"] < 0
    for seed, name in ((seed, name) for seed in range(len(own)) for name in table):
        number = batch["columns.number"][seed].long()
        old = ~own[seed]
        assert torch.equal(batch[name][seed][old], table[name][number[old]])
        for value in batch[name][seed][own[seed]]:
            assert (value == rows[name][seed]).reshape(len(rows[name][seed]), -1).all(1).any()
        expected = torch.stack([number[old] + 1000.0 * seed, number[old].float()], -1)
        assert torch.equal(batch["columns.own"][seed][old], expected)
        assert (batch["columns.own"][seed][own[seed]] == -2).all()
    return own


def unfinished_episodes(agent):
    """The actions of each seed's unfinished episode."""
    episodes = agent.run.online.collector.tensors()
    return [episodes.get(f"actions/{position}", []) for position in range(len(agent.seeds))]
