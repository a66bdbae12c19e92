"""Measure the reference returns of our own tasks that data/references.py states.

    python benchmarks/references.py [umaze] [medium] [large] [pendulum]

The two policies start each episode from the same state. A maze takes two minutes on one core, the pendulum a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np

from adaptive_constraints.data.collecting.mazes import WaypointController
from adaptive_constraints.environments.maze_tasks import MAZES, maze_id, register_mazes
from adaptive_constraints.environments.pendulum import LENGTH, TASK, TORQUE, Pendulums, swing_up, wrapped

EPISODES = 1_000


def maze_returns(env: gymnasium.Env[Any, Any], policy: Callable[[Any], Any]) -> np.ndarray:
    totals = np.zeros(EPISODES)
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            observation, reward, _, over, _ = env.step(policy(observation))
            totals[episode] += float(reward)
    return totals


def pendulum_returns(policy: Callable[[Pendulums], np.ndarray]) -> np.ndarray:
    pendulums, totals = Pendulums(), np.zeros(EPISODES)
    pendulums.reset(range(EPISODES))
    for _ in range(LENGTH):
        _, rewards, _, _ = pendulums.step(policy(pendulums)[:, None], np.arange(EPISODES))
        totals += rewards
    return totals


def measured(name: str) -> dict[str, np.ndarray]:
    """Returns of both policies in a task."""
    draw = np.random.default_rng(0)
    if name == TASK:
        return {
            "random": pendulum_returns(lambda _: draw.uniform(-TORQUE, TORQUE, EPISODES)),
            "controller": pendulum_returns(lambda at: swing_up(wrapped(at.angle), at.velocity)),
        }
    env: Any = gymnasium.make(maze_id(name), disable_env_checker=True)
    return {
        "random": maze_returns(env, lambda _: draw.uniform(-1, 1, 2)),
        "controller": maze_returns(env, WaypointController(env.unwrapped)),
    }


def main() -> None:
    packages = ("gymnasium", "gymnasium-robotics", "mujoco", "numpy")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    print(f"{EPISODES} episodes each, reset seeds 0 to {EPISODES - 1}")
    register_mazes()
    for name in sys.argv[1:] or [*MAZES, TASK]:
        for label, totals in measured(name).items():
            error = totals.std(ddof=1) / EPISODES**0.5
            print(f"{name:8} {label:10} {totals.mean():8.2f} +- {error:.2f} (standard error)", flush=True)


if __name__ == "__main__":
    main()
