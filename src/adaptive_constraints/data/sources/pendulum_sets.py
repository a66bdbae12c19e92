"""`scripted:pendulum/mixed`: small data sets of known behaviour, rolled out in a moment and the same on every machine.

Each name is a recipe: how many episodes of which behaviour. A *draw* of a recipe is another data set from the same
recipe (other starts, other noise), so that a finding can be told from luck with one data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.environments.pendulum import (
    ENV_ID,
    LENGTH,
    TASK,
    TORQUE,
    Floats,
    Pendulums,
    swing_up,
    wrapped,
)

FAMILY = "pendulum/"
"""Beginning of a recipe's name as a source of data: pendulum/mixed."""


class Behavior(NamedTuple):
    """A number of episodes of one behaviour."""

    episodes: int
    act: Callable[[Floats, np.random.Generator], Floats]
    """Torques [N] from those of the controller [N]."""


def _uniform(torque: Floats, draw: np.random.Generator) -> Floats:
    return draw.uniform(-TORQUE, TORQUE, torque.shape)


def _scaled(share: float, noise: float) -> Callable[[Floats, np.random.Generator], Floats]:
    """A share of the controller's torque, and Gaussian noise of this standard deviation."""
    return lambda torque, draw: share * torque + noise * draw.standard_normal(torque.shape)


def _slips(torque: Floats, draw: np.random.Generator) -> Floats:
    """The controller's torque, or with probability 1/2 a uniform one."""
    slipped = draw.random(torque.shape) < 0.5
    return np.where(slipped, draw.uniform(-TORQUE, TORQUE, torque.shape), torque)


_EXPERT, _WEAK = _scaled(1.0, 0.1), _scaled(0.5, 0.3)


def _mixture(percent: int) -> tuple[Behavior, ...]:
    return Behavior(100 - percent, _uniform), Behavior(percent, _EXPERT)


RECIPES: Mapping[str, tuple[Behavior, ...]] = {
    "random": (Behavior(100, _uniform),),
    "expert": (Behavior(25, _EXPERT),),
    "mixed": _mixture(10),
    "mixed-5": _mixture(5),
    "mixed-30": _mixture(30),
    "slips": (Behavior(100, _slips),),
    "weak": (Behavior(50, _WEAK),),
    "med-exp": (Behavior(30, _WEAK), Behavior(10, _EXPERT)),
}


def pendulum_set(recipe: str, draw: int = 0) -> Dataset:
    """Roll a recipe out, 200 steps an episode.

    recipe: a name of `RECIPES`. random, expert and weak are one behaviour each; slips mixes two within every episode,
        mixed and med-exp two between episodes. mixed-5 has 5 % of expert episodes, mixed 10 %, mixed-30 30 %.
    draw: which data set of that recipe, from 0.

    >>> from adaptive_constraints.data.sources.pendulum_sets import pendulum_set
    >>> data = pendulum_set("med-exp", draw=1)
    >>> len(data), data.observations.shape[1], data.env_id
    (8000, 3, 'Pendulum-v1')
    """
    parts = [
        _rolled(behavior, np.random.default_rng([draw, number, sum(recipe.encode())]))
        for number, behavior in enumerate(RECIPES[recipe])
    ]
    episodes = sum(behavior.episodes for behavior in RECIPES[recipe])
    columns: dict[str, Any] = {}
    for name in parts[0]:
        whole = np.concatenate([part[name] for part in parts])
        columns[name] = whole.reshape(episodes * LENGTH, *whole.shape[2:])
    return Dataset.from_arrays(
        **columns,
        terminals=np.zeros(episodes * LENGTH, np.bool_),
        timeouts=np.arange(episodes * LENGTH) % LENGTH == LENGTH - 1,
        episode_ids=np.repeat(np.arange(episodes), LENGTH),
        action_low=-TORQUE,
        action_high=TORQUE,
        env_id=ENV_ID,
        task=TASK,
        name=f"scripted:{FAMILY}{recipe}",
        provenance={"recipe": recipe, "draw": str(draw)},
    )


def _rolled(behavior: Behavior, draw: np.random.Generator) -> dict[str, Floats]:
    """Columns [episodes, steps, ...] of one behaviour."""
    pendulums, every = Pendulums(), np.arange(behavior.episodes)
    pendulums.start(draw.uniform(-np.pi, np.pi, len(every)), draw.uniform(-1, 1, len(every)))
    steps = []
    for _ in range(LENGTH):
        before = pendulums.observations()
        torque = behavior.act(swing_up(wrapped(pendulums.angle), pendulums.velocity), draw)
        action = np.clip(torque, -TORQUE, TORQUE).astype(np.float32)[:, None]
        after, reward, _, _ = pendulums.step(action, every)
        steps.append((before, action, reward, after))
    names = ("observations", "actions", "rewards", "next_observations")
    return {name: np.stack(column, 1) for name, column in zip(names, zip(*steps, strict=True), strict=True)}


__all__ = ["FAMILY", "RECIPES", "pendulum_set"]
