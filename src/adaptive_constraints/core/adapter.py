"""What an adapter says about itself: the seams it answers, its own networks, and what it needs of a learner.

An adapter is a frozen dataclass of settings. The methods between the two rules below are the *seams*: an adapter
answers those that it overrides. Every method is a pure function of one seed; ``v`` is the read-only view of
parameters, targets, buffers, batch, noise and the learner's services. Nothing in ``v`` carries gradient, so an
answer is a constant to whoever asked (the one exception is the action given to `Adapter.constraint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adaptive_constraints.core.part import Part
from adaptive_constraints.core.preparation import Preparation
from adaptive_constraints.core.types import (
    SEAMS,
    AdapterStage,
    ExtraRows,
    Facts,
    MetaLoss,
    MetaStep,
    Params,
    Phase,
    Prepared,
    Spec,
    Terms,
)
from adaptive_constraints.core.view import View


@dataclass(frozen=True, kw_only=True)
class Adapter(Part):
    """Base class of adapters. Two adapters of one class need different names: they key state, noise and logs."""

    name: str = ""
    """Keys its state, noise and logs; left empty, it is the class's name in lower case."""
    paper: ClassVar[str] = ""
    tested_on: ClassVar[frozenset[str]] = frozenset()
    """Names of the learners that the adapter's paper tested it on."""
    replaces: ClassVar[frozenset[str]] = frozenset()
    """Seams that this adapter answers without calling ``default()``; at most one adapter may."""

    def __post_init__(self) -> None:
        self.check_settings()
        if not self.name:
            object.__setattr__(self, "name", type(self).__name__.lstrip("_").lower())

    @property
    def title(self) -> str:
        return self.name

    def was_tested_on(self, learner: str, facts: Facts) -> bool:
        """Whether this adapter's paper tested it on the learner of this name, configured to these facts."""
        return learner in self.tested_on

    def group(self, short: str) -> str:
        """The full name of one of this adapter's groups of parameters."""
        return f"{self.name}.{short}"

    # -- what an adapter needs ------------------------------------------------------------------------------------

    def check(self, facts: Facts) -> Sequence[str]:
        """Warnings about this adapter on a learner of these facts; raises `StackError` where it cannot work."""
        return ()

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        """The seams this adapter answers on such a learner; by default those it overrides."""
        return frozenset(seam for seam in SEAMS if getattr(type(self), seam) is not getattr(Adapter, seam))

    def expectile(self, facts: Facts) -> float | None:
        """The expectile of the state value this adapter reads through ``v.value``; None: it reads none.

        Where the learner owns a value, that one is read instead; otherwise all adapters share one.
        """
        return None

    def preparations(self, facts: Facts) -> Sequence[str]:
        """What it trains before tick 1, in words and with what it costs (for `explain`)."""
        return ()

    def prepare(self, preparation: Preparation) -> Prepared | None:
        """Frozen models and extra columns for all seeds, before tick 1."""
        return None

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        """Initial parameters of one seed by short group name (stored under ``self.group(short)``)."""
        return {}

    def buffers(self, spec: Spec, facts: Facts) -> Params:
        """Initial non-gradient state of one seed, found in ``v.buffers[self.name]``."""
        return {}

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        """Stages of the adapter's own networks."""
        return ()

    def advance_every(self, facts: Facts, horizon: int) -> int:
        """Ticks between two calls of `advance`, in a run of ``horizon`` ticks."""
        return 1

    def advance(self, v: View) -> Mapping[str, Tensor]:
        """New values of this adapter's buffers at the end of a tick; use ``torch.where``, never a branch."""
        return {}

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """Scalars to log, namespaced by the adapter's name."""
        return {}

    # -- seams ----------------------------------------------------------------------------------------------------

    def bootstrap(
        self,
        v: View,
        observation: Tensor,
        site: str,
        batch: Mapping[str, Tensor] | None,
        default: Callable[[], Tensor],
    ) -> Tensor:
        """The value [N] inside the TD target at states [N, D]."""
        return default()

    def td_weight(self, v: View) -> Tensor | float:
        """Weight of the in-data TD term; scalar."""
        return 1.0

    def critic_rows(self, v: View) -> Sequence[ExtraRows]:
        """Extra rows of the critics' regression."""
        return ()

    def value_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """The action [B, A] at which V regresses on the target critics."""
        return default()

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """The action [B, A] that imitation takes for the data's."""
        return default()

    def sample_weight(self, v: View) -> Tensor | float:
        """Weight >= 0 of each row in the imitation term; [B]."""
        return 1.0

    def query_action(self, v: View) -> Sequence[Tensor]:
        """Off-data actions [B, A] at which this adapter reads Q."""
        return ()

    def constraint(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """The constraint term [B] at the policy's ``action`` [B, A]; gradient flows through ``action``."""
        return default()

    def constraint_weight(self, v: View) -> Tensor | float:
        """Weight >= 0 of the constraint at each state, 1 the learner's own strength; [B]."""
        return 1.0

    def constraint_scale(self, v: View) -> Tensor | float:
        """Annealing of the whole constraint, which mean-normalised weights leave alone; scalar >= 0."""
        return 1.0

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """The learner's one scalar > 0; []."""
        return default()

    # -- learning the trade-off -----------------------------------------------------------------------------------

    def meta(self, facts: Facts) -> MetaStep | None:
        """How this adapter learns the trade-off; None: it does not."""
        return None

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        """Outer loss of the trade-off ``k`` (detached) from the terms before and after the constrained step.

        The default asks the step itself to have improved the policy.
        """
        return MetaLoss(after.improvement.mean())
