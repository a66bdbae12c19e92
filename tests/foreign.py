"""Environments that several tests share: a line with a best action, and one that ends when it likes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from adaptive_constraints import Dataset, wrap
from adaptive_constraints.agent import Agent
from adaptive_constraints.baselines import TD3BC

LIMIT = 10
"""Time limit of `tests/Line-v0`; `tests/Endless-v0` is the same without one."""


class Line(gymnasium.Env[Any, Any]):
    """The reward is bonus + 1 - |a - 1.5| for one action in [-2, 2]; nothing but a time limit ends it."""

    def __init__(self, bonus: float = 0.0, ends: int | None = None, render_mode: str | None = None, hook: Any = None):
        self.observation_space, self.action_space = Box(-9, 9, (2,), np.float32), Box(-2, 2, (1,), np.float32)
        self.bonus, self.ends, self.render_mode = bonus, ends, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = self.bonus + 1 - abs(float(action[0]) - 1.5)
        return np.array([self.time / 10, 1], np.float32), reward, self.time == self.ends, False, {}


gymnasium.register("tests/Line-v0", Line, max_episode_steps=LIMIT)
gymnasium.register("tests/Endless-v0", Line)


def line_data(length: int = 10, episodes: int = 12, truly: bool = False, **options: Any) -> Dataset:
    """Random rows of `Line`, in episodes of one length that time ends, or a true end."""
    draw, rows = np.random.default_rng(0), length * episodes
    last = np.arange(rows) % length == length - 1
    states = draw.normal(size=(episodes, length + 1, 2))
    return Dataset.from_arrays(
        **{
            "observations": states[:, :-1].reshape(rows, 2),
            "next_observations": states[:, 1:].reshape(rows, 2),
            "actions": draw.uniform(-2, 2, (rows, 1)),
            "rewards": draw.normal(size=rows),
            "terminals": last & truly,
            "timeouts": last & (not truly),
            "episode_ids": np.arange(rows) // length,
            "action_low": -2.0,
            "action_high": 2.0,
            **options,
        }
    )


QUIET: dict[str, Any] = {"progress": False, "traced": False, "device": "cpu"}


def line_agent(data: Dataset | None = None, **options: Any) -> Agent:
    """An agent that hardly learned, on data of `Line`."""
    agent = wrap(TD3BC(hidden=8, batch_size=16))
    agent.fit(line_data() if data is None else data, steps=2, **QUIET, **options)
    return agent
