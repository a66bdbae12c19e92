"""A stack resolved for one phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adaptive_constraints.composition.checks import StackWarning, label
from adaptive_constraints.composition.shared_value import SharedValue
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Facts, MetaStep, Params, Phase, Stage
from adaptive_constraints.errors import StackError


@dataclass(frozen=True)
class Resolved:
    """A stack resolved for one phase: everything that is static while it trains."""

    learner: Learner
    adapters: tuple[Adapter, ...]
    phase: Phase
    facts: Facts
    answering: Mapping[str, tuple[Adapter, ...]]
    """Who answers each seam, in the order in which answers are combined."""
    stages: tuple[Stage, ...]
    """All stages of a step, the adapters' among them."""
    meta: tuple[Adapter, MetaStep] | None
    """The adapter that learns the trade-off, if one does."""
    shared_value: SharedValue | None
    """The toolkit's state value, where adapters need one and the learner has none."""
    warnings: tuple[StackWarning, ...]
    """Doubts about the stack, which training and `Stack.explain` tell."""

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """The state value [N] that adapters read, at states [N, D]."""
        if self.shared_value is not None:
            return self.shared_value.value(p, observation)
        own = self.learner.value(p, observation)
        if own is None:
            raise StackError(
                f"v.value was read, but {label(self.learner)} has no value and no adapter asked for one: "
                "let the adapter's expectile() return a number"
            )
        return own
