"""What an adapter may use before step 1: the data, and the training of models of its own on the learners' engine.

This page is abstract; `pretraining` does it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints.core.types import Facts, Params, Spec, Stage
from adaptive_constraints.core.view import StateView
from adaptive_constraints.data import Dataset, Preprocessor


class ModelFit(ABC):
    """Stages run on minibatches of a table, for several seeds at once; `Preparation.fit` makes one."""

    @property
    @abstractmethod
    def params(self) -> dict[str, Params]:
        """Parameters [S, ...] by group, as they stand; the live tensors."""

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
    def tick(self) -> int:
        """Minibatches done."""

    @abstractmethod
    def run(self, ticks: int) -> dict[str, list[float]]:
        """Run this many minibatches; the mean of each logged quantity over them, one number per seed."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that goes on from here depends on, by dotted name; the live tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor], tick: int) -> None:
        """Take over a state of the same model, seeds and table after this many minibatches."""

    @abstractmethod
    def ask(self, name: str, answer: Callable[[StateView], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What ``answer`` of one seed's view says, for all seeds: tensors [S, ...], without gradient."""


class Pretraining(ABC):
    """One model on its way: shows how far it is, and keeps its state, so that an interrupted training goes on."""

    @abstractmethod
    def resume(self, fit: ModelFit, beside: Mapping[str, Tensor] | None = None) -> int:
        """Give ``fit``, fresh from `Preparation.fit`, and the tensors ``beside`` it the state that was kept, if any.

        Returns the number of minibatches done. `run` calls this itself; call it first where a loop around `run` has to
        know where it goes on.
        """

    @abstractmethod
    def run(self, fit: ModelFit, until: int, beside: Mapping[str, Tensor] | None = None) -> None:
        """Run ``fit`` until it has seen this many minibatches in all.

        beside: tensors of the caller that the training's course depends on, such as the best parameters so far; they
        are kept with the state of ``fit`` and must not change during this call.
        """


class Preparation(ABC):
    """One data set and everything that `Adapter.prepare` may use with it."""

    data: Dataset
    preprocessor: Preprocessor
    """The map between raw data and learner space, both ways."""
    facts: Facts
    spec: Spec
    seeds: tuple[int, ...]
    discount: float
    """The learner's."""
    device: torch.device
    progress: bool
    """Show bars."""

    @property
    @abstractmethod
    def table(self) -> dict[str, Tensor]:
        """The transitions in learner space; see `Preprocessor.table`."""

    @abstractmethod
    def fit(
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
        """A model to be trained by ``stages`` for up to ``steps`` minibatches, all seeds at once and each on its own.

        name: keys its noise and names its bar; begin it with the adapter's name.
        init: initial parameters of one seed by group, all randomness from the generator.
        table: columns [N, ...] to draw minibatches from; None: the data's transitions.
        seed_columns: columns [S, N, ...] beside them that differ between seeds.
        seeds: which; None: all.

        Nothing runs before ``ModelFit.run(ticks)``.
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
        """Tensors [S, ...] that ``train(seeds, pretraining)`` makes, from the cache for seeds it has made before.

        name: of the model; begin it with the adapter's name.
        settings: everything beside the data that they depend on, as plain values.
        steps: the length of the progress bar.
        shared: make them of the first seed only and give them to all.

        ``train`` makes a model by `fit` and runs it by ``pretraining.run``, which shows a bar and keeps the state once
        a minute: an interrupted training goes on there. The cache is keyed by the data in learner space, name,
        settings, seed, device type and version. Damaged files are made anew.
        """


def generator(seed: int, component: str) -> torch.Generator:
    """The generator of one component of one seed; adding a component never shifts another's numbers."""
    digest = hashlib.sha256(f"{seed}/{component}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


__all__ = ["ModelFit", "Preparation", "Pretraining", "generator"]
