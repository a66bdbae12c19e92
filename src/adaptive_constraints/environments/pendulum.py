"""Gymnasium's Pendulum-v1, many at once, in numpy: the environment of the data sets `scripted:pendulum/...`.

A pendulum hangs on a motor too weak to lift it at once; the reward is highest where it stands upright and still. All
copies step in one call: an evaluation of many policies takes a fraction of a second, and Gymnasium is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Controller: TypeAlias = Callable[[Floats, Floats], Floats]
"""Torques [N] at angles [N] in [-pi, pi), 0 upright, and angular velocities [N]."""

ENV_ID, TASK = "Pendulum-v1", "pendulum"
"""Id of the environment, and key of its reference returns."""
LENGTH = 200
"""Steps of every episode."""
TORQUE, FASTEST = 2.0, 8.0
"""Largest torque, and largest angular velocity in radians per second."""
GRAVITY, SECONDS = 10.0, 0.05
"""Gravity in m/s^2, and the time that a step takes; mass and length are 1."""


class Pendulums:
    """N pendulums that start, step and end together.

    >>> import numpy as np
    >>> from adaptive_constraints.environments.pendulum import Pendulums
    >>> pendulums = Pendulums()
    >>> pendulums.reset([0, 1]).shape
    (2, 3)
    >>> observations, rewards, terminated, truncated = pendulums.step(np.zeros((2, 1), np.float32), np.arange(2))
    >>> rewards.shape, bool(truncated.any())
    ((2,), False)
    """

    name = ENV_ID
    observation_size, action_size = 3, 1
    observation_type = action_type = np.dtype(np.float32)
    low, high = np.array([-TORQUE], np.float32), np.array([TORQUE], np.float32)
    time_limit = LENGTH
    spec: Any = SimpleNamespace(id=ENV_ID, kwargs={}, max_episode_steps=LENGTH, additional_wrappers=())

    def __init__(self) -> None:
        self.angle, self.velocity = np.empty(0), np.empty(0)
        """[N] each, in radians, 0 upright, and radians per second."""
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Start a pendulum for each seed, as Gymnasium does with that seed; observations [N, 3]."""
        far = np.array([np.pi, 1.0])
        starts = np.stack([np.random.default_rng(seed).uniform(-far, far) for seed in seeds])
        self.start(starts[:, 0], starts[:, 1])
        return self.observations()

    def start(self, angle: Floats, velocity: Floats) -> None:
        """Start from these angles [N] and velocities [N]."""
        self.angle, self.velocity, self._steps = angle, velocity, 0

    def step(
        self, actions: NDArray[Any], running: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Apply torques [N, 1] to all; returns the observations, rewards and ends of those that are ``running`` [K]."""
        torque = np.clip(actions[:, 0].astype(np.float32), -TORQUE, TORQUE)
        cost = wrapped(self.angle) ** 2 + 0.1 * self.velocity**2 + 0.001 * torque**2
        pull = 3 * GRAVITY / 2 * np.sin(self.angle) + 3.0 * torque
        self.velocity = np.clip(self.velocity + pull * SECONDS, -FASTEST, FASTEST)
        self.angle = self.angle + self.velocity * SECONDS
        self._steps += 1
        ended = np.full(len(running), self._steps >= LENGTH)
        return self.observations()[running], -cost[running], np.zeros(len(running), np.bool_), ended

    def observations(self) -> NDArray[np.float32]:
        """[N, 3]: cosine and sine of the angle, angular velocity."""
        return np.stack([np.cos(self.angle), np.sin(self.angle), self.velocity], -1).astype(np.float32)


def wrapped(angle: Floats) -> Floats:
    """The angle in [-pi, pi)."""
    turned: Floats = (angle + np.pi) % (2 * np.pi) - np.pi
    return turned


def swing_up(angle: Floats, velocity: Floats) -> Floats:
    """Torques that pump energy until the pendulum comes near the top, and then hold it there by feedback."""
    energy = velocity**2 / 6 + 5 * np.cos(angle)
    pump = np.where(np.abs(velocity) < 0.05, TORQUE, np.clip(2.0 * (5 - energy) * velocity, -TORQUE, TORQUE))
    near = (np.abs(angle) < 0.4) & (np.abs(velocity) < 2.0)
    return np.where(near, np.clip(-(12 * angle + 2.5 * velocity), -TORQUE, TORQUE), pump)


__all__ = ["ENV_ID", "LENGTH", "TASK", "TORQUE", "Controller", "Pendulums", "swing_up", "wrapped"]
