"""What an adapter says about itself: the seams it answers, its own networks, and what it needs of a learner.

An adapter is a frozen dataclass of settings. The methods between the two rules below are the *seams*: an adapter
answers those that it overrides. Every method is a pure function of one seed; ``v`` is the read-only view of
parameters, targets, buffers, batch, noise and the learner's services. Nothing in ``v`` carries gradient, so an
answer is a constant to whoever asked (the one exception is the action given to `Adapter.constraint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from adaptive_constraints.errors import StackError
from adaptive_constraints.learner import Facts, Params, Phase, Row, Spec, Stage, Terms
from adaptive_constraints.presets import Presets

if TYPE_CHECKING:
    from adaptive_constraints.preparation import Preparation
    from adaptive_constraints.view import View

Slot = Literal["start", "critic", "with", "end"]
Fold = Literal["product", "composed", "concatenated", "single"]


class Seam(NamedTuple):
    """How the answers of several adapters at one seam become one."""

    fold: Fold
    default: str
    """What the seam says when nobody answers, in words (for `explain`)."""
    asked_by_adapters: bool = False
    """Adapters may ask it too, so answering it where the learner does not ask is no mistake."""
    may_swallow: bool = False
    """An answer may do without ``default()`` and need not say so in `Adapter.replaces`."""


SEAMS: Mapping[str, Seam] = {
    "bootstrap": Seam("composed", "the learner's own"),
    "td_weight": Seam("product", "1"),
    "critic_rows": Seam("concatenated", "none"),
    "value_action": Seam("composed", "the data action"),
    "behavior_action": Seam("composed", "the data action"),
    "sample_weight": Seam("product", "1"),
    "query_action": Seam("concatenated", "none", asked_by_adapters=True),
    "constraint": Seam("single", "the learner's own"),
    "constraint_weight": Seam("product", "1"),
    "constraint_scale": Seam("product", "1"),
    "tradeoff": Seam("single", "the learner's own", may_swallow=True),
}
"""Every seam that an adapter may answer, in the order a tick meets them."""


class AdapterStage(NamedTuple):
    """A stage of an adapter's own and where in the tick it runs."""

    slot: Slot
    """start: before the learner's stages; critic: after the stage that steps the critic; with: its updates join the
    constrained stage; end: after the learner's stages."""
    stage: Stage


class MetaStep(NamedTuple):
    """How an adapter that learns the trade-off takes its outer step."""

    group: str
    """The adapter's group that the trade-off is a function of."""
    learning_rate: Callable[[int, int], float]
    """(outer steps done before this one, outer steps in the whole run) -> Adam's learning rate."""
    interval: int
    """Outer steps per this many steps of the constrained group."""
    backend: str = "closed_form"
    """closed_form, autograd, torchopt or higher; see `adaptive_constraints.training.meta`."""


class MetaLoss(NamedTuple):
    """An outer loss and the buffers as they stand after the outer step."""

    loss: Tensor
    """[]"""
    buffers: Mapping[str, Tensor] = {}
    metrics: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Prepared:
    """What an adapter makes of the data before tick 1."""

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Extra columns [N] or [N, C], the same for every seed; found in ``v.batch`` under '<adapter>.<column>'."""
    seed_columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Extra columns [S, N] or [S, N, C] that differ between seeds; found in the same place."""
    models: Mapping[str, Tensor] = field(default_factory=dict)
    """Frozen tensors [S, ...], found in ``v.frozen['<adapter>']`` without the axis over seeds."""
    online: Mapping[str, float] = field(default_factory=dict)
    """The value a row collected online gets in each column."""


@dataclass(frozen=True, kw_only=True)
class Adapter(Presets):
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

    def require(self, condition: bool, text: str) -> None:
        """Refuse a setting or a learner: raise `StackError` with ``text`` unless ``condition`` holds."""
        if not condition:
            raise StackError(f"{self.name}: {text}")

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

    def critic_rows(self, v: View) -> Sequence[Row]:
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
        """Annealing of the whole constraint, outside the gauge; scalar >= 0."""
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
