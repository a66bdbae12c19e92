"""Actions of all seeds: the policy as it is written at first, then the operations that it did, without the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from adaptive_constraints.core.types import Draw
from adaptive_constraints.core.view import Inputs
from adaptive_constraints.engine.functions import with_draws
from adaptive_constraints.engine.gradients import Losses
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.engine.refusals import said_plainly, watched
from adaptive_constraints.engine.tracing import simplified

Way = Literal["act", "explore"]
KEPT = 32
"""Shapes of observations whose traced policy is kept."""


class Acting:
    """The policies of a program; each shape of observations has a trace of its own."""

    def __init__(self, losses: Losses, inputs: Callable[[], Inputs], noise: NoiseTables, traced: bool) -> None:
        """``inputs`` gives the state without noise; its tensors are the live ones, which traces read too."""
        self._losses, self._inputs, self._noise, self._traced = losses, inputs, noise, traced
        self.draws: dict[str, dict[Draw, None]] = {}
        """By way, the noise that its policy was found to draw."""
        self._met: set[tuple[Way, torch.Size]] = set()
        self._traces: dict[tuple[Way, torch.Size], Callable[..., Tensor]] = {}

    def __call__(self, observations: Tensor, step: int, way: Way) -> Tensor:
        """Actions [S, N, A] at observations [S, N, D], both in learner space; noise by ``step``."""
        key = (way, observations.shape)
        if (trace := self._traces.get(key)) is not None:
            return trace(observations, *self._drawn(way, step, self.draws[way]).values())

        def actions(given: tuple[Tensor, Mapping[Draw, Tensor]]) -> Tensor:
            return self._losses.actions(way, self._inputs() | {"noise": given[1]}, given[0])

        draws, first = self.draws.setdefault(way, {}), key not in self._met
        self._met.add(key)
        result = with_draws(draws, actions, lambda wanted: (observations, self._drawn(way, step, wanted)), first=first)
        if self._traced and not first and len(self._traces) < KEPT:
            drawn = self._drawn(way, step, draws)
            choose = watched(lambda x, *noise: actions((x, dict(zip(drawn, noise, strict=True)))))
            with said_plainly():
                graph = make_fx(choose)(observations, *drawn.values())
            self._traces[key] = simplified(graph).forward
        return result

    def _drawn(self, way: Way, step: int, wanted: Sequence[Draw] | Mapping[Draw, None]) -> dict[Draw, Tensor]:
        """Noise at sites apart from those of training."""
        return {draw: self._noise.at(step, draw.kind, f"{way}/{draw.site}", draw.shape) for draw in wanted}


__all__ = ["Acting"]
