"""Losses that several learners and adapters share."""

from __future__ import annotations

from torch import Tensor


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """|expectile - 1(difference < 0)| difference^2 per element; ``difference`` is target minus prediction."""
    return (expectile - (difference < 0).to(difference.dtype)).abs() * difference.square()
