"""The state value that is trained once for all adapters who read it."""

from __future__ import annotations

import pytest
import torch

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp
from adaptive_constraints.testing import Probe

from .helpers import build, different, groups, learned, seen, trained
from .sketches import LEARNERS
from .small_adapters import Reader


@pytest.mark.parametrize("name", ["TD3BC", "CQL", "FQL"])
def test_one_value_for_all_who_read_it(name):
    learner = LEARNERS[name]
    resolved = Stack(learner, (Reader(), Reader(name="other"))).resolve()
    assert resolved.shared_value is not None and resolved.shared_value.expectile == 0.8
    assert [stage.name for stage in resolved.stages].count("value") == 1
    assert resolved.stages[0].name == "value"
    engine = trained(learner, Reader(), Reader(name="other"))
    assert set(engine.params) == {*learner_groups(learner), "value"}
    assert "critic" in groups(different(learned(engine), learned(trained(learner, Reader()))))


def learner_groups(learner) -> set[str]:
    return set(build(learner).params)


def test_different_expectiles_name_both_readers():
    with pytest.raises(StackError, match=r"'reader'.*'other'.*TD3BC.*0\.8 and 0\.7.*set both the same"):
        Stack(LEARNERS["TD3BC"], (Reader(), Reader(name="other", tau=0.7)))


def test_a_learners_own_value_is_the_one_that_is_read():
    learner = LEARNERS["IQL"]
    stack = Stack(learner, (Reader(), Reader(name="other", tau=0.7)))
    assert stack.resolve().shared_value is None
    engine = trained(learner, Reader(), steps=1)
    assert set(engine.params) == learner_groups(learner)
    difference = seen(learner, Reader(), what=lambda v: v.value(v.s) - learner.value(v.p["value"], v.s))
    assert (difference == 0).all()


def test_reading_a_value_that_nobody_has_says_what_to_do():
    with pytest.raises(StackError, match=r"TD3BC has no value.*expectile\(\)"):
        trained(LEARNERS["TD3BC"], Reader(tau=None))


def test_the_shared_value_is_an_expectile_of_the_target_critics():
    """Its first step is Adam's on the loss written out."""
    learner = LEARNERS["TD3BC"]
    engine, after = (
        build(learner, Reader(), dtype=torch.float64),
        trained(learner, Reader(), steps=1, dtype=torch.float64),
    )
    value = {name: tensor[0].clone().requires_grad_() for name, tensor in engine.params["value"].items()}
    optimizer = torch.optim.Adam(value.values(), lr=3e-4)
    batch = {name: tensor[0] for name, tensor in after.batch.items()}
    q = learner.q(
        {name: tensor[0] for name, tensor in engine.targets["critic"].items()}, batch["observation"], batch["action"]
    )
    difference = q.amin(0) - mlp(value, batch["observation"]).squeeze(-1)
    torch.where(difference > 0, 0.8 * difference**2, 0.2 * difference**2).mean().backward()
    optimizer.step()
    for name, tensor in value.items():
        torch.testing.assert_close(after.params["value"][name][0], tensor.detach(), rtol=0, atol=1e-10)


def test_whoever_adds_the_shared_value_asks_for_its_action():
    """value_action is a seam of the shared value, on learners that never ask it themselves."""
    learner, probe = LEARNERS["TD3BC"], Probe(seam="value_action", by=0.5)
    with pytest.raises(StackError, match="never asks"):
        Stack(learner, (probe,))
    assert "value_action       probe" in Stack(learner, (Reader(), probe)).explain()
    assert "value" in groups(different(learned(trained(learner, Reader())), learned(trained(learner, Reader(), probe))))
