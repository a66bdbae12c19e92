"""The time of a step by part: every operator's own time under torch's profiler, by what it is there for."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from adaptive_constraints.engine.batches import Batches
from adaptive_constraints.engine.noise import NoiseTables

from .contestant import PERIOD, Contestant
from .ours import as_trained, engine
from .plain_loop import synchronize
from .report import table

TRIES = 5
"""Periods that are timed, of which the quickest counts: whatever else the machine does only adds to the others."""
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "gemm")
OPTIMIZER = ("Optimizer.", "_foreach_lerp_")
SAMPLING = "sampling and noise"
OTHER = "elementwise, reductions, copies"
STEPPING = "optimizer and averages"
PYTHON = "Python and dispatch"
KINDS = ("matrix products", OTHER, STEPPING, SAMPLING, PYTHON)


def report(device: str, threads: Sequence[int], seeds: Sequence[int] = (1, 4)) -> str:
    """A table of shares for TD3+BC, and the operators that cost most."""
    columns, largest = [], []
    for count in threads:
        for number in seeds:
            torch.set_num_threads(count)
            title = f"{number} seed{'s' * (number > 1)}, {count} thread{'s' * (count > 1)}"
            seconds, events = _profiled(Contestant("profile", "ours", number), device)
            columns.append((title, seconds, _shares(events, seconds, device)))
            largest += ["", f"{title}: the operators that cost most", "", *_largest(events, device)]
    head = ("of a step", *(title for title, _, _ in columns))
    rows = [[kind, *(f"{shares[kind]:.0%}" for _, _, shares in columns)] for kind in KINDS]
    rows.append(["a step, ms", *(f"{1e3 * seconds:.2f}" for _, seconds, _ in columns)])
    return "\n".join([*table(head, rows), *largest])


def _profiled(contestant: Contestant, device: str) -> tuple[float, list[FunctionEvent]]:
    """Seconds of a step without the profiler, and what the profiler saw of one period."""
    running = engine(contestant, device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with as_trained(device), _marked():

        def period() -> float:
            started = time.perf_counter()
            running.run(PERIOD)
            synchronize(device)
            return time.perf_counter() - started

        for _ in range(3):
            period()
        seconds = min(period() for _ in range(TRIES)) / PERIOD
        recorded = []
        for _ in range(TRIES):
            with profile(activities=activities) as seen:
                period()
            recorded.append(list(seen.events() or ()))
    return seconds, min(recorded, key=lambda events: sum(_own(event, device) for event in events))


@contextmanager
def _marked() -> Iterator[None]:
    """Let the profiler see where minibatches and noise are drawn; operators alone do not tell."""
    with ExitStack() as stack:
        for owner in (Batches, NoiseTables):
            stack.enter_context(mock.patch.object(owner, "at", _named(owner.at)))
        yield


def _named(function: Any) -> Any:
    @functools.wraps(function)
    def marked(*arguments: Any, **options: Any) -> Any:
        with record_function(SAMPLING):
            return function(*arguments, **options)

    return marked


def _shares(events: Sequence[FunctionEvent], seconds: float, device: str) -> dict[str, float]:
    """The share of each kind in a step; what no operator accounts for is Python's and the dispatcher's."""
    spent = dict.fromkeys(KINDS, 0.0)
    for event in events:
        spent[_kind(event)] += _own(event, device)
    total = 1e6 * seconds * PERIOD
    spent[PYTHON] = max(0.0, total - sum(spent[kind] for kind in KINDS[:-1]))
    whole = sum(spent.values())
    return {kind: value / whole for kind, value in spent.items()}


def _own(event: FunctionEvent, device: str) -> float:
    """Microseconds of an event without what it called; markers are no work."""
    if not event.name.startswith("aten::") and not _is_product(event.name):
        return 0.0
    return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)


def _kind(event: FunctionEvent) -> str:
    above: FunctionEvent | None = event
    while above is not None:
        if above.name == SAMPLING:
            return SAMPLING
        if any(mark in above.name for mark in OPTIMIZER):
            return STEPPING
        above = above.cpu_parent
    return "matrix products" if _is_product(event.name) else OTHER


def _is_product(name: str) -> bool:
    return name.rpartition("::")[2] in PRODUCTS or "mkldnn" in name or "linear" in name


def _largest(events: Sequence[FunctionEvent], device: str, rows: int = 12) -> list[str]:
    """The operators with the most time of their own, per step."""
    spent: dict[str, list[float]] = {}
    for event in events:
        if own := _own(event, device):
            spent.setdefault(event.name, []).append(own)
    ordered = sorted(spent.items(), key=lambda entry: -sum(entry[1]))[:rows]
    cells = [[name, f"{len(own) / PERIOD:.1f}", f"{sum(own) / PERIOD:.0f}"] for name, own in ordered]
    return table(("operator", "calls per step", "us per step"), cells)
