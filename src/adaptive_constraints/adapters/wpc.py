"""wPC: weighted policy constraints (Peng et al., AAAI 2023), in the form that arXiv 2508.19900 compares with.

Only those actions of the data are imitated that are better than what the data does there on average: a row counts
where Q(s, a) > V(s), and not at all elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptive_constraints.adapter import Adapter
from adaptive_constraints.errors import StackError
from adaptive_constraints.learner import Facts
from adaptive_constraints.view import View


@dataclass(frozen=True)
class WPC(Adapter):
    """Imitate where the advantage is positive: each row weighs 1{Q_1(s, a) > V(s)}."""

    value_expectile: float = 0.5
    """Of V, in (0, 1); 0.5: the mean of Q over the data's actions. Inferred: the released code of arXiv 2508.19900
    regresses V on the critics' target by its squared error, which has that mean too. Where the learner trains a V of
    its own, that one and its expectile count."""

    paper: ClassVar[str] = "AAAI 2023, article 26130"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.value_expectile < 1:
            raise StackError(f"{self.name}: value_expectile must lie in (0, 1), not {self.value_expectile}")

    def check(self, facts: Facts) -> Sequence[str]:
        if facts.exponential_weights:
            return ("the learner already weights by exp(advantage): this sets those of negative advantages to 0",)
        return ()

    def expectile(self, facts: Facts) -> float:
        return self.value_expectile

    def sample_weight(self, v: View) -> Tensor:
        """1{Q_1(s, a) > V(s)}, a the imitated action: the data's, unless an adapter says otherwise."""
        q = v.services.q(v.p["critic"], v.s, v.behavior_action())[0]
        return (q > v.value(v.s)).to(q.dtype)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"imitated": self.sample_weight(v).mean()}
