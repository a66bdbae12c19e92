"""The online phase: every seed collects rows in an environment of its own, one training step per environment step.

Episodes begin at states that are a function of (seed, number of the episode). What an unfinished episode did is kept,
so that a run that goes on later finds every environment where it was: the episode is played again from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Prepared, Spec
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.batches import Growth, Replay
from adaptive_constraints.environments.making import EnvSource
from adaptive_constraints.errors import StackError, TrainingError
from adaptive_constraints.evaluation import Evaluator, Expected
from adaptive_constraints.runs.collector import Collector
from adaptive_constraints.runs.identity import OnlineIdentity
from adaptive_constraints.runs.settings import OnlineSettings


@dataclass
class Online:
    """An online phase, at whatever step it stands; the rows it collected are in the engine."""

    identity: OnlineIdentity
    collector: Collector
    source: EnvSource | None = None
    """The source of environments; None once read from a file."""

    @property
    def settings(self) -> OnlineSettings:
        """The options of the phase."""
        return self.identity.settings

    @contextmanager
    def environments(self, expected: Expected) -> Iterator[list[str]]:
        """Open the environments where they were left; yields what should be known about them, in words."""
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

    def collect(
        self,
        policy: Callable[[NDArray[Any], int], NDArray[Any]],
        space: Preprocessor,
        replay: Replay,
        columns: Sequence[str],
    ) -> NDArray[np.int64]:
        """Take one step in every seed's environment and add it to ``replay``, as rows in learner space.

        policy: raw actions [S, 1, A] at raw observations [S, 1, D] and the number of the step.
        columns: those that the learner reads beside the transition itself, out of `KNOWN_ONLINE`.

        Returns the steps [S] of the episodes that ended with this step, 0 where one goes on.
        """
        step = self.collector.step(policy)
        observation, action, reward, following, terminal, follows, _ = (
            torch.as_tensor(array, device=space.action_center.device) for array in step
        )
        action, known = space.actions(action), torch.ones_like(reward)
        if columns:
            newest = {"next_action": action, "next_action_mask": known}
            replay.amend({name: newest[name] for name in columns}, follows)
        replay.add(
            {
                "observation": space.observations(observation),
                "action": action,
                "reward": space.rewards(reward),
                "next_observation": space.observations(following),
                "terminal": terminal,
                "next_action": space.actions(torch.zeros_like(action)),
                "next_action_mask": 0 * known,
            }
        )
        return step.ended


def finish(adapters: Sequence[Adapter], replay: Replay, ended: NDArray[np.int64], discount: float) -> None:
    """Let adapters give their columns of the episodes that ``ended`` [S] steps ago began, and are over now."""
    finishing = [adapter for adapter in adapters if type(adapter).finished is not Adapter.finished]
    for seed in np.flatnonzero(ended) if finishing else ():
        episode = replay.newest(int(seed), int(ended[seed]))
        for adapter in finishing:
            prefix = f"{adapter.name}."
            own = {name.removeprefix(prefix): column for name, column in episode.items()}
            values = {prefix + name: column for name, column in adapter.finished(own, discount).items()}
            if unknown := sorted(values.keys() - episode.keys()):
                raise StackError(
                    f"{adapter.name}: finished() gives {', '.join(unknown)}, which is no column that all seeds share: "
                    "let prepare() give it in Prepared.columns"
                )
            replay.rewrite(int(seed), values)


# -- rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedColumn:
    """A column that an adapter prepared, as far as rows collected online need to know it."""

    adapter: str
    name: str
    shape: tuple[int, ...]
    """The shape of one row."""
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
        PreparedColumn(adapter, name, tuple(column.shape[1 + per_seed :]), per_seed, made.online.get(name))
        for adapter, made in prepared.items()
        for per_seed, columns in ((False, made.columns), (True, made.seed_columns))
        for name, column in columns.items()
    ]


KNOWN_ONLINE = ("next_action", "next_action_mask")
"""Columns of the data that a learner may read online: they are filled in one step later."""


def growth(settings: OnlineSettings, learner: Learner, columns: Sequence[PreparedColumn]) -> Growth:
    """Say how the table grows; `TrainingError` names a column whose value online nobody knows."""
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
