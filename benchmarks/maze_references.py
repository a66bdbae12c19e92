"""Measure the reference returns of the point mazes that data/references.py states.

    python benchmarks/maze_references.py [umaze] [medium] [large]

The two policies start each episode from the same state. Takes about six minutes on one core.
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

EPISODES = 1_000


def returns(env: gymnasium.Env[Any, Any], policy: Callable[[Any], Any]) -> np.ndarray:
    totals = np.zeros(EPISODES)
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            observation, reward, _, over, _ = env.step(policy(observation))
            totals[episode] += float(reward)
    return totals


def main() -> None:
    packages = ("gymnasium", "gymnasium-robotics", "mujoco", "numpy")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    print(f"{EPISODES} episodes each, reset seeds 0 to {EPISODES - 1}")
    register_mazes()
    for name in sys.argv[1:] or MAZES:
        env: Any = gymnasium.make(maze_id(name), disable_env_checker=True)
        draw = np.random.default_rng(0)
        policies: dict[str, Callable[[Any], Any]] = {
            "random": lambda _, draw=draw: draw.uniform(-1, 1, 2),  # type: ignore[misc]
            "controller": WaypointController(env.unwrapped),
        }
        for label, policy in policies.items():
            totals = returns(env, policy)
            error = totals.std(ddof=1) / EPISODES**0.5
            print(f"{name:8} {label:10} {totals.mean():8.2f} +- {error:.2f} (standard error)", flush=True)


if __name__ == "__main__":
    main()
