"""The online phase: every seed collects rows in an environment of its own, one tick per step.

Episodes begin at states that are a function of (seed, number of the episode). What an unfinished episode did is kept,
so that a run that goes on later finds every environment where it was: the episode is played again from its start.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.adapter import Prepared
from adaptive_constraints.data import Dataset
from adaptive_constraints.data.boundary import LARGEST_SEED, CheckedEnv
from adaptive_constraints.data.environments import EnvSource, RecordedEnv, make_environment
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.evaluation import Evaluator, Expected
from adaptive_constraints.learner import Learner, Spec
from adaptive_constraints.training.batches import Growth

Buffer = Literal["all", "half", "part", "none"]
"""What stands beside the collected rows: the whole data, the whole data in half of every minibatch, the best episodes,
nothing."""

PUBLISHED_WARM_UP, PUBLISHED_SHARE = 5_000, 50
"""Steps that only collect in SSAR's code (arXiv 2505.19923), and of how many steps they are one: 250,000."""


class ReplayWarning(UserWarning):
    """An environment did not repeat an episode when it was played again."""


@dataclass(frozen=True)
class OnlineSettings:
    """What makes two online phases one and the same."""

    env: str
    """A Gymnasium id with what it is given otherwise than it is registered with, or "a function"."""
    steps: int
    """Environment steps of each seed."""
    warm_up: int
    """How many of them, at the beginning, only collect; each later one is followed by a tick."""
    buffer: Buffer
    part_episodes: int | None
    """Episodes of the data that buffer "part" keeps; None with any other."""
    capacity: int
    """Collected rows kept per seed."""
    max_steps: int | None = None
    """Steps after which every episode ends; None: as the environment or the data has it."""

    @property
    def ticks(self) -> int:
        """Of the whole phase."""
        return self.steps - self.warm_up

    def identity(self, origin: str) -> dict[str, Any]:
        """What another phase must agree with to be the same; ``origin`` is what it begins with."""
        found = asdict(self) | {"began as": origin}
        return {name: value for name, value in found.items() if (name, value) != ("max_steps", None)}


