"""The seams between learners and adapters: who is heard, who is not, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints import (
    ASPC,
    Adapter,
    AdapterStage,
    Average,
    ExtraRows,
    FixedTradeoff,
    MetaLoss,
    Prepared,
    Stage,
    Update,
)
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import SEAMS
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp
from adaptive_constraints.testing import Probe

from .helpers import build, different, largest_difference, learned, resolved_of, seen, trained
from .sketches import LEARNERS, TinyCQL, TinyIQL, each_learner

ASKED = [(name, seam) for name, learner in LEARNERS.items() for seam in sorted(learner.facts().seams)]
each_seam = pytest.mark.parametrize(("name", "seam"), ASKED)


def groups(names: list[str]) -> set[str]:
    """The groups of parameters among tensors' names."""
    return {name.split("/")[1] for name in names if name.startswith("params")}


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

    found = seen(
        LEARNERS["CQL"], Query(at=0.25), Query(name="other", at=0.5), what=lambda v: torch.stack(v.query_action())
    )
    assert found[0, :, 0, 0].tolist() == [0.25, 0.5]


# -- absent -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bystander(Adapter):
    """Networks, stages in every slot, noise, buffers and prepared columns of its own; answers no seam."""

    def prepare(self, preparation):
        return Prepared(columns={"number": torch.arange(len(preparation.data)).float()})

    def init(self, spec, facts, generator):
        return {slot: {"w": torch.randn(spec.observation_dim, generator=generator)} for slot in SLOTS}

    def buffers(self, spec, facts):
        return {"count": torch.zeros(())}

    def advance(self, v):
        return {"count": v.buffers[self.name]["count"] + v.normal("count", ()) + v.batch[f"{self.name}.number"].mean()}

    def stages(self, facts, phase):
        def loss(p, v):
            return ((v.s + v.normal("bystander", v.s.shape)) @ p["w"] - v.r).square().mean()

        return tuple(AdapterStage(slot, Stage(slot, (Update(self.group(slot), loss),))) for slot in SLOTS)


SLOTS = ("start", "critic", "with", "end")


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
    one, two = (trained(learner, *each, dtype=torch.float64) for each in (rows, rows[::-1]))
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


# -- gradients --------------------------------------------------------------------------------------------------------


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
        found = 1 + 0.1 * torch.tanh(sum(tensor.mean() for group in v.p.values() for tensor in group.values()))
        return found.detach() if self.cut else found

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
    plain, probed, blind = (trained(learner, each(**settings), steps=1) for each in (Plain, Probe, Blind))
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


# -- mean-normalised weights ----------------------------------------------------------------------------------------


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
    found = seen(
        LEARNERS["TD3BC"], ASPC(), Probe(seam="constraint_weight", by=0.5), what=lambda v: v.constraint_weight()
    )
    assert float(found.mean()) == pytest.approx(1, rel=1e-6)
    assert float(found.max() / found.min()) == pytest.approx(1.5, rel=1e-6)


def test_tempered_exponents():
    """The weight divides, floored at 1e-3."""
    for by, divisor in ((0.0, 1), (1.0, 2), (-1.0, 1e-3)):
        for per_row in (True, False):
            weighted = Weighted(by=1 + by, per_row=per_row)
            found = seen(LEARNERS["IQL"], weighted, what=lambda v, d=divisor: v.tempered(v.r) - v.r / d)
            assert found.abs().max() < 1e-3 / divisor * 1e-3


# -- the shared value -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader(Adapter):
    """Reads the state value."""

    tau: float | None = 0.8

    def expectile(self, facts):
        return self.tau

    def td_weight(self, v):
        return 1 + 0.1 * torch.tanh(v.value(v.s).mean())


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


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [*LEARNERS.values(), TinyIQL(clip=0.4)], ids=[*LEARNERS, "clipped"])
def test_seeds_together_are_seeds_alone(learner):
    options: dict[str, Any] = {"steps": 20, "dtype": torch.float64}
    together = trained(learner, ASPC(interval=2), seeds=(5, 0), **options)
    for position, seed in enumerate(together.seeds):
        alone = trained(learner, ASPC(interval=2), seeds=(seed,), **options)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


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
    eager, traced = (trained(learner, *adapters, seeds=seeds, steps=9, traced=each) for each in (False, True))
    assert len(traced.traced) >= 4 and all(traced.traced.values()), "stages, with and without meta step, and its two"
    assert not any(eager.traced.values())
    assert not different(learned(eager), learned(traced))
    assert eager.metrics.flush() == traced.metrics.flush()


# -- stages -----------------------------------------------------------------------------------------------------------


def steps(engine: Engine, group: str) -> int:
    """How often a group was stepped."""
    return int(engine.state()[f"adam/{group}/bias0/step"])


@dataclass(frozen=True)
class Slow(TD3BC):
    """Updates its actor at every third step, with averages at times of their own."""

    def stages(self, phase):
        critic, actor = super().stages(phase)
        averages = (Average("critic", 0.5, every=2), Average("actor", 0.1, start=7))
        return (critic, actor._replace(every=3, averages=averages))


