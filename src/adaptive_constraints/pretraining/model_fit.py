"""Training of a model that is no learner (dynamics, behaviour, a value to select by) on the learners' engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from adaptive_constraints.core.preparation import ModelFit, generator
from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Params, Spec, Stage
from adaptive_constraints.core.view import StateView
from adaptive_constraints.engine.batches import Batches
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import InitialState, checked_groups, stack_seeds

WORTH_TRACING = 100
"""Tracing a stage takes about as long as this many steps of it as written."""


class EngineFit(ModelFit):
    """Stages run on minibatches of a table, for several seeds at once; see `Preparation.model`."""

    def __init__(
        self,
        name: str,
        init: Callable[[torch.Generator], Mapping[str, Params]],
        stages: Sequence[Stage],
        *,
        seeds: Sequence[int],
        spec: Spec,
        table: Mapping[str, Tensor],
        seed_columns: Mapping[str, Tensor],
        steps: int,
        batch_size: int,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        initial = InitialState(
            seeds=tuple(seeds),
            spec=spec,
            params=stack_seeds([checked_groups(name, init(generator(seed, name))) for seed in seeds]),
            buffers={},
            frozen={},
            columns={},
            seed_columns=dict(seed_columns),
        )
        self._engine = Engine(
            Program(tuple(stages), batch_size, view=partial(StateView, spec)),
            initial,
            table,
            horizon=steps,
            execution=Execution(traced=compiled or steps >= WORTH_TRACING, compiled=compiled),
            device=device,
            namespace=f"{name}/",
        )

    @property
    def params(self) -> dict[str, Params]:
        """Parameters [S, ...] by group, as they stand; the live tensors."""
        return self._engine.params

    @property
    def targets(self) -> dict[str, Params]:
        """Polyak averages [S, ...] by group."""
        return self._engine.targets

    @property
    def step(self) -> int:
        """Minibatches done."""
        return self._engine.step

    @property
    def steps(self) -> int:
        """Minibatches planned."""
        return self._engine.horizon

    @property
    def batches(self) -> Batches:
        """The source of its minibatches."""
        return self._engine.batches

    def get_ready(self, say: Callable[[str], None]) -> None:
        """Compile, where that is asked for."""
        self._engine.say = say
        self._engine.record_ahead()

    def run(self, steps: int) -> dict[str, list[float]]:
        """Run this many minibatches; the mean of each logged quantity over them, one number per seed."""
        self._engine.run(steps)
        return self._engine.metrics.flush()

    def state(self) -> dict[str, Tensor]:
        """All that goes on from here depends on, by name, such as "params/actor/weight0"; the live tensors."""
        return self._engine.state()

    def load(self, state: Mapping[str, Tensor], step: int) -> None:
        """Take over a state of the same model, seeds and table after this many minibatches.

        Raises `ValueError`, with everything as it was, where it is of another model.
        """
        self._engine.load(state, step)

    def ask(self, name: str, answer: Callable[[StateView], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Compute ``answer`` of one seed's view for all seeds: tensors [S, ...], without gradient."""
        return self._engine.ask(name, answer)
