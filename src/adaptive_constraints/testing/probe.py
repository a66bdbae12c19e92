"""A probe: an adapter that answers one seam, to see whether a learner hears it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import ExtraRows, Facts, Phase
from adaptive_constraints.core.view import View


@dataclass(frozen=True)
class Probe(Adapter):
    """Answers one seam, away from its default by ``by``."""

    listed: ClassVar[bool] = False
    seam: str = "td_weight"
    by: float = 0.0

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        return frozenset({self.seam})

    def bootstrap(
        self,
        v: View,
        observation: Tensor,
        site: str,
        batch: Mapping[str, Tensor] | None,
        default: Callable[[], Tensor],
    ) -> Tensor:
        return default() + self.by

    def td_weight(self, v: View) -> float:
        return 1 + self.by

    def critic_rows(self, v: View) -> Sequence[ExtraRows]:
        return [ExtraRows(self.by, v.s, -v.a, v.r)]

    def value_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by

    def sample_weight(self, v: View) -> Tensor:
        return 1 + self.by * (v.r > 0)

    def constraint(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by * action.square().mean(-1)

    def conservative_value(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        return default() * (1 + self.by)

    def constraint_weight(self, v: View) -> Tensor:
        return 1 + self.by * (v.r > 0)

    def constraint_scale(self, v: View) -> float:
        return 1 + self.by

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() * (1 + self.by)


__all__ = ["Probe"]
