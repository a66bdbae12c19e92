"""Schedules of the trade-off that learn nothing: what ASPC is compared with (arXiv 2508.19900, section 5.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.view import View
from adaptive_constraints.support.bounds import Above


@dataclass(frozen=True, kw_only=True)
class FixedTradeoff(Adapter):
    """Keep the trade-off at one value throughout; with the value ASPC converged to, the paper's "converged" column."""

    value: Annotated[float, Above(0)] | None = None
    """The value; None: the learner's own."""

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() if self.value is None else v.r.new_full((), self.value)


@dataclass(frozen=True, kw_only=True)
class LinearTradeoff(Adapter):
    """Move the trade-off on a straight line over the run, reaching ``end`` at the last planned step.

    Fine-tuning makes the run longer, so the line starts anew from where the longer one stands then.
    """

    end: Annotated[float, Above(0)] = 10.0
    """The value at the last planned step."""
    start: Annotated[float, Above(0)] | None = None
    """The value at the start; None: the learner's own."""

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        start = default() if self.start is None else v.r.new_full((), self.start)
        return start + (self.end - start) * (v.step / v.horizon).to(start.dtype)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"tradeoff": v.tradeoff()}
