"""Graphs of whole steps: what the device does in a step, recorded once and replayed without Python.

A step of small networks is some hundred short kernels, and launching them from Python takes longer than running them.
A CUDA graph launches all of them at once. What is recorded has fixed addresses and fixed numbers, so everything that
differs from step to step (the clock, noise, row numbers, learning rates) is read from tensors that the engine keeps up
to date, and steps that run different operations have different graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from adaptive_constraints.core.types import Draw
from adaptive_constraints.engine.batches import Batches, Columns
from adaptive_constraints.engine.compiled_step import CompiledStep
from adaptive_constraints.engine.noise import NoiseTables


class Graph(Protocol):
    """Device work that was recorded."""

    in_one_piece: ClassVar[bool]
    """It is compiled as a whole: no part is traced by itself, Adam is written out, and what a step returns is gone."""

    def record(self, run: Callable[[], None]) -> None:
        """Record what ``run`` does. Whether it is executed as well is left open."""

    def ready(self) -> None:
        """Wait until it can be replayed."""

    def replay(self) -> None:
        """Do it again."""


class CudaGraph:
    """A CUDA graph; those of one process share their memory, since none reads what another has left there."""

    in_one_piece: ClassVar[bool] = False
    _pool: object = None

    def __init__(self) -> None:
        if CudaGraph._pool is None:
            CudaGraph._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()

    def record(self, run: Callable[[], None]) -> None:
        """Record, without executing."""
        with torch.cuda.graph(self._graph, pool=CudaGraph._pool):  # type: ignore[arg-type]
            run()

    def ready(self) -> None:
        """It is, as soon as it is recorded."""

    def replay(self) -> None:
        """Launch it on the current stream."""
        self._graph.replay()


@dataclass
class Recorded:
    """The graph of a step and what else there is to know of it."""

    graph: Graph
    draws: frozenset[Draw]
    """Noise that it reads."""
    batch: dict[str, Tensor]
    """Its minibatch, where the graph leaves it."""
    filled: tuple[range, int] = (range(0), 0)
    """Steps whose noise stands there, as long as there were so many fills."""


def graphs_for(device: torch.device, compiled: bool) -> type[Graph] | None:
    """The kind of graph that steps are recorded in; None where they are not recorded."""
    if device.type == "cuda":
        return CudaGraph
    return CompiledStep if compiled else None


class Recorder:
    """One graph for each set of things due."""

    def __init__(
        self, kind: type[Graph], noise: NoiseTables, changing: Callable[[], Iterable[tuple[str, Tensor]]]
    ) -> None:
        """``changing`` gives every tensor that a step changes, by name."""
        self._kind, self._noise, self._changing = kind, noise, changing
        self.recorded: dict[Hashable, Recorded] = {}
        """By what was due."""

    def replay(self, due: Hashable, step: int, batches: Batches, run: Callable[[], dict[str, Tensor]]) -> Columns:
        """Do what ``run`` does, which is the same for equal ``due``; its minibatch, where the graph leaves it."""
        recorded = self.recorded.get(due) or self.record(due, run)
        steps, fills = recorded.filled
        if fills != self._noise.fills or step not in steps:
            steps = self._noise.refill(step, recorded.draws)
            recorded.filled = steps, self._noise.fills
        batches.refill(step)
        recorded.graph.replay()
        return recorded.batch

    def record(self, due: Hashable, run: Callable[[], dict[str, Tensor]]) -> Recorded:
        """Record a step, leaving the state as it is."""
        saved = {name: tensor.clone() for name, tensor in self._changing()}
        graph = self._kind()
        batch: dict[str, Tensor] = {}
        for _ in range(2):  # the first finds out which noise is drawn, the second traces what the third will run
            run()
            self._restore(saved)
        self._noise.read.clear()

        def once() -> None:
            batch.update(run())

        graph.record(once)
        self._restore(saved)
        if graph.in_one_piece:
            batch.clear()
        self.recorded[due] = Recorded(graph, frozenset(self._noise.read), batch)
        return self.recorded[due]

    def forget(self) -> None:
        """Record anew from now on: tensors that graphs read are no longer the same."""
        self.recorded.clear()

    @torch.no_grad()
    def _restore(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in self._changing():
            if name in saved:
                tensor.copy_(saved[name])
            else:  # sums of metrics that nobody had added to before
                tensor.zero_()
