"""Timing: every contestant in a process of its own, and blocks of all of them in turn.

Contestants that stand side by side share a *turn*: one block each, one after another. Ratios are taken within a turn,
so that a machine whose speed drifts favours nobody. Blocks are planned by time, from a first estimate of each
contestant's speed, so that a slow one does not fill the run.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .contestant import PERIOD, Contestant, Shape, Unavailable, build

WARM_UP = 3 * PERIOD
"""Steps before the first estimate: two meta steps, and every stage traced or captured."""
LARGEST_BLOCK = 500 * PERIOD
STARTING_AT_ONCE = 2
"""Processes that start at the same time; importing is most of it."""


@dataclass
class Timing:
    """Measurements of one contestant."""

    contestant: Contestant
    skipped: str = ""
    """Why it could not run; empty if it did."""
    steps: int = 0
    """Per block."""
    seconds: list[float] = field(default_factory=list)
    """Per step of all its seeds, block by block."""
    memory: int | None = None
    """Peak bytes of its process: on a CPU resident ones, otherwise what it allocated on the accelerator."""
    libraries: int | None = None
    """Bytes of ``memory`` that were resident before it was built; on a CPU only."""
    counts: tuple[float, float] | None = None
    """Floating-point operations and bytes per step of the floor."""

    @property
    def seed_seconds(self) -> list[float]:
        """Seconds per step and seed, block by block."""
        return [seconds / self.contestant.seeds for seconds in self.seconds]

    def to_json(self) -> dict[str, Any]:
        """As plain values, those that differ from the defaults."""
        return _changed(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Timing:
        """The timing that `to_json` described."""
        plain = dict(record["contestant"])
        shape, adapters = Shape(**plain.pop("shape", {})), tuple(plain.pop("adapters", ()))
        return Timing(**record | {"contestant": Contestant(**plain, shape=shape, adapters=adapters)})


def _changed(part: Any) -> dict[str, Any]:
    """The entries of a dataclass that differ from their defaults; dataclasses among them likewise."""
    values = [(entry, getattr(part, entry.name)) for entry in fields(part)]
    usual = {entry.name: entry.default_factory() for entry, _ in values if entry.default_factory is not MISSING}
    changed = {entry.name: value for entry, value in values if value != usual.get(entry.name, entry.default)}
    return {name: _changed(value) if is_dataclass(value) else value for name, value in changed.items()}


@dataclass(frozen=True)
class Plan:
    """How long to measure, and on what."""

    device: str = "cpu"
    threads: int = 1
    blocks: int = 7
    seconds: float = 0.5
    """Per block."""


def measure(contestants: Sequence[Contestant], plan: Plan, title: str) -> list[Timing]:
    """Time contestants side by side; those that cannot run are in the result with the reason."""
    with _processes(contestants, plan) as pipes:
        timings = [Timing(contestant) for contestant in contestants]
        for timing, pipe in zip(timings, pipes, strict=True):
            _warm_up(timing, pipe, plan)
            _say(f"{title}: {timing.contestant.name}: {timing.skipped or f'{timing.steps} steps a block'}")
        running = [(timing, pipe) for timing, pipe in zip(timings, pipes, strict=True) if not timing.skipped]
        for block in range(1, plan.blocks + 1):
            for timing, pipe in running:
                timing.seconds.append(_block(pipe, timing.steps))
            _say(f"{title}: block {block} of {plan.blocks}")
        for timing, pipe in running:
            pipe.send(None)
            timing.memory, timing.libraries = pipe.recv()
    return timings


def _warm_up(timing: Timing, pipe: Connection, plan: Plan) -> None:
    """Receive what became of building, run the first steps, and plan a block of whole periods by a few more."""
    timing.skipped, timing.counts = _received(pipe)
    if timing.skipped:
        return
    _block(pipe, WARM_UP)
    estimate = _block(pipe, PERIOD)
    periods = round(plan.seconds / estimate / PERIOD)
    timing.steps = min(LARGEST_BLOCK, max(1, periods) * PERIOD)


def _block(pipe: Connection, steps: int) -> float:
    """Seconds per step of one block."""
    pipe.send(steps)
    seconds, done = _received(pipe)
    return float(seconds / done)


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError("a contestant's process ended early; what it printed above says why") from error


@contextmanager
def _processes(contestants: Sequence[Contestant], plan: Plan) -> Iterator[list[Connection]]:
    """One process per contestant; pipes to them."""
    context = multiprocessing.get_context("spawn")
    slots = context.BoundedSemaphore(STARTING_AT_ONCE)
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for contestant in contestants:
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_serve, args=(contestant, plan, theirs, slots), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()  # a process that waits for its next block ends
        for process in processes:
            process.join(timeout=20)
            process.terminate()


# -- in the contestant's process -------------------------------------------------------------------------------------


def _serve(contestant: Contestant, plan: Plan, pipe: Connection, slots: Any) -> None:
    """Build the contestant, then time a block of steps whenever one is asked for."""
    with slots:
        _limit(plan.threads)
        libraries = _resident("VmRSS")
        try:
            loop = build(contestant, plan.device)
        except Unavailable as error:
            pipe.send((str(error), None))
            return
    pipe.send(("", loop.counts))
    try:
        while (steps := pipe.recv()) is not None:
            started = time.perf_counter()
            done = loop.run(steps)
            pipe.send((time.perf_counter() - started, done))
        memory = loop.device_memory()
        pipe.send((_resident("VmHWM"), libraries) if memory is None else (memory, None))
    except EOFError:
        return


def _limit(threads: int) -> None:
    """Use this many cores; JAX sizes its pool by them, torch is told, and both must happen before the first product."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def _resident(entry: str) -> int | None:
    """Bytes resident now (VmRSS) or at most so far (VmHWM); None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
