"""Environments of the online phase: one per seed, all stepped together, resumable within an episode."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.core.types import Spec
from adaptive_constraints.environments.boundary import LARGEST_SEED, CheckedEnv
from adaptive_constraints.environments.making import EnvSource, make_environment, named


class ReplayWarning(UserWarning):
    """An environment did not repeat an episode when it was played again."""


class Step(NamedTuple):
    """One step of every seed's environment, in the environments' own units."""

    observation: NDArray[np.floating[Any]]
    """[S, D]"""
    action: NDArray[np.float32]
    """[S, A]"""
    reward: NDArray[np.float32]
    """[S]"""
    next_observation: NDArray[np.floating[Any]]
    """[S, D]"""
    terminal: NDArray[np.bool_]
    """[S] True where the episode truly ended, never at a time limit."""
    follows: NDArray[np.bool_]
    """[S] True where the step before it belongs to the same episode."""
    ended: NDArray[np.int64]
    """[S] Steps of the episode that ended with this one; 0 where it goes on."""


class CollectorHeader(TypedDict):
    """A `Collector` less its arrays."""

    steps: int
    episodes: list[int]
    """Number of each seed's unfinished episode."""
    ended: list[int]
    """Episodes of each seed that ended since the last log point."""
    returns: list[float]
    """Sum of their returns."""


@dataclass
class _Episode:
    """One seed's episode as far as it has come."""

    number: int = 0
    actions: list[NDArray[Any]] = field(default_factory=list)
    """As the environment got them."""
    observation: NDArray[np.floating[Any]] | None = None
    """The newest; None before the first step."""
    total: float = 0.0
    """Return so far."""


