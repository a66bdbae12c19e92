"""Adapters that several tests set beside others: one that answers nothing, one that reads the state value."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adaptive_constraints import Adapter, AdapterStage, Prepared, Stage, Update

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
