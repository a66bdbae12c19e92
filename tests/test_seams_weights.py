"""Weights at the seams: normalised to a mean of 1 where the trade-off is learned, and tempered exponents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, Adapter
from adaptive_constraints.testing import Probe

from .helpers import largest_difference, learned, seen, trained
from .sketches import LEARNERS, each_learner


@dataclass(frozen=True)
class Weighted(Adapter):
    """A constraint weight that is the same everywhere, as a number or as a tensor."""

    by: float = 3.0
    per_row: bool = True

    def constraint_weight(self, v):
        return torch.full_like(v.r, self.by) if self.per_row else self.by


@pytest.mark.parametrize("per_row", [True, False])
@each_learner
def test_a_constant_weight_counts_only_where_the_trade_off_is_fixed(learner, per_row):
    options: dict[str, Any] = {"dtype": torch.float64, "seeds": (0, 1)}
    weighted = Weighted(per_row=per_row)
    one, two = trained(learner, ASPC(interval=1), **options), trained(learner, ASPC(interval=1), weighted, **options)
    assert largest_difference(learned(one), learned(two)) < 1e-12
    one, two = trained(learner, **options), trained(learner, weighted, **options)
    assert largest_difference(learned(one), learned(two)) > 1e-6


@each_learner
def test_the_scale_of_the_constraint_stands_outside_mean_normalisation(learner):
    options, scaled = {"dtype": torch.float64}, Probe(seam="constraint_scale", by=0.5)
    one, two = trained(learner, ASPC(interval=1), **options), trained(learner, ASPC(interval=1), scaled, **options)
    assert largest_difference(learned(one), learned(two)) > 1e-6


def test_mean_normalisation_leaves_rows_of_weight_0_out():
    """Weights of 0 and 5 are weights of 0 and 1; where all are 0, there is no constraint."""
    weight = Probe(seam="constraint_weight", by=4.0)

    @dataclass(frozen=True)
    class Mask(Adapter):
        rows: str = "some"

        def constraint_weight(self, v):
            return (v.r > 0).to(v.r.dtype) if self.rows == "some" else torch.zeros_like(v.r)

    learner, aspc = LEARNERS["TD3BC"], ASPC(interval=1)
    normalised = seen(learner, aspc, weight, Mask(), what=lambda v: v.constraint_weight() - (v.r > 0).to(v.r.dtype))
    assert normalised.abs().max() < 1e-6
    assert (seen(learner, aspc, weight, Mask(rows="none"), what=lambda v: v.constraint_weight()) == 0).all()
    assert (seen(learner, aspc, Weighted(by=0.0, per_row=False), what=lambda v: v.weighted(v.r)) == 0).all()


def test_a_mean_weight_of_one_is_left_where_it_is():
    weight = seen(
        LEARNERS["TD3BC"], ASPC(), Probe(seam="constraint_weight", by=0.5), what=lambda v: v.constraint_weight()
    )
    assert float(weight.mean()) == pytest.approx(1, rel=1e-6)
    assert float(weight.max() / weight.min()) == pytest.approx(1.5, rel=1e-6)


def test_tempered_exponents():
    """The weight divides, floored at 1e-3."""
    for by, divisor in ((0.0, 1), (1.0, 2), (-1.0, 1e-3)):
        for per_row in (True, False):
            weighted = Weighted(by=1 + by, per_row=per_row)
            difference = seen(LEARNERS["IQL"], weighted, what=lambda v, d=divisor: v.tempered(v.r) - v.r / d)
            assert difference.abs().max() < 1e-3 / divisor * 1e-3