class Collector:
    """One environment per seed, all stepped together."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.steps = 0
        """Steps taken by each seed."""
        self.observation_type: type[np.floating[Any]] = np.float32
        """float64 where float32 would lose too much of what is observed."""
        self._seeds = tuple(seeds)
        self._episodes = [_Episode() for _ in seeds]
        self._ended = [0] * len(seeds)
        self._returns = [0.0] * len(seeds)
        self._environments: list[CheckedEnv] = []
        self._longest: int | None = None

    def open(self, source: EnvSource, longest: int | None = None) -> None:
        """Make the environments and bring each to where its episode stands.

        longest: steps after which time runs out, where the environment has no time limit of its own.
        """
        self._longest = longest
        for position in range(len(self._seeds)):
            self._environments.append(CheckedEnv(make_environment(source), named(source)))
            episode = self._episodes[position]
            seen, actions = episode.observation, episode.actions
            self._begin(position, episode.number)
            for action in actions:
                self._play(position, action)
            replayed = _known(self._episodes[position].observation)
            if seen is not None and not np.array_equal(seen, replayed, equal_nan=True):
                warnings.warn(
                    f"seed {self._seeds[position]}: the environment did not repeat its unfinished episode, so a new "
                    "one begins; the run goes on, but not bit for bit as if it had never stopped",
                    ReplayWarning,
                    stacklevel=2,
                )
                self._begin(position, episode.number + 1)

    def close(self) -> None:
        """Close the environments; where their episodes stand is kept."""
        for env in self._environments:
            env.close()
        self._environments = []

    def step(self, policy: Callable[[NDArray[Any], int], NDArray[Any]]) -> Step:
        """One step of every seed by ``policy(observations [S, 1, D], step) -> actions [S, 1, A]``.

        A seed whose action is not finite is lost: its environment stays where it is, and its row is not a number.
        """
        observation = np.stack([_known(episode.observation) for episode in self._episodes])
        follows = np.array([bool(episode.actions) for episode in self._episodes])
        wanted = policy(observation[:, None], self.steps)[:, 0]
        rows = [self._one(position, action) for position, action in enumerate(wanted)]
        self.steps += 1
        action, reward, following, terminal, ended = (np.stack(column) for column in zip(*rows, strict=True))
        return Step(observation, action, reward, following, terminal, follows, ended)

    def _one(
        self, position: int, wanted: NDArray[Any]
    ) -> tuple[NDArray[np.float32], np.float32, NDArray[np.floating[Any]], np.bool_, np.int64]:
        """Action, reward, next observation, true end and ended steps of a seed, for which a new episode may begin."""
        env, episode = self._environments[position], self._episodes[position]
        if not np.isfinite(wanted).all():
            lost = np.full_like(_known(episode.observation), np.nan)
            return wanted.astype(np.float32), np.float32(np.nan), lost, np.bool_(False), np.int64(0)
        action = wanted.clip(env.low, env.high).astype(env.action_type)
        reward, terminal, truncated = self._play(position, action)
        following, steps = _known(episode.observation), len(episode.actions)
        over = terminal or truncated or steps == self._longest
        if over:
            self._ended[position] += 1
            self._returns[position] += episode.total
            self._begin(position, episode.number + 1)
        return (
            action.astype(np.float32),
            np.float32(reward),
            following,
            np.bool_(terminal),
            np.int64(steps if over else 0),
        )

    def _begin(self, position: int, number: int) -> None:
        observation, _ = self._environments[position].reset(seed=reset_seed(self._seeds[position], number))
        self._episodes[position] = _Episode(number, observation=np.array(observation, self.observation_type))

    def _play(self, position: int, action: NDArray[Any]) -> tuple[float, bool, bool]:
        episode = self._episodes[position]
        observation, reward, terminal, truncated, _ = self._environments[position].step(action)
        episode.actions.append(action)
        episode.observation = np.array(observation, self.observation_type)
        episode.total += reward
        return reward, terminal, truncated

    def flush(self) -> dict[str, list[float]]:
        """The mean return [S] of the episodes that ended since the last call, if any did; NaN where a seed had none."""
        ended, returns = self._ended, self._returns
        self._ended, self._returns = [0] * len(ended), [0.0] * len(ended)
        if not any(ended):
            return {}
        return {"collect/return": [total / n if n else float("nan") for total, n in zip(returns, ended, strict=True)]}

    # -- saving ---------------------------------------------------------------------------------------------------

    def header(self) -> CollectorHeader:
        """The part of it that is plain numbers."""
        return {
            "steps": self.steps,
            "episodes": [episode.number for episode in self._episodes],
            "ended": self._ended,
            "returns": self._returns,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The unfinished episodes, by name."""
        tensors = {}
        for position, episode in enumerate(self._episodes):
            if episode.observation is not None:
                tensors[f"observation/{position}"] = torch.from_numpy(episode.observation)
            if episode.actions:
                tensors[f"actions/{position}"] = torch.from_numpy(np.stack(episode.actions))
        return tensors

    @staticmethod
    def read(seeds: Sequence[int], header: CollectorHeader, tensors: Mapping[str, Tensor], spec: Spec) -> Collector:
        """Make the collector that `header` and `tensors` describe; `ValueError` where there is none."""
        collector = Collector(seeds)
        collector.steps, collector._ended, collector._returns = header["steps"], header["ended"], header["returns"]
        numbers = [header["steps"], *header["ended"], *header["episodes"]]
        if any(len(header[name]) != len(seeds) for name in ("episodes", "ended", "returns")) or min(numbers) < 0:
            raise ValueError("its episodes are not those of its seeds")
        if unknown := set(tensors) - {f"{kind}/{n}" for kind in ("observation", "actions") for n in range(len(seeds))}:
            raise ValueError(f"it has arrays of unknown meaning: {', '.join(sorted(unknown))}")
        for name, tensor in tensors.items():
            fine = tensor.shape == (spec.observation_dim,) and tensor.dtype == torch.float32
            if name.startswith("actions/"):
                fine = tensor.dim() == 2 and tensor.shape[1] == spec.action_dim and len(tensor) > 0
                fine = fine and tensor.is_floating_point() and bool(tensor.isfinite().all())
            if not fine:
                raise ValueError(f"collector/{name} has the shape {list(tensor.shape)} and the type {tensor.dtype}")
        for position, number in enumerate(header["episodes"]):
            actions, observation = tensors.get(f"actions/{position}"), tensors.get(f"observation/{position}")
            if observation is None and (header["steps"] or actions is not None):
                raise ValueError(f"the unfinished episode of seed {seeds[position]} is not whole")
            collector._episodes[position] = _Episode(
                number,
                actions=[] if actions is None else list(actions.numpy()),
                observation=None if observation is None else observation.numpy(),
            )
        return collector


def _known(observation: NDArray[np.floating[Any]] | None) -> NDArray[np.floating[Any]]:
    assert observation is not None, "the environments are not open"
    return observation


def reset_seed(seed: int, number: int) -> int:
    """The seed of an episode's start: a function of the pair, fits an int32, apart from the starts of evaluations."""
    return int.from_bytes(hashlib.sha256(f"{seed}/collect/{number}".encode()).digest()[:4], "big") & LARGEST_SEED
