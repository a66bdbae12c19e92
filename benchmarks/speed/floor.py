"""The floor under a step: its counted products at the device's rate, its counted traffic at the device's copy rate.

Each half is a contestant: per "step" it multiplies matrices (or copies memory) as much as a step of the stack that it
names does, in the shapes of TD3+BC's hidden layers, with the fastest way that this torch has. So the gap between a step
and its floor is a ratio within one turn like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from adaptive_constraints.engine.engine import Execution

from .contestant import PERIOD, Contestant, Loop, Shape
from .counts import Counts, count
from .ours import as_trained, engine
from .plain_loop import device_memory, synchronize

LARGE = 1 << 26
"""Elements of a copy on an accelerator, whose caches would otherwise be what is measured."""
Work = Callable[[], Any]


def counts(contestant: Contestant) -> Counts:
    """Counts of one step of a stack, averaged over two, as the actor is due at every second, or to the next meta step.

    In float64 and eager, where the engine has no faster product than torch's plain one; bytes are those of float32.
    Indices and noise are drawn beforehand for many steps at once, and left out.
    """
    running = engine(contestant, "cpu", dtype=torch.float64, execution=Execution(traced=False))
    steps = PERIOD if "ASPC" in contestant.adapters else 2
    running.run(steps)  # draws indices and noise ahead
    return count(running.run, steps)


def build(contestant: Contestant, device: str) -> Loop:
    """One half of the floor; ``contestant`` names the stack, its seeds and its shapes."""
    counted, shape = counts(contestant), contestant.shape
    networks = 2 * contestant.seeds
    if contestant.floor == "products":
        with as_trained(device):
            work = _fastest_product(shape, networks, device)
        operations = 2 * networks * shape.batch * shape.width**2
        repeats = counted.products / operations
    else:
        source = torch.randn(LARGE if device != "cpu" else networks * shape.batch * shape.width, device=device)
        into = torch.empty_like(source)
        work, repeats = lambda: into.copy_(source), counted.bytes / (2 * 4 * source.numel())

    def run(steps: int) -> int:
        with as_trained(device):
            for _ in range(max(1, round(steps * repeats))):
                work()
        synchronize(device)
        return steps

    return Loop(run, lambda: device_memory(device), (counted.products, counted.bytes))


def _fastest_product(shape: Shape, networks: int, device: str) -> Work:
    """A hidden layer of all networks, forward, all at once or one by one, whichever is quicker here."""
    x = torch.randn(networks, shape.batch, shape.width, device=device)
    weight = torch.randn(networks, shape.width, shape.width, device=device)
    ways: list[Work] = [_captured(lambda: torch.bmm(x, weight), device)]
    if device == "cpu":
        ways.append(lambda: [a @ b for a, b in zip(x, weight, strict=True)])
    return min(ways, key=lambda work: _seconds(work, device))


def _captured(work: Work, device: str) -> Work:
    """On CUDA a graph, so that launches do not hide the rate."""
    if torch.device(device).type != "cuda":
        return work
    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _seconds(work: Work, device: str) -> float:
    """The least time of five, after one that is not counted."""
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(10):
            work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
