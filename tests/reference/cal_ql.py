"""Cal-QL (arXiv 2303.05479) on CQL: returns-to-go in a loop over the rows, as lower bounds of the policy's values."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_constraints import CalQL, Dataset
from adaptive_constraints.engine.engine import Engine

from ..helpers import resolved_of
from .cql import PlainCQL


def returns_to_go(rewards: list[float], ends: list[bool], terminals: list[bool], discount: float, sparse: bool) -> list:
    """As CORL computes them: backwards, starting anew where an episode ends, and at a true end."""
    returns, after = [], 0.0
    for reward, end, terminal in zip(reversed(rewards), reversed(ends), reversed(terminals), strict=True):
        if end and not terminal and sparse:
            after = reward / (1 - discount)
        else:
            after = reward + (0.0 if end or terminal else discount * after)
        returns.append(after)
    return returns[::-1]


class PlainCalQL(PlainCQL):
    """CQL whose values of the policy's actions are raised to the return before they are pushed down."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        (adapter,) = resolved_of(engine).adapters
        assert isinstance(adapter, CalQL)
        rows = [self.columns["reward"].tolist(), data.episode_ends.tolist(), data.terminals.tolist()]
        returns = returns_to_go(*rows, 0.99, adapter.sparse)
        self.columns["return"] = torch.tensor(returns, dtype=torch.float32).to(self.dtype)  # prepared in float32
        self.raised = 0

    def bounded(self, q: Tensor) -> Tensor:
        (bound,) = self.rows("return")
        self.raised += int((q < bound).sum())
        return torch.maximum(q, bound)
