"""Cal-QL: calibrated Q-learning (Nakamoto et al., 2023, arXiv 2303.05479).

Conservatism pushes the values of the policy's actions down, but no further than to what the data's own behaviour got
from there on: max(Q(s, a), return-to-go). So critics that were trained offline stand on the scale of true returns,
and fine-tuning does not begin by unlearning values that are too low.

Certain (paper and its code, and CORL's): the bound holds for the policy's actions at s and at s', not for uniform ones;
returns are discounted and of the rewards that the critics see; ``sparse`` as in CORL. Chosen here: a row collected
online has a bound only once its episode has ended (the released code collects whole episodes before it trains; CORL's
switches the bound off online).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Facts, Phase, Prepared
from adaptive_constraints.core.view import View
from adaptive_constraints.data.returns import sums_to_go

if TYPE_CHECKING:
    from adaptive_constraints.core.preparation import Preparation


@dataclass(frozen=True, kw_only=True)
class CalQL(Adapter):
    """Push no value of the policy's actions below the discounted return that the data's episode had from there on.

    The published runs fine-tune with half of each minibatch from the data: ``agent.finetune(env, buffer="half")``.

    >>> from adaptive_constraints import CalQL, wrap
    >>> from adaptive_constraints.baselines import CQL
    >>> agent = wrap(CQL.preset("antmaze", backup_actions=10), CalQL.preset("antmaze"))
    >>> [line.strip() for line in agent.explain().splitlines() if "conservative_value" in line]
    ['conservative_value calql']
    """

    sparse: bool = False
    """Let the last reward of an episode without a true end go on for ever: it counts as reward / (1 - discount), and so
    does every row of an episode whose rewards are all the same. For mazes, where that is one that missed its goal."""
    online: Literal["calibrated", "off"] = "calibrated"
    """The bound online. calibrated: as offline (the paper). off: none (CORL)."""

    paper: ClassVar[str] = "arXiv 2303.05479"
    tested_on: ClassVar[frozenset[str]] = frozenset({"CQL"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"gym": {}, "adroit": {}, "antmaze": {"sparse": True}}

    def check(self, facts: Facts) -> tuple[str, ...]:
        self.require(
            "conservative_value" in facts.seams,
            "the learner pushes no values of Q down, so there is nothing to calibrate: use one that asks "
            "'conservative_value', such as CQL with alpha > 0, or remove the adapter",
        )
        return ()

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        off = phase == "online" and self.online == "off"
        return frozenset() if off else frozenset({"conservative_value"})

    def prepare(self, preparation: Preparation) -> Prepared:
        """The data's returns-to-go; a row collected online has none before its episode has ended."""
        table, ends = preparation.table, torch.tensor(preparation.data.episode_ends)
        returns = self.returns(table["reward"], table["terminal"], ends, preparation.discount)
        return Prepared({"return_to_go": returns}, online={"return_to_go": float("-inf")})

    def finished(self, episode: Mapping[str, Tensor], discount: float) -> Mapping[str, Tensor]:
        """The returns-to-go of an episode collected online."""
        ends = torch.zeros_like(episode["reward"], dtype=torch.bool)
        ends[-1] = True
        return {"return_to_go": self.returns(episode["reward"], episode["terminal"], ends, discount)}

    def returns(self, reward: Tensor, terminal: Tensor, ends: Tensor, discount: float) -> Tensor:
        """Discounted returns-to-go [N] of rows in order of time; nothing is read across rows where ``ends`` is True."""
        terminal, total = terminal > 0, reward.double()
        if self.sparse:
            self.require(discount < 1, "sparse=True needs a learner with discount < 1: else rewards add up for ever")
            total = torch.where(ends & ~terminal, total / (1 - discount), total)
        return sums_to_go(total, discount * (~(ends | terminal)).double()).to(reward.dtype)

    def conservative_value(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """max(Q(s, a), return-to-go(s))."""
        return torch.maximum(default(), v.batch[f"{self.name}.return_to_go"])

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """The share of rows whose own value lies below the bound."""
        q = v.services.aggregate(v.services.q(v.p["critic"], v.s, v.a))
        return {"bounded": (q < v.batch[f"{self.name}.return_to_go"]).to(q.dtype).mean()}


__all__ = ["CalQL"]
