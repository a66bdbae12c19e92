"""Activations in a compiled step, with one exponential each.

A compiler writes Mish as tanh(log(1 + exp x)) and the approximate GELU with tanh, whose vectorized tanh and log take as
long as the matrix products beside them. The same functions are rational in one exponential.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SATURATED = 20.0
"""Where Mish(x) is x in float64 too, and squares of its terms are still far from overflowing in float32."""
_SLOPE, _CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
"""GELU(x) is about x * sigmoid(slope * (x + cubic * x^3)) (Hendrycks and Gimpel 2016, section 2, with tanh)."""


def mish(x: Tensor) -> Tensor:
    """x * tanh(log(1 + e)) with e = exp(x), which is x * n / (n + 2) with n = e * (e + 2)."""
    if not _full(x):
        return NotImplemented
    e = x.clamp(max=_SATURATED).exp()
    n = e * (e + 2)
    return x * (n / (n + 2))


def mish_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient with respect to ``x``."""
    if not _full(x):
        return NotImplemented
    near = x.clamp(max=_SATURATED)
    e = near.exp()
    n = e * (e + 2)
    return gradient * (n / (n + 2) + near * (4 * e * (e + 1) / (n + 2).square()))


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x * sigmoid(z), where (1 + tanh(z / 2)) / 2 is asked for; the exact one is left as it is."""
    if approximate != "tanh" or not _full(x):
        return NotImplemented
    return x * torch.sigmoid(_SLOPE * (x + _CUBIC * x * x * x))


def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    """The gradient with respect to ``x``."""
    if approximate != "tanh" or not _full(x):
        return NotImplemented
    gate = torch.sigmoid(_SLOPE * (x + _CUBIC * x * x * x))
    return gradient * (gate + x * gate * (1 - gate) * (_SLOPE + 3 * _CUBIC * _SLOPE * x * x))


def _full(x: Tensor) -> bool:
    """Whether there are digits for it; torch computes activations of half precision in float32."""
    return x.dtype in (torch.float32, torch.float64)


ACTIVATIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.mish.default: mish,
    torch.ops.aten.mish_backward.default: mish_backward,
    torch.ops.aten.gelu.default: gelu,
    torch.ops.aten.gelu_backward.default: gelu_backward,
}
"""By the operator that they replace, as `make_fx` takes them."""

__all__ = ["ACTIVATIONS"]
