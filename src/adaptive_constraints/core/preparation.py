"""Work before step 1: the data that adapters see, and the training of their own models on the learners' engine.

The classes here are abstract; `pretraining` implements them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints.core.types import Facts, Params, Spec, Stage
from adaptive_constraints.core.view import StateView
from adaptive_constraints.data import Dataset, Preprocessor


class ModelFit(ABC):
    """A model in training, for several seeds at once; `Preparation.model` makes one."""

    @property
    @abstractmethod
    def params(self) -> dict[str, Params]:
        """Parameters [S, ...] by group as they stand now; the tensors themselves, not copies."""

    @property
    @abstractmethod
    def targets(self) -> dict[str, Params]:
        """Polyak averages [S, ...] by group."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Minibatches planned."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Minibatches done."""

    @abstractmethod
    def get_ready(self, say: Callable[[str], None]) -> None:
        """Do what the first minibatch would otherwise wait for, such as compiling, and say so."""

    @abstractmethod
    def run(self, steps: int) -> dict[str, list[float]]:
        """Run this many minibatches; returns the mean of each logged quantity over them, one number per seed."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that further training depends on, by dotted name; the tensors themselves, not copies."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor], step: int) -> None:
        """Continue from a saved state.

        state: what `state` gave, for the same model, seeds and table.
        step: minibatches done when it was saved.
        """

    @abstractmethod
    def ask(self, name: str, answer: Callable[[StateView], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Evaluate a function of one seed's view for all seeds.

        name: keys the noise that it draws.
        answer: a function of the view that returns tensors by name.

        Returns its tensors with a leading axis over seeds, [S, ...], without gradient.
        """


class Pretraining(ABC):
    """Runs one model's training: shows progress, and saves the state, so that an interrupted training continues."""

    @abstractmethod
    def resume(self, fit: ModelFit, beside: Mapping[str, Tensor] | None = None) -> int:
        """Load the saved state of an interrupted training, if there is one.

        fit: the model, just made by `Preparation.model`.
        beside: further tensors of the caller to fill, as in `run`.

        Returns the number of minibatches done. `run` calls this itself; call it first where a loop around `run` must
        know where it continues.
        """

    @abstractmethod
    def run(self, fit: ModelFit, until: int, beside: Mapping[str, Tensor] | None = None) -> None:
        """Train a model up to a number of minibatches.

        fit: the model.
        until: minibatches to reach, counted from the start of its training.
        beside: further tensors of the caller that the training depends on, such as the best parameters so far; they
            are saved with the state of ``fit`` and must not change during this call.
        """


@dataclass(frozen=True)
class Preparation(ABC):
    """One data set, and everything that `Adapter.prepare` may do with it."""

    data: Dataset
    preprocessor: Preprocessor
    """The map between raw data and learner space, both ways."""
    facts: Facts
    spec: Spec
    seeds: tuple[int, ...]
    discount: float
    """The learner's discount per step."""
    device: torch.device
    progress: bool
    """Show progress bars."""

    @property
    @abstractmethod
    def table(self) -> dict[str, Tensor]:
        """The transitions in learner space; see `Preprocessor.table`."""

    @abstractmethod
    def model(
        self,
        name: str,
        init: Callable[[torch.Generator], Mapping[str, Params]],
        stages: Sequence[Stage],
        *,
        steps: int,
        batch_size: int = 256,
        table: Mapping[str, Tensor] | None = None,
        seed_columns: Mapping[str, Tensor] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> ModelFit:
        """Make a model for training, all seeds at once and each independent of the others.

        name: keys its noise and names its progress bar; begin it with the adapter's name.
        init: initial parameters of one seed by group, all randomness from the generator.
        stages: losses and their optimizer steps, as a learner has them.
        steps: minibatches planned, which schedules of learning rates refer to.
        batch_size: rows per minibatch and seed.
        table: columns [N, ...] to draw minibatches from; None: the data's transitions.
        seed_columns: columns [S, N, ...] beside them that differ between seeds.
        seeds: the seeds to train; None: all.

        Nothing runs before ``ModelFit.run(steps)``.
        """

    @abstractmethod
    def trained(
        self,
        name: str,
        settings: Mapping[str, Any],
        train: Callable[[Sequence[int], Pretraining], Params],
        *,
        steps: int,
        shared: bool = False,
    ) -> Params:
        """Return a model's tensors [S, ...]: from the cache for seeds trained before, else by training.

        name: the model's name; begin it with the adapter's name.
        settings: everything beside the data that they depend on, as plain values.
        train: ``train(seeds, pretraining)`` trains these seeds and returns their tensors.
        steps: the length of the progress bar.
        shared: make them of the first seed only and give them to all.

        ``train`` makes a model by `model` and runs it by ``pretraining.run``, which shows a bar and keeps the state
        once a minute: an interrupted training goes on there. The cache is keyed by the data in learner space, name,
        settings, seed, device type and version. Damaged files are made anew. Of two processes that need the
        same model, the second waits for the first.
        """


def generator(seed: int, component: str) -> torch.Generator:
    """Make the random generator of one component of one seed; adding a component never shifts another's numbers.

    seed: the training seed.
    component: the component's name, such as "learner".
    """
    digest = hashlib.sha256(f"{seed}/{component}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


__all__ = ["ModelFit", "Preparation", "Pretraining", "generator"]
