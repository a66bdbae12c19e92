"""Training of a model that is no learner (dynamics, behaviour, a value to select by) on the learners' engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.preparation import ModelFit, generator
from adaptive_constraints.core.types import SEAMS, Facts, Params, Phase, Spec, Stage, Terms
from adaptive_constraints.core.view import View
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.state import InitialState, stack_seeds

WORTH_TRACING = 100
"""Tracing a stage takes about as long as this many steps of it as written."""


class EngineFit(ModelFit):
    """Stages run on minibatches of a table, for several seeds at once; see `Preparation.fit`."""

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
    ) -> None:
        initial = InitialState(
            seeds=tuple(seeds),
            spec=spec,
            params=stack_seeds([dict(init(generator(seed, name))) for seed in seeds]),
            buffers={},
            frozen={},
            columns={},
            seed_columns=dict(seed_columns),
        )
        resolved = _only_stages(stages, batch_size)
        self._engine = Engine(
            resolved,
            initial,
            table,
            horizon=steps,
            device=device,
            traced=steps >= WORTH_TRACING,
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
    def tick(self) -> int:
        """Minibatches done."""
        return self._engine.tick

    @property
    def steps(self) -> int:
        """Minibatches planned."""
        return self._engine.horizon

    def run(self, ticks: int) -> dict[str, list[float]]:
        """Run this many minibatches; the mean of each logged quantity over them, one number per seed."""
        self._engine.run(ticks)
        return self._engine.metrics.flush()

    def state(self) -> dict[str, Tensor]:
        """All that goes on from here depends on, by dotted name; the live tensors."""
        return self._engine.state()

    def load(self, state: Mapping[str, Tensor], tick: int) -> None:
        """Take over a state of the same model, seeds and table after this many minibatches.

        Raises `ValueError`, with everything as it was, where it is of another model.
        """
        self._engine.load(state, tick)

    def ask(self, name: str, answer: Callable[[View], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What ``answer`` of one seed's view says, for all seeds: tensors [S, ...], without gradient."""
        return self._engine.ask(name, answer)


@dataclass(frozen=True)
class _NoPolicy(Learner):
    """Stands where the engine expects a learner: it has a batch size, and nobody asks it for anything else."""

    def facts(self) -> Facts:
        return Facts(constrained="", seams=frozenset(), tradeoff=None)

    def _none(self, *_: Any) -> NoReturn:
        raise TypeError("a model that is only fitted has no policy and no critics")

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        self._none()

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        self._none()

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        self._none()

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        self._none()

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        self._none()

    def terms(self, p: Params, v: View) -> Terms:
        self._none()

    def act(self, v: View, observation: Tensor) -> Tensor:
        self._none()


def _only_stages(stages: Sequence[Stage], batch_size: int) -> Resolved:
    learner = _NoPolicy(batch_size=batch_size)
    return Resolved(
        learner=learner,
        adapters=(),
        phase="offline",
        facts=learner.facts(),
        answering=dict.fromkeys(SEAMS, ()),
        stages=tuple(stages),
        meta=None,
        shared_value=None,
        warnings=(),
    )
