"""Speed of small networks on a CPU: process settings, and a word where a precision costs more than it gives.

Which processor gains from what is not worth knowing by name: products of a usual size are timed, in some milliseconds.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from adaptive_constraints.errors import DependencyError
from adaptive_constraints.networks import Precision

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's mallopt(3)."""

_FASTER, _EXACT = 1.3, 1e-5
"""Limits that oneDNN must reach to be used: so many times the usual rate, so small a relative error."""


Products = Literal["oneDNN", "default"]
"""Whose float32 matrix products training takes; "default" is what torch calls of itself."""


@contextmanager
def tuned(device: torch.device, products: Products) -> Iterator[None]:
    """While training on a CPU: keep freed memory, treat denormal numbers as 0, take products by this library.

    Activations of a megabyte are otherwise handed back to the system and faulted in again at every operation, and
    second moments of idle weights decay into denormals, which are slow. oneDNN is passed over where it is not exact.
    """
    if device.type != "cpu":
        yield
        return
    _keep_freed_memory()
    flushed = torch.set_flush_denormal(True)
    try:
        with _by_onednn() if products == "oneDNN" and onednn_is_exact() else nullcontext():
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


@cache
def fastest_products(device: torch.device) -> Products:
    """Whose products are fastest on this CPU: oneDNN's where they are exact and clearly faster than the default.

    MKL, the usual default, reaches half of oneDNN's rate on processors with AVX-512 that Intel did not make. Sums of
    the two differ in their last bits, so a run keeps to the library it began with.
    """
    if device.type != "cpu" or not onednn_is_exact():
        return "default"
    x, weight = factors()
    usual = by_onednn = math.inf
    for _ in range(30):  # in turns, so that a busy moment slows both
        usual = min(usual, product_seconds(x, weight))
        with _by_onednn():
            by_onednn = min(by_onednn, product_seconds(x, weight))
    return "oneDNN" if usual > _FASTER * by_onednn else "default"


@cache
def onednn_is_exact() -> bool:
    """oneDNN is there and takes products in float32, not in bfloat16."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # torch before 2.9
        return False
    x, weight = factors()
    exact = (x.double() @ weight.double()).float()
    with _by_onednn():
        error = (x @ weight - exact).norm() / exact.norm()
    return bool(error < _EXACT)


def factors() -> tuple[Tensor, Tensor]:
    """A minibatch [256, 256] and a weight [256, 256] of the usual size."""
    x, weight = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    return x, weight


@contextmanager
def _by_onednn() -> Iterator[None]:
    """Inside, torch hands float32 products, forward and backward, to oneDNN.

    It does so under the setting that allows oneDNN to round their factors to bfloat16, which oneDNN does only on
    processors with AMX. torch promises neither half of this, hence the measurement of error in `onednn_is_exact`.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def check_compiler(device: torch.device) -> None:
    """Raise `DependencyError` where torch has nothing to compile with."""
    if device.type == "cuda":
        present, what = find_spec("triton") is not None, "Triton (pip install triton)"
    else:
        names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
        present, what = any(map(shutil.which, names)), "a C++ compiler (g++ or clang++ on the path, or CXX naming one)"
    if not present:
        raise DependencyError(f"compiled=True needs {what}, which is not here: install it, or leave compiled at False")


class PrecisionWarning(UserWarning):
    """A precision that was asked for makes training slower here."""


def warn_if_slower(precision: Precision, device: torch.device) -> None:
    """Warn where products of bfloat16 take longer than those of float32, as on CPUs without such instructions."""
    if precision == "float32" or device.type != "cpu":
        return
    x, weight = factors()
    with tuned(device, fastest_products(device)):
        plain = min(product_seconds(x, weight) for _ in range(7))
        rounded = min(product_seconds(x.bfloat16(), weight.bfloat16()) for _ in range(7))
    if rounded > plain:
        warnings.warn(
            f"precision='bf16': a product of bfloat16 takes {rounded / plain:.1f} times as long as one of float32 on "
            "this CPU, so training is slower than with precision='float32'",
            PrecisionWarning,
            stacklevel=2,
        )


def product_seconds(x: Tensor, weight: Tensor) -> float:
    """Time one product."""
    started = time.perf_counter()
    x @ weight
    return time.perf_counter() - started
