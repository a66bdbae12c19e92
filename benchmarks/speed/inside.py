"""The time of a compiled step by part. A profiler sees one call; the libraries of products tell what they did in it."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch

from adaptive_constraints.engine.compiled_step import CompiledStep
from adaptive_constraints.engine.engine import Engine

from .contestant import PERIOD, Contestant
from .ours import as_trained, engine, execution
from .report import table
from .suites import ROBUST, ours

TRIES = 5
"""Measurements, of which the quickest counts: whatever else the machine does only adds to the others."""
PARTS = ("matrix products", "rest of the program: fused loops, optimizer, averages", "Python, noise and minibatches")
STEPS = (
    *(ours(seeds, compiled=True, size=size) for size in (256, 64) for seeds in (1, 8)),
    *(ours(learner=learner, compiled=True) for learner in (ROBUST, "DiffusionQL", "FQL")),
    ours(1, ("ILQ",), compiled=True),
)


def report(threads: Sequence[int], steps: Sequence[Contestant] = STEPS) -> str:
    """A table of shares for each number of threads."""
    lines = []
    for count in threads:
        torch.set_num_threads(count)
        rows = []
        for step in steps:
            whole, program, products, calls = parts(step)
            shares = (products / whole, (program - products) / whole, 1 - program / whole)
            rows.append([step.name, *(f"{share:.0%}" for share in shares), f"{calls:.1f}", f"{1e3 * whole:.3g}"])
        lines += ["", f"Compiled, {count} thread{'s' * (count > 1)}:", ""]
        lines += table(("step", *PARTS, "calls of products", "ms per step"), rows)
    return "\n".join(lines[1:])


def parts(contestant: Contestant) -> tuple[float, float, float, float]:
    """Seconds per step of all, of the program and of the products in it, and how many calls of products there are.

    Noting a product down takes time too, so that of small ones more is said than is true, though no more than all.
    """
    running = engine(contestant, "cpu", execution=execution(contestant))
    with as_trained("cpu"):
        running.run(3 * PERIOD)
        whole, program = min(_in_program(running) for _ in range(TRIES))
        products, calls = min(_in_products(running) for _ in range(TRIES))
    return whole / PERIOD, program / PERIOD, min(products, program) / PERIOD, calls / PERIOD


def _in_program(running: Engine) -> tuple[float, float]:
    """Seconds of one period, and those of them within calls of compiled steps."""
    spent = 0.0
    replay = CompiledStep.replay

    def timed(step: CompiledStep) -> None:
        nonlocal spent
        spent += _seconds(lambda: replay(step))

    with mock.patch.object(CompiledStep, "replay", timed):
        whole = _seconds(lambda: running.run(PERIOD))
    return whole, spent


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _in_products(running: Engine) -> tuple[float, int]:
    """Seconds of one period within matrix products and their number, as MKL and oneDNN write them down."""
    written: list[str] = []
    with _output_into(written), torch.backends.mkl.verbose(1), torch.backends.mkldnn.verbose(1):
        running.run(PERIOD)
    return seconds_of_products("".join(written))


UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
MKL = re.compile(r"^MKL_VERBOSE \w*GEMM\w*\(.*\) ([\d.]+)(ns|us|ms|s) ", re.MULTILINE)
ONEDNN = re.compile(r"^onednn_verbose,.*,exec,cpu,(?:matmul|inner_product),.*,([\d.]+)$", re.MULTILINE)
"""Milliseconds stand last."""


def seconds_of_products(text: str) -> tuple[float, int]:
    """Seconds and number of the products that the two libraries wrote down."""
    seconds = [float(number) * UNITS[unit] for number, unit in MKL.findall(text)]
    seconds += [1e-3 * float(number) for number in ONEDNN.findall(text)]
    return sum(seconds), len(seconds)


@contextmanager
def _output_into(written: list[str]) -> Iterator[None]:
    """Catch what native code writes to standard output, which is buffered outside of Python."""
    with tempfile.TemporaryFile() as file:
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            written.append(file.read().decode(errors="replace"))
