"""An environment wrapper that keeps every episode it sees. Imports gymnasium: import this only where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments.boundary import CheckedEnv

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Episode:
    """One whole episode of T transitions."""

    start: int  # environment steps taken before it began
    observations: NDArray[np.float32]  # [T + 1, D]
    actions: NDArray[np.float32]  # [T, A]
    rewards: NDArray[np.float32]  # [T]
    terminal: bool  # ended by the environment; otherwise by a time limit

    def __len__(self) -> int:
        return len(self.rewards)


class RecordingEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records whole episodes in memory and reports progress; an episode cut off by a reset is forgotten.

    Raises `EvaluationError` for an environment that does not keep Gymnasium's interface (`CheckedEnv`).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], total_steps: int, progress: Progress | None = None) -> None:
        super().__init__(env)
        self._checked = CheckedEnv(env, env.spec.id if env.spec is not None else "")
        self.episodes: list[Episode] = []
        self.steps = 0
        self._total_steps = total_steps
        self._progress = progress
        self._start = 0
        self._observations: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []
        self._rewards: list[float] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self._checked.reset(**kwargs)
        self._begin(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._checked.step(action)
        self._actions.append(np.array(action, np.float32))
        self._rewards.append(reward)
        self._observations.append(np.array(observation, np.float32))
        self.steps += 1
        if terminated or truncated:
            self._finish(terminated)
        if self._progress is not None and (self.steps % 1000 == 0 or self.steps == self._total_steps):
            self._progress(self.steps, self._total_steps)
        return observation, reward, terminated, truncated, info

    def _begin(self, observation: Any) -> None:
        self._start = self.steps
        self._observations = [np.array(observation, np.float32)]
        self._actions = []
        self._rewards = []

    def _finish(self, terminal: bool) -> None:
        self.episodes.append(
            Episode(
                start=self._start,
                observations=np.stack(self._observations),
                actions=np.stack(self._actions),
                rewards=np.array(self._rewards, np.float32),
                terminal=terminal,
            )
        )
