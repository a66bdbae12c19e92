"""PRDC on TD3+BC (arXiv 2306.06569): the nearest row by the distances to all rows, and its action imitated."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_constraints import PRDC, Dataset
from adaptive_constraints.engine.engine import Engine

from ..helpers import resolved_of
from .td3bc import PlainTD3BC


class PlainPRDC(PlainTD3BC):
    """TD3+BC whose target of imitation is looked up for the policy's action."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        (adapter,) = resolved_of(engine).adapters
        assert isinstance(adapter, PRDC)
        self.adapter = adapter
        self.keys = torch.cat([adapter.beta * self.columns["observation"], self.columns["action"]], 1)
        self.others = 0
        """Rows whose neighbour has another action than they."""

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        query = torch.cat([self.adapter.beta * s, action.detach()], 1)
        distance = torch.stack([((self.keys - key) ** 2).sum(1) for key in query])
        row = distance.argsort(1)[:, self.adapter.neighbor - 1]
        near = self.columns["action"][row]
        self.others += int((near != a).any(1).sum())
        q = self.critics[0](s, action)
        return -alpha / q.abs().mean().detach() * q.mean() + ((action - near) ** 2).mean()