def test_intervals_of_stages_and_averages():
    """Averages run with their stage, at multiples of their own interval, from their start on."""
    engine = build(Slow(hidden=4, batch_size=8), ASPC(interval=2), dtype=torch.float64)
    for step in range(1, 13):
        before = learned(engine)
        engine.run(1)
        after = learned(engine)
        assert (steps(engine, "critic"), steps(engine, "actor")) == (step, step // 3)
        stepped = int(engine.state()["adam/aspc.scale/rho/step"])
        assert stepped == step // 6, "an outer step per two updates of the actor"
        due = {"critic": 0.5 if step % 6 == 0 else 0.0, "actor": 0.1 if step % 3 == 0 and step >= 7 else 0.0}
        for group, rate in due.items():
            for name in engine.targets[group]:
                expected = (1 - rate) * before[f"targets/{group}/{name}"] + rate * after[f"params/{group}/{name}"]
                torch.testing.assert_close(after[f"targets/{group}/{name}"], expected, rtol=0, atol=1e-15)


Seen = list[tuple[str, dict[str, Tensor]]]


@dataclass(frozen=True)
class Slots(Bystander):
    """A bystander that notes when it is asked for a loss, and what it sees then."""

    notes: Seen = field(default_factory=list, compare=False)

    def stages(self, facts, phase):
        def noting(slot, update):
            def loss(p, v):
                self.notes.append((slot, {name: v.p[name]["weight0"].clone() for name in ("critic", "actor")}))
                return update.loss(p, v)

            return update._replace(loss=loss)

        return tuple(
            AdapterStage(slot, stage._replace(updates=tuple(noting(slot, update) for update in stage.updates)))
            for slot, stage in reversed(super().stages(facts, phase))
        )


def test_slots_run_around_the_stages_they_name():
    """start, critic's stage, critic, constrained stage with `with`, end; each sees what was stepped before it."""
    slots = Slots()
    engine = build(LEARNERS["TD3BC"], slots)
    stages = [(stage.name, [update.group for update in stage.updates]) for stage in resolved_of(engine).stages]
    assert stages == [
        ("start", ["slots.start"]),
        ("critic", ["critic"]),
        ("critic", ["slots.critic"]),
        ("actor", ["actor", "slots.with"]),
        ("end", ["slots.end"]),
    ]
    engine.run(1)
    slots.notes.clear()
    before = first_weights(engine)
    engine.run(1)
    after = first_weights(engine)
    assert [slot for slot, _ in slots.notes] == list(SLOTS)
    stepped = {"start": set(), "critic": {"critic"}, "with": {"critic"}, "end": {"critic", "actor"}}
    for slot, weights in slots.notes:
        for group in ("critic", "actor"):
            assert torch.equal(weights[group], (after if group in stepped[slot] else before)[group]), (slot, group)


def first_weights(engine: Engine) -> dict[str, Tensor]:
    """Of the critic and the actor of one seed."""
    return {group: engine.params[group]["weight0"][0].clone() for group in ("critic", "actor")}


@each_learner
def test_the_joined_stage_steps_with_the_constrained_one(learner):
    stages = Stack(learner, (Bystander(),)).resolve().stages
    (joined,) = [stage for stage in stages if learner.facts().constrained in [u.group for u in stage.updates]]
    assert "bystander.with" in [update.group for update in joined.updates]
    engine = trained(learner, Bystander(), steps=3)
    assert {int(engine.state()[f"adam/bystander.{slot}/w/step"]) for slot in SLOTS} == {3}


def test_the_outer_step_sees_other_groups_as_they_were():
    """Their steps, though of the same stage, follow it."""

    @dataclass(frozen=True)
    class Noting(ASPC, Bystander):
        def buffers(self, spec, facts):
            return super().buffers(spec, facts) | {"w": torch.zeros(spec.observation_dim)}

        def init(self, spec, facts, generator):
            return ASPC.init(self, spec, facts, generator) | Bystander.init(self, spec, facts, generator)

        def advance(self, v):
            return {}

        def meta_loss(self, v, k, before, after):
            found = super().meta_loss(v, k, before, after)
            return MetaLoss(found.loss, {**found.buffers, "w": v.p[self.group("with")]["w"]})

    engine = build(LEARNERS["TD3BC"], Noting(interval=1))
    engine.run(2)
    before = engine.params["noting.with"]["w"].clone()
    engine.run(1)
    assert torch.equal(engine.buffers["noting"]["w"], before)
    assert not torch.equal(engine.params["noting.with"]["w"], before)


# -- prepared ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foresight(Adapter):
    """Prepares columns and a model that tell the seed."""

    def prepare(self, preparation):
        rewards, seeds = preparation.table["reward"], torch.tensor(preparation.seeds).float()
        shifted = rewards + seeds[:, None]
        pairs = torch.stack([rewards.expand_as(shifted), shifted], 2)
        return Prepared({"common": rewards}, {"shifted": shifted, "pairs": pairs}, {"seed": seeds})


def test_prepared_columns_and_models_are_found_per_seed():
    def what(v):
        columns = v.batch["foresight.shifted"] - v.r, *(v.batch["foresight.pairs"] - v.r[:, None]).unbind(1)
        columns = *columns, v.batch["foresight.common"] - v.r
        return torch.stack([*(column.mean() for column in columns), v.frozen["foresight"]["seed"]])

    found = seen(LEARNERS["TD3BC"], Foresight(), what=what, seeds=(0, 3, 8))
    torch.testing.assert_close(found, torch.tensor([[s, 0.0, s, 0.0, s] for s in (0.0, 3.0, 8.0)]))


def test_buffers_advance_at_their_interval_and_per_seed():
    @dataclass(frozen=True)
    class Counting(Adapter):
        def buffers(self, spec, facts):
            return {"calls": torch.zeros(()), "noise": torch.zeros(())}

        def advance_every(self, facts, horizon):
            return 3

        def advance(self, v):
            return {"calls": v.buffers[self.name]["calls"] + 1, "noise": v.normal("here", ())}

    engine = build(LEARNERS["TD3BC"], Counting(), seeds=(0, 1))
    for step in range(1, 8):
        engine.run(1)
        assert engine.buffers["counting"]["calls"].tolist() == [step // 3] * 2
    assert float(engine.buffers["counting"]["noise"].diff()) != 0
