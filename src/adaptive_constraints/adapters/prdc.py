"""PRDC: policy regularization with dataset constraint (Ran et al., ICML 2023, arXiv 2306.06569).

The policy is held not to the action of its own row but to that of the row of the whole data that is nearest to
(beta * s, pi(s)): it may take any action that the data has near this state, whatever the behaviour did most often.

Certain (paper and released code): the distance, its beta and its neighbour, TD3+BC's loss with that neighbour's action
in place of the data's; the settings in ``presets``. Chosen here: where the policy is random, the neighbour is that of a
draw; and learners other than TD3+BC imitate the neighbour in their own way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from torch import Tensor

from adaptive_constraints.adapters.nearest import nearest
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Facts, Point
from adaptive_constraints.core.view import View
from adaptive_constraints.support.bounds import Above, AtLeast

if TYPE_CHECKING:
    from adaptive_constraints.core.preparation import Preparation

SMALL = 100_000
"""Rows up to which a CPU searches fast enough to say nothing."""


@dataclass(frozen=True, kw_only=True)
class PRDC(Adapter):
    """Imitate the action of the row of the data that is nearest to (beta * s, pi(s)).

    >>> from adaptive_constraints import PRDC, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> agent = wrap(TD3BC.preset("prdc-antmaze"), PRDC.preset("antmaze"))
    >>> [" ".join(line.split()) for line in agent.explain().splitlines() if "behavior_action" in line]
    ['behavior_action prdc']
    """

    beta: Annotated[float, Above(0)] = 2.0
    """Weight of the state in the distance, against the action's 1; larger imitates actions of closer states."""
    neighbor: Annotated[int, AtLeast(1)] = 1
    """The neighbour that is imitated: 1 the nearest, 2 the second nearest (published as ``k``)."""

    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2306.06569"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC"})
    replaces: ClassVar[frozenset[str]] = frozenset({"behavior_action"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"gym": {}, "antmaze": {"beta": 7.5}}

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            "behavior_action" in facts.seams and facts.imitation_is_constraint,
            "the learner's constraint imitates no action, so there is none to take from the nearest row: use one whose "
            "constraint is imitation, or remove the adapter",
        )
        if facts.exponential_weights:
            return (
                "the learner weighs imitation by exp(advantage) and climbs no Q, so that its policy is drawn to "
                "rows that it is near to already",
            )
        return ()

    def prepare(self, preparation: Preparation) -> None:
        """Nothing; but say so where every search will take long."""
        if preparation.device.type == "cpu" and len(preparation.data) > SMALL:
            warnings.warn(
                f"{self.title} compares every minibatch with all {len(preparation.data):,} rows at each policy update: "
                "on a CPU about a second per seed and million rows; take a part of the data, or a GPU",
                stacklevel=2,
            )

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """The action [B, A] of the row nearest to (beta * s, pi(s))."""
        rows = v.data["observation"], v.data["action"]
        return v.data["action"][nearest((v.s, self.action(v)), rows, (self.beta, 1.0), self.neighbor)]

    def action(self, v: View) -> Tensor:
        """The policy's action [B, A]: its only one, or a draw."""
        p = v.p[v.services.facts.policy]
        policy = v.services.distribution(p, v.s)
        return policy.action if isinstance(policy, Point) else v.services.sample(p, v.s, f"{self.name}/policy")

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """The share of rows whose own action is not imitated, and the mean distance between policy and neighbour."""
        chosen = v.behavior_action()
        distance = (chosen - self.action(v)).square().sum(-1).sqrt()
        return {"replaced": (chosen != v.a).any(-1).to(v.r.dtype).mean(), "distance": distance.mean()}


__all__ = ["PRDC"]
