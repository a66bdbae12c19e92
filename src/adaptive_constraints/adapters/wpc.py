"""wPC: weighted policy constraints (Peng et al., AAAI 2023), in the form that arXiv 2508.19900 compares with.

Only those actions of the data are imitated that are better than what the data does there on average: a row counts
where Q(s, a) > V(s), and not at all elsewhere.

V is a network of wPC's own. It regresses on the critics' target, as the critics do themselves, so that both are equally
old. A value regressed on the slow target critics will not do: while values grow, nearly every action is better than it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import AdapterStage, Facts, Params, Phase, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks import init_mlp, mlp
from adaptive_constraints.support.bounds import AtLeast


@dataclass(frozen=True, kw_only=True)
class WPC(Adapter):
    """Imitate where the advantage is positive: each row weighs 1{Q_1(s, a) > V(s)}."""

    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of V."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of V's two hidden layers."""

    paper: ClassVar[str] = "AAAI 2023, article 26130"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC"})

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(facts.owns_critic, "it compares Q with V, but the learner has no critics: use one that has")
        if facts.exponential_weights:
            return ("the learner already weights by exp(advantage): this sets those of negative advantages to 0",)
        return ()

    # -- the weight -----------------------------------------------------------------------------------------------

    def sample_weight(self, v: View) -> Tensor:
        """1{Q_1(s, a) > V(s)}, a the imitated action: the data's, unless another adapter says otherwise; [B]."""
        q = v.services.q(v.p["critic"], v.s, v.behavior_action())[0]
        return (q > self.value(v.p[self.group("value")], v.s)).to(q.dtype)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        return {"imitated": self.sample_weight(v).mean()}

    # -- the value ------------------------------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        return {"value": init_mlp((spec.observation_dim, self.hidden, self.hidden, 1), generator)}

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        group = self.group("value")
        # Before the learner's own stages, so that the target is the one its critics will see in this step.
        return (AdapterStage("start", Stage(group, (Update(group, self.loss, self.learning_rate),))),)

    def value(self, p: Params, observation: Tensor) -> Tensor:
        """V(s): [N, D] -> [N]."""
        return mlp(p, observation).squeeze(-1)

    def loss(self, p: Params, v: View) -> Tensor:
        """mean (r + discount (1 - d) bootstrap(s') - V(s))^2, with the draws of the critics' own target."""
        target = v.r + v.services.discount * (1 - v.d) * v.bootstrap(v.s2, "target", v.batch)
        return (target - self.value(p, v.s)).square().mean()
