"""What small networks on a CPU gain from: process settings, and a word where a precision costs more than it gives."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from adaptive_constraints.errors import DependencyError
from adaptive_constraints.networks import Precision

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's mallopt(3)."""


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """While training on a CPU: keep freed memory, and treat denormal numbers as 0.

    Activations of a megabyte are otherwise handed back to the system and faulted in again at every operation, and
    second moments of idle weights decay into denormals, which are slow.
    """
    if device.type != "cpu":
        yield
        return
    _keep_freed_memory()
    flushed = torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(False)


def _keep_freed_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, 512 << 20)
    mallopt(_TOP_PAD, 64 << 20)


def check_compiler(device: torch.device) -> None:
    """Raise `DependencyError` where torch has nothing to compile with."""
    if device.type == "cuda":
        found, what = find_spec("triton") is not None, "Triton (pip install triton)"
    else:
        names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
        found, what = any(map(shutil.which, names)), "a C++ compiler (g++ or clang++ on the path, or CXX naming one)"
    if not found:
        raise DependencyError(f"compiled=True needs {what}, which is not here: install it, or leave compiled at False")


class PrecisionWarning(UserWarning):
    """A precision that was asked for makes training slower here."""


def warn_if_slower(precision: Precision, device: torch.device) -> None:
    """Warn where products of bfloat16 take longer than those of float32, as they do on CPUs without such instructions.

    Which processors have them is not worth knowing by name: one product of a usual size is timed, in some milliseconds.
    """
    if precision == "float32" or device.type != "cpu":
        return
    plain, rounded = (_product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
    if rounded > plain:
        warnings.warn(
            f"precision='bf16': a product of bfloat16 takes {rounded / plain:.1f} times as long as one of float32 on "
            "this CPU, so training is slower than with precision='float32'",
            PrecisionWarning,
            stacklevel=2,
        )


def _product_seconds(dtype: torch.dtype) -> float:
    """The fastest of some products [256, 256] x [256, 256]."""
    x, weight = (torch.ones(256, 256, dtype=dtype) for _ in range(2))

    def seconds() -> float:
        started = time.perf_counter()
        x @ weight
        return time.perf_counter() - started

    return min(seconds() for _ in range(7))
