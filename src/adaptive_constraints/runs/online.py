"""The online phase: every seed collects rows in an environment of its own, one tick per step.

Episodes begin at states that are a function of (seed, number of the episode). What an unfinished episode did is kept,
so that a run that goes on later finds every environment where it was: the episode is played again from its start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Prepared, Spec
from adaptive_constraints.data import Dataset
from adaptive_constraints.engine.batches import Growth
from adaptive_constraints.environments.specs import EnvSource, RecordedEnv
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.evaluation import Evaluator, Expected
from adaptive_constraints.runs.collector import Collector

Buffer = Literal["all", "half", "part", "none"]
"""What stands beside the collected rows: the whole data, the whole data in half of every minibatch, the best episodes,
nothing."""

PUBLISHED_WARM_UP, PUBLISHED_SHARE = 5_000, 50
"""Steps that only collect in SSAR's code (arXiv 2505.19923), and of how many steps they are one: 250,000."""


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
