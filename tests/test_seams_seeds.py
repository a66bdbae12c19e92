"""Seeds apart and traced as eager, whatever adapters do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints import ASPC, Adapter, Prepared
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.testing import Probe

from .helpers import apart_from_alone, build, different, learned, trained
from .sketches import LEARNERS, TinyIQL, each_learner
from .small_adapters import SLOTS, Bystander, Reader


@pytest.mark.parametrize("learner", [*LEARNERS.values(), TinyIQL(clip=0.4)], ids=[*LEARNERS, "clipped"])
def test_seeds_together_are_seeds_alone(learner):
    assert apart_from_alone(learner, ASPC(interval=2), steps=20) < 1e-12


@each_learner
def test_seeds_differ_in_all_they_learn(learner):
    engine = build(learner, Bystander(), seeds=(0, 1))
    assert all(not torch.equal(*engine.params[f"bystander.{slot}"]["w"]) for slot in SLOTS)
    engine.run(3)
    trees = engine.params.values(), [engine.buffers["bystander"]]
    assert not [name for tree in trees for group in tree for name, tensor in group.items() if torch.equal(*tensor)]


def others(engine: Engine) -> dict[str, Tensor]:
    """The state of the first and the last of three seeds."""
    return {name: tensor[[0, 2]] for name, tensor in learned(engine).items()}


@each_learner
def test_a_lost_seed_leaves_the_others_alone(learner):
    engine, clean = (build(learner, ASPC(interval=2), seeds=(4, 5, 6)) for _ in range(2))
    engine.run(3), clean.run(3)
    group = learner.facts().constrained
    engine.params[group]["weight0"][1] = float("nan")
    engine.run(3), clean.run(3)
    assert not different(others(engine), others(clean))
    first = {"critic": "actor/loss", "student": "critic/loss", "actor": "actor/loss"}  # who reads the group first
    assert engine.metrics.failures() == {1: Failure(4, first[group])}
    assert not clean.metrics.failures()


@dataclass(frozen=True)
class Poisoned(Adapter):
    """Prepares a weight per row that is not finite for one seed."""

    seed: int = 5

    def prepare(self, preparation):
        weights = [float("nan") if seed == self.seed else 1.0 for seed in preparation.seeds]
        column = torch.tensor(weights)[:, None].expand(-1, len(preparation.data))
        return Prepared(seed_columns={"weight": column})

    def constraint_weight(self, v):
        return v.batch[f"{self.name}.weight"]


@each_learner
def test_a_poisoned_column_is_one_seeds_own(learner):
    seeds: dict[str, Any] = {"seeds": (4, 5, 6), "steps": 4}
    poisoned, clean = trained(learner, Poisoned(), **seeds), trained(learner, Poisoned(seed=-1), **seeds)
    assert not different(others(poisoned), others(clean))
    group = learner.facts().constrained
    assert poisoned.metrics.failures() == {1: Failure(1, f"{group}/loss")}


# -- traced -----------------------------------------------------------------------------------------------------------


@each_learner
def test_traced_is_eager(learner):
    adapters: tuple[Adapter, ...] = (ASPC(interval=2), Probe(seam="critic_rows", by=0.5))
    seeds: tuple[int, ...] = (0, 1)
    if learner is LEARNERS["TD3BC"]:
        adapters, seeds = (*adapters, Reader()), (0,)
    eager, traced = (trained(learner, *adapters, seeds=seeds, steps=9, traced=is_traced) for is_traced in (False, True))
    assert len(traced.traced) >= 4 and all(traced.traced.values()), "stages, with and without meta step, and its two"
    assert not any(eager.traced.values())
    assert not different(learned(eager), learned(traced))
    assert eager.metrics.flush() == traced.metrics.flush()
