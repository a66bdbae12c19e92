"""Process settings that small networks on a CPU gain from."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
