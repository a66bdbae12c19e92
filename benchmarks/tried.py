"""Outer losses that know more than ASPC's, tried for docs/results.md: a signal that the step itself did not make.

    adaptive-constraints bench tried --import benchmarks.tried

Where the constrained step has solved its problem, the gradient of L1 at its own minibatch is 0 in expectation but for
the bias of using rows twice. Both adapters here read the stepped policy at rows that the step has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from adaptive_constraints import ASPC, AtLeast, MetaLoss, Params, Point, Terms, View


@dataclass(frozen=True, kw_only=True)
class OtherRows(ASPC):
    """ASPC's L1 on an independent minibatch."""

    reads_data: ClassVar[bool] = True

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        s, a = self._other_rows(v)
        action = self._stepped_action(v, s)
        q = v.services.q(first_of(v.p["critic"]), s, action)[0]
        improvement = (-q / q.detach().abs().mean()).mean()
        loss = k * improvement + (action - a).square().mean()
        return MetaLoss(loss, {"mean_value": v.buffers[self.name]["mean_value"]}, {"improvement": improvement})

    def _other_rows(self, v: View) -> tuple[Tensor, Tensor]:
        rows = (v.uniform(f"{self.name}.rows", v.r.shape) * len(v.data["observation"])).long()
        return v.data["observation"][rows], v.data["action"][rows]

    def _stepped_action(self, v: View, s: Tensor) -> Tensor:
        """What the policy does after the constrained step."""
        assert v.stepped is not None
        policy = v.services.distribution(v.stepped[1], s)
        assert isinstance(policy, Point)
        return policy.action


@dataclass(frozen=True, kw_only=True)
class Cautious(OtherRows):
    """The value alone, by the critic that the actor did not climb, less the disagreement of both.

    On narrow data critics disagree off the data, which should pull the trade-off down; where the data is broad they
    agree, and it may rise.
    """

    caution: Annotated[float, AtLeast(0)] = 1.0
    """Disagreement |Q1 - Q2| that is taken off, in units of itself."""

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        s, _ = self._other_rows(v)
        climbed, other = v.services.q(v.p["critic"], s, self._stepped_action(v, s))
        gap = (climbed - other).abs()
        loss = -(other - self.caution * gap).mean() / other.detach().abs().mean()
        return MetaLoss(loss, {"mean_value": v.buffers[self.name]["mean_value"]}, {"gap": gap.mean()})


def first_of(critics: Params) -> Params:
    """The critic that TD3+BC's actor climbs."""
    return {name: tensor[:1] for name, tensor in critics.items()}
