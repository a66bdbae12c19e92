"""Floating-point operations and bytes of a step, counted operator by operator as it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class Counts(NamedTuple):
    """Counts of one step, all seeds together."""

    products: float
    """Floating-point operations of matrix products, two per multiplication and addition."""
    bytes: float
    """Bytes that operators read and write, each input and output once; float32."""
    calls: float
    """Operators that touch memory."""


class _Traffic(TorchDispatchMode):
    """Adds up elements of inputs and outputs of every operator that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or func is torch.ops.aten.detach.default):
            tensors = [t for t in pytree.tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(_float32_bytes(t) for t in tensors)
            self.calls[func.name()] += 1
        return result


def _float32_bytes(tensor: Tensor) -> int:
    """Bytes of the memory behind a tensor, as float32; broadcasting reads no element twice."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * (4 if tensor.is_floating_point() else tensor.element_size())


def count(run: Callable[[int], object], steps: int) -> Counts:
    """Counts of one step, as the mean over ``steps`` of ``run(steps)``."""
    with FlopCounterMode(display=False) as products, _Traffic() as traffic:
        run(steps)
    return Counts(
        products.get_total_flops() / steps,
        traffic.bytes / steps,
        traffic.calls.total() / steps,
    )
