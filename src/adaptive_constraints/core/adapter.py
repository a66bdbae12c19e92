"""The base class of adapters: the seams they answer, networks of their own, and requirements on a learner.

An adapter is a frozen dataclass of settings. The methods between the two rules below are the *seams*: an adapter
answers those that it overrides. Every method is a pure function of one seed; ``v`` is the read-only view of
parameters, targets, buffers, batch, noise and the learner's services. Nothing in ``v`` carries gradient, so an
answer is a constant to whoever asked (the exceptions are the action given to `Adapter.constraint` and the values given
to `Adapter.conservative_value`).
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
    """Base class of adapters: override the seams to answer; everything else has a default that does nothing.

    Two adapters of one class in a stack need different names: names key state, noise and logs.

    >>> from dataclasses import dataclass
    >>> from typing import Annotated
    >>> from adaptive_constraints import Adapter, Between, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Loosened(Adapter):
    ...     share: Annotated[float, Between(0, 1)] = 0.5
    ...     def constraint_weight(self, v):
    ...         return self.share
    >>> agent = wrap(TD3BC(), Loosened(share=0.25))
    >>> print(agent.explain().splitlines()[0])
    TD3BC + loosened
    """

    name: str = ""
    """Name of its state, noise and logs; left empty, the class's name in lower case."""
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
        """Tell whether this adapter's paper tested it on a learner.

        learner: the name of the learner's class.
        facts: properties of the learner as configured.
        """
        return learner in self.tested_on

    def group(self, short: str) -> str:
        """Full name of one of this adapter's groups of parameters, from the short name in `init`."""
        return f"{self.name}.{short}"

    # -- what an adapter needs ------------------------------------------------------------------------------------

    def check(self, facts: Facts) -> Sequence[str]:
        """Warn about, or refuse, a learner with these properties.

        Returns texts of warnings; raises `StackError`, through `require`, where the adapter cannot work.
        """
        return ()

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        """Seams that this adapter answers on such a learner in this phase; by default those it overrides."""
        return frozenset(seam for seam in SEAMS if getattr(type(self), seam) is not getattr(Adapter, seam))

    def expectile(self, facts: Facts) -> float | None:
        """Expectile of the state value that this adapter reads through ``v.value``; None: it reads none.

        A learner's own state value is read where there is one; otherwise the stack trains one for all adapters.
        """
        return None

    def preparations(self, facts: Facts) -> Sequence[str]:
        """Models that it trains before step 1, in words, with their cost (for `explain`)."""
        return ()

    def prepare(self, preparation: Preparation) -> Prepared | None:
        """Make frozen models and extra columns for all seeds, before step 1; None: nothing to prepare."""
        return None

    def finished(self, episode: Mapping[str, Tensor], discount: float) -> Mapping[str, Tensor]:
        """New values of this adapter's prepared columns in the rows of an episode that has ended online.

        episode: the columns [T, ...] of its rows in learner space, in order of time, and this adapter's own by name;
            of a ring that is full, those that are still there.
        discount: the learner's discount per step.

        Returns columns [T, ...] of `Prepared.columns` by name. Until then a row has the value of `Prepared.online`.
        """
        return {}

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        """Initial parameters of one seed by short group name; they are stored under ``self.group(short)``.

        spec: dimensions of the data.
        facts: properties of the learner.
        generator: the source of all randomness.
        """
        return {}

    def buffers(self, spec: Spec, facts: Facts) -> Params:
        """Initial state of one seed that no gradient steps; found in ``v.buffers[self.name]``."""
        return {}

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        """Stages that update the adapter's own networks, each with its place in a training step."""
        return ()

    def advance_every(self, facts: Facts, horizon: int) -> int:
        """Steps between two calls of `advance`, in a run of ``horizon`` steps."""
        return 1

    def advance(self, v: View) -> Mapping[str, Tensor]:
        """New values of this adapter's buffers at the end of a step; use ``torch.where``, never a branch."""
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
        """Value [N] inside a TD target at states [N, D].

        v: the view of one seed.
        observation: the states.
        site: names the noise of this call; pass it on to every draw.
        batch: columns of the minibatch whose next states these are; None for states that are not in the data.
        default: the answer so far, to be called unless `replaces` names this seam.
        """
        return default()

    def td_weight(self, v: View) -> Tensor | float:
        """Weight of the in-data TD term; scalar."""
        return 1.0

    def critic_rows(self, v: View) -> Sequence[ExtraRows]:
        """Extra rows of the critics' regression."""
        return ()

    def value_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """Action [B, A] at which V regresses on the target critics."""
        return default()

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """Action [B, A] that is imitated in place of the data's."""
        return default()

    def sample_weight(self, v: View) -> Tensor | float:
        """Weight >= 0 of each row in the imitation term; [B]."""
        return 1.0

    def query_action(self, v: View) -> Sequence[Tensor]:
        """Off-data actions [B, A] at which this adapter reads Q."""
        return ()

    def constraint(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """Constraint term [B] at the policy's ``action`` [B, A]; gradient flows through ``action``."""
        return default()

    def conservative_value(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """Values [K, M, B] of K critics that conservatism pushes down, at M actions of the policy at each state.

        v: the view of one seed.
        action: where they are read, [M, B, A].
        default: the answer so far, through which gradient flows to the critics.
        """
        return default()

    def constraint_weight(self, v: View) -> Tensor | float:
        """Weight >= 0 of the constraint at each state, 1 the learner's own strength; [B]."""
        return 1.0

    def constraint_scale(self, v: View) -> Tensor | float:
        """Annealing of the whole constraint, applied after the weights are mean-normalised; scalar >= 0."""
        return 1.0

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """Trade-off of the learner, a scalar > 0; []."""
        return default()

    # -- learning the trade-off -----------------------------------------------------------------------------------

    def meta(self, facts: Facts) -> MetaStep | None:
        """The outer step by which this adapter learns the trade-off; None: it does not."""
        return None

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        """Outer loss of the trade-off; by default the improvement term after the step.

        v: the view of one seed.
        k: the trade-off [], detached.
        before: terms of the constrained group before its step.
        after: terms after its step, through which gradient flows to the trade-off. The group's parameters after the
            step are ``v.stepped``, for a loss that reads more than these terms (other rows, other critics).
        """
        return MetaLoss(after.improvement.mean())
