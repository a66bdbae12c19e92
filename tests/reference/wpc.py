"""wPC on TD3+BC: a value beside the critics, and imitation where the first critic finds the data better than it."""

from __future__ import annotations

from torch import Tensor

from adaptive_constraints import WPC, Dataset
from adaptive_constraints.engine.engine import Engine

from ..helpers import resolved_of
from .common import Scalar, adam, give, one, take, update
from .td3bc import PlainTD3BC


class PlainWPC(PlainTD3BC):
    """V, the critics, and every second step the policy and the averages."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        (adapter,) = resolved_of(engine).adapters
        assert isinstance(adapter, WPC)
        self.value = Scalar(self.states, adapter.hidden, adapter.hidden, 1).to(self.dtype)
        take(self.value, one(engine.params["wpc.value"], self.position))
        self.value_optimizer = adam(self.value)
        self.shares: list[float] = []
        """The share of rows that each policy step imitates."""

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        value = give(one(engine.params["wpc.value"], self.position))
        return super().scalars(engine) + list(zip(self.value.parameters(), value, strict=True))

    def critic_step(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> None:
        y = r + 0.99 * (1 - d) * self.bootstrap(s2)
        update(self.value_optimizer, ((y - self.value(s)) ** 2).mean())
        super().critic_step(s, a, r, s2, d)

    def policy_loss(self, action: Tensor, s: Tensor, a: Tensor, alpha: Tensor | float) -> Tensor:
        weight = 1.0 * (self.critics[0](s, a) > self.value(s)).detach()
        self.shares.append(float(weight.mean()))
        q = self.critics[0](s, action)
        return -alpha / q.abs().mean().detach() * q.mean() + (weight[:, None] * (action - a) ** 2).mean()
