"""Schedules of the trade-off that learn nothing: what ASPC is compared with (arXiv 2508.19900, section 5.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.view import View


@dataclass(frozen=True, kw_only=True)
class FixedScale(Adapter):
    """The trade-off at one value throughout; with the value ASPC converged to, the paper's "converged" column."""

    value: float | None = None
    """> 0; None: the learner's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.value is None or self.value > 0, f"value must be > 0, not {self.value}")

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() if self.value is None else v.r.new_full((), self.value)


@dataclass(frozen=True, kw_only=True)
class LinearScale(Adapter):
    """The trade-off on a straight line over the run, reaching ``end`` at the last planned tick.

    Fine-tuning makes the run longer, so the line starts anew from where the longer one stands then.
    """

    end: float = 10.0
    """> 0."""
    start: float | None = None
    """> 0; None: the learner's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.end > 0, f"end must be > 0, not {self.end}")
        self.require(self.start is None or self.start > 0, f"start must be > 0, not {self.start}")

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        start = default() if self.start is None else v.r.new_full((), self.start)
        return start + (self.end - start) * (v.tick / v.horizon).to(start.dtype)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"scale": v.tradeoff()}
