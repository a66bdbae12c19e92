"""Gradients at the seams: none passes through an answer, and each network learns from its own loss."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adaptive_constraints import ASPC, Adapter, ExtraRows
from adaptive_constraints.testing import Probe

from .helpers import build, different, groups, learned, trained
from .sketches import ASKED, LEARNERS, each_learner
from .small_adapters import SLOTS, Bystander


@dataclass(frozen=True)
class Nosy(Adapter):
    """Answers every seam but the trade-off with something that all parameters enter, the learner's and its own."""

    cut: bool = False

    def answers(self, facts, phase):
        return facts.seams - {"tradeoff"}

    def init(self, spec, facts, generator):
        return {"own": {"w": torch.randn(3, generator=generator)}}

    def entering(self, v) -> Tensor:
        """A number that all parameters enter."""
        number = 1 + 0.1 * torch.tanh(sum(tensor.mean() for group in v.p.values() for tensor in group.values()))
        return number.detach() if self.cut else number

    def bootstrap(self, v, observation, site, batch, default):
        return self.entering(v) * default()

    def td_weight(self, v):
        return self.entering(v)

    def critic_rows(self, v):
        return [ExtraRows(self.entering(v), v.s, self.entering(v) * v.a, self.entering(v) * v.r)]

    def value_action(self, v, default):
        return self.entering(v) * default()

    def behavior_action(self, v, default):
        return self.entering(v) * default()

    def sample_weight(self, v):
        return self.entering(v) * torch.ones_like(v.r)

    def constraint(self, v, action, default):
        return self.entering(v) * default()

    def constraint_weight(self, v):
        return self.entering(v) + (v.r > 0)

    def constraint_scale(self, v):
        return self.entering(v)


@pytest.mark.parametrize("aspc", [(), (ASPC(interval=1),)], ids=["", "aspc"])
@each_learner
def test_no_gradient_passes_through_an_answer(learner, aspc):
    """Cutting the graph of the answers changes nothing, and their parameters are not trained by being used."""
    start, open_, cut = build(learner, Nosy()), trained(learner, Nosy(), *aspc), trained(learner, Nosy(cut=True), *aspc)
    assert not different(learned(open_), learned(cut))
    assert torch.equal(start.params["nosy.own"]["w"], open_.params["nosy.own"]["w"])


@each_learner
def test_nothing_in_a_view_carries_gradient(learner):
    """Except the action that is given to `constraint`."""
    carries: dict[str, bool] = {}

    @dataclass(frozen=True)
    class Inspector(Probe):
        def bootstrap(self, v, observation, site, batch, default):
            trees = (v.p, v.target, {"batch": v.batch}, {"answer": {"so far": default()}})
            carries["view"] = any(t.requires_grad for tree in trees for g in tree.values() for t in g.values())
            return default()

        def constraint(self, v, action, default):
            carries["action"] = action.requires_grad
            return default()

    for seam in {"bootstrap", "constraint"} & learner.facts().seams:
        trained(learner, Inspector(seam=seam), steps=1)
    assert carries == {"view": False} | ({"action": True} if "constraint" in learner.facts().seams else {})


@pytest.mark.parametrize("name", [name for name, seam in ASKED if seam == "constraint"])
def test_the_constraint_reaches_the_policy_by_its_action_alone(name):
    @dataclass(frozen=True)
    class Blind(Probe):
        def constraint(self, v, action, default):
            return super().constraint(v, action.detach(), default)

    learner, settings = LEARNERS[name], {"seam": "constraint", "by": 5.0}
    plain, probed, blind = (trained(learner, kind(**settings), steps=1) for kind in (Plain, Probe, Blind))
    assert not different(learned(plain), learned(blind))
    assert groups(different(learned(plain), learned(probed))) == {learner.facts().constrained}


class Plain(Probe):
    """A probe without its perturbation."""

    def constraint(self, v, action, default):
        return default()


@each_learner
def test_an_adapters_network_is_trained_by_its_own_loss_alone(learner):
    """Whether its answer is used or not, it goes the same way."""

    @dataclass(frozen=True)
    class Owner(Bystander):
        heard: bool = True

        def answers(self, facts, phase):
            return frozenset({"td_weight"} if self.heard else ())

        def td_weight(self, v):
            return 1 + torch.tanh(v.p[self.group("start")]["w"]).sum() ** 2

    used, unused = trained(learner, Owner()), trained(learner, Owner(heard=False))
    changed = groups(different(learned(used), learned(unused)))
    assert "critic" in changed
    assert not changed & {f"owner.{slot}" for slot in SLOTS}
