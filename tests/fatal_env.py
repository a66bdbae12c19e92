"""A point on a line, `fatal_env:Point-v0`, whose third evaluation in a process can be made fatal, once.

FATAL_MARKER names a file: while it is missing, that evaluation makes it and kills the process, or with FATAL_PARENT
the one that started it. Without FATAL_MARKER nothing ever happens.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np


class Point(gymnasium.Env):
    """Three numbers that follow the action; the reward is the first of them."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self._episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._episodes += 1
        if self._episodes == 3:
            die_once()
        self._state = self.np_random.normal(size=3).astype(np.float32)
        return self._state, {}

    def step(self, action):
        self._state = (0.9 * self._state + np.append(action, 0.1)).astype(np.float32)
        return self._state, float(self._state[0]), False, False, {}


def die_once() -> None:
    marker = os.environ.get("FATAL_MARKER")
    if not marker or Path(marker).exists():
        return
    Path(marker).write_text(str(os.getpid()))
    victim = os.getppid() if "FATAL_PARENT" in os.environ else os.getpid()
    os.kill(victim, signal.SIGKILL)
    time.sleep(60)  # the parent is gone: so must this process be, long before


gymnasium.register("Point-v0", Point, max_episode_steps=5)
