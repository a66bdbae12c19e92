"""Agents on made-up data: small, trained shortly and quietly, compared to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from adaptive_constraints import ASPC, Dataset, wrap
from adaptive_constraints.agent import Agent
from adaptive_constraints.baselines import TD3BC

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32}


def make_data(rows: int = 400, seed: int = 0) -> Dataset:
    """Random transitions of a three-dimensional state in episodes of 20 steps."""
    draw = np.random.default_rng(seed)
    ends = np.arange(1, rows + 1) % 20 == 0
    observations = draw.normal(size=(rows + 1, 3))
    following = np.where(ends[:, None], draw.normal(size=(rows, 3)), observations[1:])
    return Dataset.from_arrays(
        observations=observations[:-1],
        actions=draw.uniform(-0.9, 0.9, size=(rows, 2)),
        rewards=draw.normal(size=rows),
        next_observations=following,
        terminals=ends & (np.arange(rows) % 40 < 20),
        timeouts=ends & (np.arange(rows) % 40 >= 20),
        name="made up",
    )


def fit(agent, steps=60, **options):
    """A short quiet training."""
    options = {
        "seeds": 2,
        "device": "cpu",
        "log_every": 20,
        "checkpoint_every": 20,
        "progress": False,
        "traced": False,
    } | options
    return agent.fit(options.pop("dataset", None) or make_data(), steps=steps, **options)


def state(agent) -> dict[str, torch.Tensor]:
    return agent.run.engine.state()


def assert_same(first, second) -> None:
    """Every tensor of two agents' states is the same to the bit."""
    one, two = state(first), state(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


def aspc_on_td3bc() -> Agent:
    """An untrained agent whose trade-off is learned."""
    return wrap(TD3BC(critic="robust", **SMALL), ASPC(interval=3))
