"""The seams between learners and adapters: who is heard, who is not, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, Adapter, AdapterStage, FixedTradeoff, Stage, Update
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import SEAMS
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import Probe

from .helpers import build, different, groups, largest_difference, learned, seen, trained
from .sketches import ASKED, LEARNERS, TinyCQL, TinyIQL, each_learner
from .small_adapters import Bystander

each_seam = pytest.mark.parametrize(("name", "seam"), ASKED)


# -- every learner trains ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [ASPC(interval=1), FixedTradeoff(value=2.0)], ids=lambda adapter: adapter.name)
@each_learner
def test_three_steps_are_finite(learner, adapter):
    engine, start = build(learner, adapter, seeds=(0, 1)), build(learner, adapter, seeds=(0, 1))
    for step in range(1, 4):
        engine.run(1)
        assert all(tensor.isfinite().all() for tensor in engine.state().values())
        scalars = engine.metrics.flush()
        assert torch.tensor(list(scalars.values())).isfinite().all()
        assert f"{learner.facts().constrained}/loss" in scalars and "critic/loss" in scalars
        if adapter.name == "aspc":
            assert all(derivative != 0 for derivative in scalars["aspc/gradient"]), step
    assert not engine.metrics.failures()
    moved = groups(different(learned(engine), learned(start)))
    assert moved == set(engine.params), "every group learns"
    assert engine.act(torch.zeros(2, 5, 3), 1).abs().max() <= 1


def test_a_learner_that_adapts_its_own_trade_off_trains():
    engine = trained(TinyCQL(lagrange=True))
    assert not engine.metrics.failures()
    assert float(engine.params["multiplier"]["log"]) != 0


# -- heard ------------------------------------------------------------------------------------------------------------

IMITATES = {"TD3BC": "actor", "CQL": "critic", "IQL": "actor", "FQL": "teacher"}


def hearer(name: str, seam: str) -> str:
    """The group whose gradient an answer should change."""
    if seam in ("bootstrap", "td_weight", "critic_rows"):
        return "critic"
    if seam in ("behavior_action", "sample_weight"):
        return IMITATES[name]
    return "value" if seam == "value_action" else LEARNERS[name].facts().constrained


@each_seam
def test_every_seam_that_is_asked_is_heard_where_it_should_be(name, seam):
    """In the first gradient of one group alone, and in the trained parameters."""
    plain, probed = build(LEARNERS[name]), build(LEARNERS[name], Probe(seam=seam, by=0.5))
    plain.run(1), probed.run(1)
    one, two = ({n: t for n, t in engine.state().items() if "exp_avg" in n} for engine in (plain, probed))
    heard = {tensor.split("/")[1] for tensor in different(one, two)}
    follows = {"actor"} if name == "TD3BC" else set()  # its actor steps on the new critic
    assert hearer(name, seam) in heard
    assert heard <= {hearer(name, seam)} | follows
    plain.run(3), probed.run(3)
    assert hearer(name, seam) in groups(different(learned(plain), learned(probed)))


@each_seam
def test_a_neutral_answer_changes_nothing(name, seam):
    learner = LEARNERS[name]
    assert not different(learned(trained(learner)), learned(trained(learner, Probe(seam=seam))))


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if seam != "tradeoff"])
def test_a_neutral_answer_changes_nothing_while_the_trade_off_is_learned(seam):
    for learner in LEARNERS.values():
        if seam in learner.facts().seams:
            one, two = (trained(learner, ASPC(interval=1), *probe, steps=2) for probe in ((), (Probe(seam=seam),)))
            assert not different(learned(one), learned(two))


def test_every_seam_is_asked_by_some_learner():
    """Apart from query_action, which adapters ask each other."""
    assert {seam for _, seam in ASKED} == set(SEAMS) - {"query_action"}


def test_query_actions_reach_whoever_asks():
    @dataclass(frozen=True)
    class Query(Adapter):
        at: float = 0.0

        def query_action(self, v):
            return [torch.full_like(v.a, self.at)]

    queried = seen(
        LEARNERS["CQL"], Query(at=0.25), Query(name="other", at=0.5), what=lambda v: torch.stack(v.query_action())
    )
    assert queried[0, :, 0, 0].tolist() == [0.25, 0.5]


# -- absent -----------------------------------------------------------------------------------------------------------


@each_learner
def test_an_adapter_that_answers_nothing_is_not_noticed(learner):
    plain, beside = learned(trained(learner)), learned(trained(learner, Bystander()))
    assert len(beside) > len(plain)
    assert not different(plain, {name: beside[name] for name in plain})


@each_learner
def test_an_adapter_removed_is_an_adapter_absent(learner):
    less = Stack(learner, (Probe(seam="bootstrap", by=0.5), Bystander(), FixedTradeoff(value=2.0)))
    less = less.without("probe", "bystander")
    assert less == Stack(learner, (FixedTradeoff(value=2.0),))
    one, two = trained(less.learner, *less.adapters), trained(learner, FixedTradeoff(value=2.0))
    assert not different(learned(one), learned(two))


# -- order ------------------------------------------------------------------------------------------------------------


@each_learner
def test_the_order_of_products_does_not_matter(learner):
    products = [seam for seam in learner.facts().seams if SEAMS[seam].combine == "product"]
    one = [Probe(name=f"one_{seam}", seam=seam, by=0.3) for seam in products]
    two = [Probe(name=f"two_{seam}", seam=seam, by=0.7) for seam in products]
    assert not different(learned(trained(learner, *one, *two)), learned(trained(learner, *reversed(two), *one)))


@each_learner
def test_the_order_of_added_rows_does_not_matter(learner):
    rows = [Probe(name=f"rows_{i}", seam="critic_rows", by=by) for i, by in enumerate((0.2, 0.5, 0.9))]
    one, two = (trained(learner, *order, dtype=torch.float64) for order in (rows, rows[::-1]))
    assert largest_difference(learned(one), learned(two)) < 1e-12


@dataclass(frozen=True)
class Doubled(Adapter):
    """Twice the answer so far."""

    def bootstrap(self, v, observation, site, batch, default):
        return 2 * default()

    def behavior_action(self, v, default):
        return 2 * default()


@dataclass(frozen=True)
class Replaced(Adapter):
    """A bootstrap of its own."""

    replaces = frozenset({"bootstrap"})

    def bootstrap(self, v, observation, site, batch, default):
        return v.r + 1


def test_a_composed_answer_takes_the_one_before_it():
    learner, plus = LEARNERS["TD3BC"], Probe(seam="behavior_action", by=0.5)
    assert torch.equal(
        *(
            seen(learner, plus, Doubled(), what=what)
            for what in (lambda v: v.behavior_action(), lambda v: 2 * (v.a + 0.5))
        )
    )
    assert torch.equal(
        *(
            seen(learner, Doubled(), plus, what=what)
            for what in (lambda v: v.behavior_action(), lambda v: 2 * v.a + 0.5)
        )
    )


@pytest.mark.parametrize("adapters", [(Replaced(), Doubled()), (Doubled(), Replaced())])
def test_who_replaces_an_answer_swallows_no_one_elses(adapters):
    difference = seen(LEARNERS["TD3BC"], *adapters, what=lambda v: v.bootstrap(v.s2, "site", v.batch) - 2 * (v.r + 1))
    assert (difference == 0).all()


def test_an_answer_that_swallows_the_others_says_so():
    class Swallowing(Doubled):
        def behavior_action(self, v, default):
            return v.a + 1

    asked = lambda v: v.behavior_action()  # noqa: E731
    with pytest.raises(StackError, match="'behavior_action' without calling default().*replaces = frozenset"):
        seen(LEARNERS["TD3BC"], Swallowing(), what=asked)

    class Declared(Swallowing):
        replaces = frozenset({"behavior_action"})

    assert torch.equal(seen(LEARNERS["TD3BC"], Declared(), what=asked), seen(LEARNERS["TD3BC"], what=lambda v: v.a + 1))


# -- what is refused --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unscaled(TD3BC):
    """A learner without a trade-off."""

    def facts(self):
        return replace(super().facts(), tradeoff=None)


@dataclass(frozen=True)
class TwiceStepped(TD3BC):
    """A learner that steps a group twice."""

    again: str = "critic"

    def stages(self, phase):
        return (*super().stages(phase), Stage("again", (Update(self.again, self.regression),)))


@dataclass(frozen=True)
class Renamed(TinyIQL):
    """A learner that calls its critics otherwise."""

    def stages(self, phase):
        (stage,) = super().stages(phase)
        return (stage._replace(updates=tuple(u._replace(group=u.group.replace("critic", "q")) for u in stage.updates)),)


@dataclass(frozen=True)
class Late(Bystander):
    """Wants the constrained stage's slot, but not at its times."""

    def stages(self, facts, phase):
        return tuple(
            AdapterStage(slot, stage._replace(every=2))
            for slot, stage in super().stages(facts, phase)
            if slot == "with"
        )


