"""Adapters that several tests set beside others: who answer nothing, read the state value, or hold the trade-off."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adaptive_constraints import Adapter, AdapterStage, MetaStep, Prepared, Stage, Update

SLOTS = ("start", "critic", "with", "end")


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


@dataclass(frozen=True)
class Reader(Adapter):
    """Reads the state value."""

    tau: float | None = 0.8

    def expectile(self, facts):
        return self.tau

    def td_weight(self, v):
        return 1 + 0.1 * torch.tanh(v.value(v.s).mean())


@dataclass(frozen=True)
class Held(Adapter):
    """Sets the trade-off to a parameter that stays, by a meta step of rate 0; the outer loss is the subclass's."""

    def init(self, spec, facts, generator):
        return {"scale": {"k": torch.tensor(facts.tradeoff)}}

    def tradeoff(self, v, default):
        return v.p[self.group("scale")]["k"]

    def meta(self, facts):
        return MetaStep(self.group("scale"), lambda done, total: 0.0, 1)
