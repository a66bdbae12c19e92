"""Returns-to-go of all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor


def sums_to_go(value: Tensor, kept: Tensor) -> Tensor:
    """x_i = value_i + kept_i x_(i+1), [N], for all rows at once: each pass looks twice as far ahead as the last."""
    ahead = 1
    while ahead < len(value) and bool(kept.any()):
        rest = len(value) - ahead
        value = torch.cat([value[:rest] + kept[:rest] * value[ahead:], value[rest:]])
        kept = torch.cat([kept[:rest] * kept[ahead:], torch.zeros_like(kept[rest:])])
        ahead *= 2
    return value


__all__ = ["sums_to_go"]