REFUSED: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "unasked seam": (
        (TinyCQL(), Probe(seam="sample_weight")),
        ["Probe (name 'probe')", "'sample_weight'", "TinyCQL never asks", "answers()", "another learner"],
    ),
    "no seam": ((TinyCQL(), Probe(seam="nonsense")), ["Probe (name 'probe')", "'nonsense'", "the seams are"]),
    "two trade-offs": (
        (TD3BC(), ASPC(), FixedTradeoff()),
        ["ASPC (name 'aspc')", "FixedTradeoff (name 'fixedtradeoff')", "'tradeoff'", "remove one"],
    ),
    "two constraints": (
        (TD3BC(), Probe(name="one", seam="constraint"), Probe(name="two", seam="constraint")),
        ["'one'", "'two'", "'constraint'", "remove one"],
    ),
    "two replacing bootstraps": (
        (TD3BC(), Replaced(), Replaced(name="other")),
        ["'replaced'", "'other'", "'bootstrap'", "remove one"],
    ),
    "same names": (
        (TD3BC(), Probe(seam="bootstrap"), Probe(seam="td_weight")),
        ["Probe (name 'probe')", "share one name", "Probe(name='probe_2')"],
    ),
    "same names of different classes": (
        (TD3BC(), Probe(), Doubled(name="probe")),
        ["Probe (name 'probe')", "Doubled (name 'probe')", "Doubled(name='probe_2')"],
    ),
    "class of learner": ((TD3BC,), ["learner", "the class TD3BC", "write TD3BC()"]),
    "class of adapter": ((TD3BC(), ASPC), ["adapter", "the class ASPC", "write ASPC()"]),
    "learner among adapters": ((TD3BC(), TinyIQL()), ["must be an adapter", "TinyIQL"]),
    "adapter for learner": ((ASPC(),), ["must be a learner", "ASPC"]),
    "no trade-off": (
        (Unscaled(), ASPC()),
        ["ASPC (name 'aspc')", "Unscaled", "none to set", "configure the learner", "remove the adapter"],
    ),
    "trade-off learned already": (
        (TinyCQL(lagrange=True), ASPC()),
        ["ASPC (name 'aspc')", "TinyCQL", "adapts it itself", "switch that off", "remove the adapter"],
    ),
    "group stepped twice": ((TwiceStepped(),), ["'critic'", "'again'", "one update"]),
    "constrained group stepped twice": ((TwiceStepped(again="actor"),), ["TwiceStepped", "'actor'", "not 2"]),
    "slot of a critic that is not there": (
        (Renamed(), Bystander()),
        ["Bystander (name 'bystander')", "'critic'", "Renamed", "another slot"],
    ),
    "slot with an interval of its own": ((TinyIQL(), Late()), ["Late (name 'late')", "'with'", "TinyIQL", "interval"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_both_names_and_a_way_out(case):
    parts, words = REFUSED[case]
    with pytest.raises(StackError) as refused:
        Stack(parts[0], parts[1:])
    assert not [word for word in words if word not in str(refused.value)], str(refused.value)