def online_settings(
    env: EnvSource,
    *,
    steps: int,
    buffer: str,
    warm_up: int | None,
    part_episodes: int,
    capacity: int | None,
    batch_size: int,
    max_steps: int | None = None,
) -> OnlineSettings:
    """The settings that these options amount to; `TrainingError` says what makes no sense."""
    if buffer not in get_args(Buffer):
        raise TrainingError(f"buffer must be 'all', 'half', 'part' or 'none', not {buffer!r}")
    at_least = {"steps": steps, "part_episodes": part_episodes, "capacity": 1 if capacity is None else capacity}
    for name, value in at_least.items():
        if value < 1:
            raise TrainingError(f"{name} must be at least 1, not {value}")
    # Rows of a minibatch that only collected rows can fill.
    needed = {"all": 0, "part": 0, "half": batch_size - batch_size // 2, "none": batch_size}[buffer]
    chosen = max(needed, min(PUBLISHED_WARM_UP, steps // PUBLISHED_SHARE)) if warm_up is None else warm_up
    if chosen < needed:
        raise TrainingError(
            f"warm_up is {chosen}, but with buffer={buffer!r} a minibatch needs {needed} collected rows: give at least "
            f"{needed}, or None"
        )
    if not chosen < steps:
        raise TrainingError(
            f"steps must be more than warm_up, the {chosen} steps that only collect, but is {steps}: give more steps"
        )
    part = part_episodes if buffer == "part" else None
    return OnlineSettings(
        env=str(env) if isinstance(env, str | RecordedEnv) else "a function",
        steps=steps,
        warm_up=chosen,
        buffer=buffer,  # type: ignore[arg-type]
        part_episodes=part,
        capacity=capacity or steps,
        max_steps=max_steps,
    )


@dataclass
class Online:
    """An online phase, at whatever step it stands; the rows it collected are in the engine."""

    settings: OnlineSettings
    origin: str
    """Fingerprint of the state in which it began."""
    collector: Collector
    source: EnvSource | None = None
    """Where environments come from; None once read from a file."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a continuation must agree with."""
        return self.settings.identity(self.origin)

    @contextmanager
    def environments(self, expected: Expected) -> Iterator[list[str]]:
        """Inside, environments are open and stand where they were left; what should be known about them, in words."""
        assert self.source is not None
        # It says what is wrong with an environment, and what bounds its episodes.
        with Evaluator(self.source, episodes=1, max_steps=self.settings.max_steps, expected=expected) as probe:
            longest, notes = probe.limit.end, probe.notes
            probe.warn()
        try:
            self.collector.open(self.source, longest)
            yield notes
        finally:
            self.collector.close()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change whenever a number of a state changes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# -- collecting ---------------------------------------------------------------------------------------------------


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
            named = str(source) if isinstance(source, str | RecordedEnv) else ""
            self._environments.append(CheckedEnv(make_environment(source), named))
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
        action, reward, following, terminal = (np.stack(column) for column in zip(*rows, strict=True))
        return Step(observation, action, reward, following, terminal, follows)

    def _one(
        self, position: int, wanted: NDArray[Any]
    ) -> tuple[NDArray[np.float32], np.float32, NDArray[np.floating[Any]], np.bool_]:
        """Action, reward, next observation and true end of one seed's step; a new episode begins where one ends."""
        env, episode = self._environments[position], self._episodes[position]
        if not np.isfinite(wanted).all():
            lost = np.full_like(_known(episode.observation), np.nan)
            return wanted.astype(np.float32), np.float32(np.nan), lost, np.bool_(False)
        action = wanted.clip(env.low, env.high).astype(env.action_type)
        reward, terminal, truncated = self._play(position, action)
        following = _known(episode.observation)
        if terminal or truncated or len(episode.actions) == self._longest:
            self._ended[position] += 1
            self._returns[position] += episode.total
            self._begin(position, episode.number + 1)
        return action.astype(np.float32), np.float32(reward), following, np.bool_(terminal)

    def _begin(self, position: int, number: int) -> None:
        observation, _ = self._environments[position].reset(seed=_reset_seed(self._seeds[position], number))
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
        return {"collect/return": [each / n if n else float("nan") for each, n in zip(returns, ended, strict=True)]}

    # -- saving ---------------------------------------------------------------------------------------------------

    def header(self) -> CollectorHeader:
        """What of it is plain numbers."""
        return {
            "steps": self.steps,
            "episodes": [episode.number for episode in self._episodes],
            "ended": self._ended,
            "returns": self._returns,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The unfinished episodes, by name."""
        found = {}
        for position, episode in enumerate(self._episodes):
            if episode.observation is not None:
                found[f"observation/{position}"] = torch.from_numpy(episode.observation)
            if episode.actions:
                found[f"actions/{position}"] = torch.from_numpy(np.stack(episode.actions))
        return found

    @staticmethod
    def read(seeds: Sequence[int], header: CollectorHeader, tensors: Mapping[str, Tensor], spec: Spec) -> Collector:
        """As `header` and `tensors` described it; `ValueError` where they cannot have."""
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


def _reset_seed(seed: int, number: int) -> int:
    """Where an episode starts: a function of the pair that fits an int32, apart from the starts of evaluations."""
    return int.from_bytes(hashlib.sha256(f"{seed}/collect/{number}".encode()).digest()[:4], "big") & LARGEST_SEED


# -- rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedColumn:
    """What a row collected online needs to know of a column that an adapter prepared."""

    adapter: str
    name: str
    shape: tuple[int, ...]
    """Of one row."""
    per_seed: bool
    """It differs between seeds."""
    online: float | None
    """The value of a collected row; None: the adapter says none."""

    @property
    def key(self) -> str:
        """Its name in a minibatch."""
        return f"{self.adapter}.{self.name}"


def prepared_columns(prepared: Mapping[str, Prepared]) -> list[PreparedColumn]:
    """All columns that the adapters prepared."""
    return [
        PreparedColumn(adapter, name, tuple(column.shape[1 + per_seed :]), per_seed, each.online.get(name))
        for adapter, each in prepared.items()
        for per_seed, columns in ((False, each.columns), (True, each.seed_columns))
        for name, column in columns.items()
    ]


KNOWN_ONLINE = ("next_action", "next_action_mask")
"""Columns of the data that a learner may read online: they are filled in one step later."""


def growth(settings: OnlineSettings, learner: Learner, columns: Sequence[PreparedColumn]) -> Growth:
    """How the table grows; `TrainingError` names a column whose value online nobody knows."""
    for name in learner.columns():
        if name not in KNOWN_ONLINE:
            raise TrainingError(
                f"{type(learner).__name__} reads the column {name!r} of the data, which is not known of rows collected "
                f"online (known are {' and '.join(KNOWN_ONLINE)}): it cannot be fine-tuned as configured"
            )
    for column in columns:
        if column.online is None:
            raise TrainingError(
                f"the adapter {column.adapter!r} prepared the column {column.name!r} but does not say which value rows "
                f"collected online get: let its Prepared.online name one, or take it off (agent.without)"
            )
    values = {column.key: column.online for column in columns if column.online is not None}
    return Growth(settings.capacity, values, symmetric=settings.buffer == "half")


def empty_table(
    spec: Spec, learner: Learner, columns: Sequence[PreparedColumn], seeds: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The shared columns [0, ...] and those of each seed [S, 0, ...] of a table that has no rows yet."""
    state, action = (spec.observation_dim,), (spec.action_dim,)
    shapes = {"observation": state, "action": action, "reward": (), "next_observation": state, "terminal": ()}
    shapes |= {name: action if name == "next_action" else () for name in learner.columns()}
    shared = {column.key: column.shape for column in columns if not column.per_seed}
    own = {column.key: torch.zeros(seeds, 0, *column.shape) for column in columns if column.per_seed}
    return {name: torch.zeros(0, *shape) for name, shape in (shapes | shared).items()}, own


def offline_rows(settings: OnlineSettings, data: Dataset) -> Tensor:
    """Numbers of the rows of the data that stay: all, or those of the episodes of highest return.

    Raises `DatasetError` where returns of whole recordings are not known.
    """
    if settings.part_episodes is None:
        return torch.arange(len(data))
    best = np.argsort(-data.episode_returns(), kind="stable")[: settings.part_episodes]
    chosen = np.zeros(data.episodes, bool)
    chosen[best] = True
    return torch.from_numpy(np.flatnonzero(np.repeat(chosen, data.episode_lengths())))
