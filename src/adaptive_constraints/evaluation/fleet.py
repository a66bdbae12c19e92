"""Many environments of one kind: one object that steps all of them, or a loop over Gymnasium's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments import pendulum
from adaptive_constraints.environments.boundary import CheckedEnv
from adaptive_constraints.environments.making import EnvSource, RecordedEnv, make_environment, named


class Described(Protocol):
    """Facts of one environment; D observation and A action dimensions."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def spec(self) -> Any:
        """Gymnasium's EnvSpec, or what has its fields; None where there is none."""

    @property
    def time_limit(self) -> int | None:
        """Steps after which an episode ends by itself, as far as that is known."""

    @property
    def observation_size(self) -> int:
        """D."""

    @property
    def action_size(self) -> int:
        """A."""

    @property
    def low(self) -> NDArray[Any]:
        """[A] the smallest actions that it takes."""

    @property
    def high(self) -> NDArray[Any]:
        """[A] the largest."""

    @property
    def action_type(self) -> Any:
        """Type of its actions."""

    @property
    def observation_type(self) -> Any:
        """Floating type of its observations."""


class Stepped(NamedTuple):
    """The answers of K environments."""

    observations: NDArray[Any]
    """[K, D]"""
    rewards: NDArray[np.float64]
    """[K]"""
    terminated: NDArray[np.bool_]
    """[K] the environment ended the episode."""
    truncated: NDArray[np.bool_]
    """[K] time ran out."""
    success: NDArray[np.bool_] | None = None
    """[K] the environment says that the goal is reached; None where none says anything of that."""


class Fleet(Protocol):
    """Environments that are started together, each with a seed of its own."""

    @property
    def one(self) -> Described:
        """The facts that all of them share."""

    def reset(self, seeds: Sequence[int]) -> NDArray[Any]:
        """Start an episode for each of N seeds: observations [N, D]."""

    def step(self, actions: NDArray[Any], running: NDArray[np.int64]) -> Stepped:
        """Step those of the N that run [K]; ``actions`` [N, A] holds one for each of the N."""

    def close(self) -> None:
        """Close all."""


class Together(Described, Protocol):
    """Environments that one object steps all at once, such as `pendulum.Pendulums`."""

    def reset(self, seeds: Sequence[int]) -> NDArray[Any]:
        """As `Fleet.reset`."""

    def step(
        self, actions: NDArray[Any], running: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Observations, rewards and both kinds of ends, as in `Stepped`."""


_TOGETHER: Mapping[str, Callable[[], Together]] = {pendulum.ENV_ID: pendulum.Pendulums}
"""Ids of Gymnasium's whose environments, as they are registered, step all at once here."""


class TogetherFleet:
    """Environments that step all at once."""

    def __init__(self, all_of_them: Together) -> None:
        self.one = all_of_them

    def reset(self, seeds: Sequence[int]) -> NDArray[Any]:
        """Start an episode for each seed."""
        return self.one.reset(seeds)

    def step(self, actions: NDArray[Any], running: NDArray[np.int64]) -> Stepped:
        """Step all together."""
        return Stepped(*self.one.step(actions, running))

    def close(self) -> None:
        """Nothing is open."""


class GymnasiumFleet:
    """Gymnasium's environments one after the other; ``gymnasium.vector`` cannot leave a finished episode alone.

    They are made as they are needed and kept, because making them is slower than many steps.
    """

    def __init__(self, source: EnvSource) -> None:
        self._source = source
        self._all: list[CheckedEnv] = []
        self.one = self._make()

    def reset(self, seeds: Sequence[int]) -> NDArray[Any]:
        """Start an episode for each seed, making the environments that are missing."""
        while len(self._all) < len(seeds):
            self._make()
        observations = np.empty((len(seeds), self.one.observation_size), self.one.observation_type)
        for i, seed in enumerate(seeds):
            observations[i], _ = self._all[i].reset(seed=seed)
        return observations

    def step(self, actions: NDArray[Any], running: NDArray[np.int64]) -> Stepped:
        """Step one after the other."""
        answers = [self._all[i].step(actions[i]) for i in running]
        observations, rewards, terminated, truncated, infos = zip(*answers, strict=True)
        said = [_success(info) for info in infos]
        success = None if all(answer is None for answer in said) else np.array([bool(answer) for answer in said])
        return Stepped(np.stack(observations), np.array(rewards), np.array(terminated), np.array(truncated), success)

    def close(self) -> None:
        """Close all; a second call does nothing."""
        for env in self._all:
            env.close()
        self._all = []

    def _make(self) -> CheckedEnv:
        """Make one more environment and keep it."""
        self._all.append(open_environment(self._source))
        return self._all[-1]


def open_environment(source: EnvSource, **options: Any) -> CheckedEnv:
    """Make one environment whose answers are checked; ``options`` as `make_environment` takes them."""
    made = make_environment(source, **options)
    try:
        return CheckedEnv(made, named(source))
    except BaseException:
        getattr(made, "close", lambda: None)()
        raise


def _success(info: Any) -> bool | None:
    """What a step says of success, by Gymnasium's robots' name for it too; None: nothing."""
    if not info or not isinstance(info, Mapping):
        return None
    said = info.get("success", info.get("is_success"))
    return None if said is None else bool(np.any(said))


def fleet_of(source: EnvSource) -> Fleet:
    """Environments of a source: all at once where its id, as it is registered, is known so; else one by one."""
    plain = source.env_id if isinstance(source, RecordedEnv) and source.spec is None else source
    together = _TOGETHER.get(plain) if isinstance(plain, str) else None
    return GymnasiumFleet(source) if together is None else TogetherFleet(together())


__all__ = ["Described", "Fleet", "GymnasiumFleet", "Stepped", "TogetherFleet", "fleet_of", "open_environment"]
