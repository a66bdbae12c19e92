"""The derivative of the real Adam step by the trade-off: closed form against four other ways to have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints import ASPC, MetaLoss
from adaptive_constraints.baselines import TD3BC

from .helpers import build, deviation, outer_step, put, resolved_of
from .sketches import TinyCQL, TinyFQL, TinyIQL
from .small_adapters import Held

LEARNERS = {
    "on the improvement": TD3BC(hidden=8, batch_size=16, policy_every=1),
    "on the improvement, LayerNorm": TD3BC(hidden=8, batch_size=16, policy_every=1, critic="robust"),
    "in an exponent": TinyIQL(),
    "on the constraint": TinyFQL(),
    "on the critics' constraint": TinyCQL(),
}
CLIPPED = {
    "in an exponent, clipped": TinyIQL(clip=0.4),
    "on the constraint, clipped": TinyFQL(clip=1.0),
    "on the critics' constraint, clipped": TinyCQL(clip=0.5),
}
SEEDS = [(0,), (0, 1, 2)]
TOLERANCES = {"autograd": 1e-10, "torchopt": 1e-10, "higher": 1e-3}
"""higher's Adam adds eps before the bias correction, so it is another function."""
STEP = 1e-3
"""Of the trade-off, for differences."""
STENCIL = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
"""Weights of central differences of fourth order, by multiple of the step."""


# -- against differentiable optimizers --------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("learner", LEARNERS | CLIPPED)
def test_back_ends_agree(learner, seeds):
    """From the second step on (the first loses its digits by cancellation), with the optimizer's state carried."""
    settings: dict[str, Any] = {"seeds": seeds, "horizon": 10, "dtype": torch.float64}
    learner = (LEARNERS | CLIPPED)[learner]
    engine = build(learner, ASPC(interval=1), **settings)
    others = {name: build(learner, ASPC(interval=1, meta_step=name), **settings) for name in TOLERANCES}
    gradients: dict[str, list[Tensor]] = {name: [] for name in others}
    expected = []
    outer_step(engine)
    for _ in range(2):
        for name, other in others.items():
            gradients[name].append(outer_step(put(other, engine)))
        expected.append(outer_step(engine))
    for name, tolerance in TOLERANCES.items():
        assert deviation(gradients[name], expected) < tolerance, name


@pytest.mark.parametrize("learner", CLIPPED)
def test_the_clipped_learners_are_clipped(learner):
    clipped = CLIPPED[learner]
    free = type(clipped)()
    one, two = (build(variant, ASPC(interval=1), dtype=torch.float64) for variant in (clipped, free))
    outer_step(one), outer_step(two)
    assert abs(float(outer_step(one) / outer_step(two)) - 1) > 0.01


# -- against finite differences ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smooth(Held):
    """An outer loss with nothing detached in it."""

    def meta_loss(self, v, k, before, after):
        change = after.constraint - before.constraint
        return MetaLoss(after.value.sin().mean() + (after.constraint / 3).tanh().mean() + change.square().mean())


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_central_differences_agree(learner, seeds):
    engine, other = (build(LEARNERS[learner], Smooth(), seeds=seeds, dtype=torch.float64) for _ in range(2))
    outer_step(engine, "smooth/loss")
    differences, expected = [], []
    for _ in range(2):
        difference = torch.zeros(len(seeds), dtype=torch.float64)
        for multiple, weight in STENCIL.items():
            k = put(other, engine).params["smooth.scale"]["k"]
            k += multiple * STEP
            difference += weight * outer_step(other, "smooth/loss")
        differences.append(difference / STEP)
        expected.append(outer_step(engine, "smooth/gradient"))
    assert deviation(differences, expected) < 1e-6


# -- where Adam has no derivative -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["closed_form", *TOLERANCES])
@pytest.mark.parametrize("learner", LEARNERS)
def test_finite_in_float32_from_the_first_step_with_dead_units(learner, backend):
    """Units that are never active leave second moments of exactly 0, where the root has no derivative."""
    engine = build(LEARNERS[learner], ASPC(interval=1, meta_step=backend), seeds=(0, 1))
    group = resolved_of(engine).facts.constrained
    engine.params[group]["bias0"][..., :3] = -100.0
    for _ in range(3):
        assert outer_step(engine).isfinite().all()
        second = engine.state()[f"adam/{group}/weight0/exp_avg_sq"]
        assert (second[..., :3] == 0).all() and (second[..., 3:] > 0).any()
    assert not engine.metrics.failures()
