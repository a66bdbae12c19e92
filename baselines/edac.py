"""EDAC: ensemble-diversified actor-critic (An et al., 2021, arXiv 2110.01548).

SAC-N with a penalty on critics whose values rise in the same direction: critics that agree where the action leads off
the data are of no use there, and a diversified ensemble needs a tenth of the critics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from adaptive_constraints import CONSTRAINT_SEAMS, TD_SEAMS, Above, AtLeast, Facts, Params, Terms, View
from adaptive_constraints.baselines.sac_n import SACN

SMALLEST_NORM = 1e-10
"""Added to the norm of a gradient before it is divided by it."""


@dataclass(frozen=True, kw_only=True)
class EDAC(SACN):
    """EDAC; the defaults are those of CORL's reference implementation, whose settings suit halfcheetah-medium."""

    critics: Annotated[int, AtLeast(2)] = 10
    """Number of critics, at least two. Tuned per data set: see the presets."""
    eta: Annotated[float, Above(0)] = 1.0
    """Weight of the diversity penalty in the critics' loss. The trade-off. Without it this is `SACN`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah-medium": {},
        "halfcheetah-medium-replay": {},
        "halfcheetah-medium-expert": {"eta": 5.0},
        "hopper": {"critics": 50},
        "walker2d-medium": {},
        "walker2d-medium-replay": {},
        "walker2d-medium-expert": {"eta": 5.0},
        "maze2d": {"eta": 0.1},
        "antmaze": {},
        "adroit": {"critics": 50, "eta": 200.0},
        "pen-human": {"critics": 20, "eta": 1000.0},
        "pen-cloned": {"critics": 20, "eta": 10.0},
        "pen-expert": {"critics": 20, "eta": 10.0},
    }

    def facts(self) -> Facts:
        # Not asked: "constraint". Its answer reaches a network by the policy's action, but here the critics are held.
        return Facts(
            constrained="critic",
            seams=TD_SEAMS | CONSTRAINT_SEAMS - {"constraint"},
            tradeoff=self.eta,
            scales="constraint",
            policy="actor",
            distribution="tanh-gaussian",
            imitation_is_constraint=False,
        )

    def similarity(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """1/(N-1) sum_(i != j) <grad_a Q_i, grad_a Q_j> of gradients of length 1, at the data's actions; [B].

        The sum over pairs is the squared length of the sum less the sum of squared lengths.
        """
        states, actions = (rows.expand(self.critics, *rows.shape) for rows in (observation, action))
        gradient = torch.func.grad(lambda a: self.q(p, states, a).sum())(actions)
        unit = gradient / (torch.linalg.vector_norm(gradient, dim=-1, keepdim=True) + SMALLEST_NORM)
        pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, -1))
        return pairs / (self.critics - 1)

    def terms(self, p: Params, v: View) -> Terms:
        """As SAC-N's, with the similarity of the critics' gradients as the constraint."""
        return super().terms(p, v)._replace(constraint=self.similarity(p, v.s, v.a))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """SAC-N's loss plus eta times the weighted similarity."""
        terms = self.terms(p, v)
        return self.regression(p, v) + (k * v.weighted(terms.constraint)).mean(), terms
