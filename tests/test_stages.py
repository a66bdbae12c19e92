"""Stages: their intervals and slots, what an outer step sees, buffers, prepared columns and models."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptive_constraints import ASPC, Adapter, AdapterStage, Average, MetaLoss, Prepared
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine.engine import Engine

from .helpers import build, learned, resolved_of, seen, trained
from .sketches import LEARNERS, each_learner
from .small_adapters import SLOTS, Bystander


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
            outer = super().meta_loss(v, k, before, after)
            return MetaLoss(outer.loss, {**outer.buffers, "w": v.p[self.group("with")]["w"]})

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

    shown = seen(LEARNERS["TD3BC"], Foresight(), what=what, seeds=(0, 3, 8))
    torch.testing.assert_close(shown, torch.tensor([[s, 0.0, s, 0.0, s] for s in (0.0, 3.0, 8.0)]))


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
