"""ILQ's operator on small tables: it contracts when applied twice, and a wrong model is limited."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints import ILQ
from adaptive_constraints.adapters.ilq import Imagined

STATES, ACTIONS, GAMMA = 5, 4, 0.9


class Table:
    """A random deterministic decision process, and ILQ's own target on tables of Q."""

    def __init__(self, seed: int, reward_error: float = 0.0) -> None:
        draw = np.random.default_rng(seed)
        self.reward = torch.tensor(draw.normal(size=(STATES, ACTIONS)))
        self.next = torch.tensor(draw.integers(STATES, size=(STATES, ACTIONS)))
        self.support = torch.tensor([sorted(draw.choice(ACTIONS, size=2, replace=False)) for _ in range(STATES)])
        imagined = self.reward + reward_error

        class OnTables(ILQ):
            def imagine(_, v, s, a):
                at = (s[:, 0].long(), a[:, 0].long())
                return Imagined(self.next[at].double()[:, None], imagined[at], torch.zeros(len(s)))

            def behavior(_, v, s):
                return self.support[s[:, 0].long()].T[..., None].double()

        self.ilq = OnTables(delta=0.25, name="ilq")

    def view(self, q: Tensor) -> SimpleNamespace:
        services = SimpleNamespace(discount=GAMMA, q=lambda p, s, a: p[s[:, 0].long(), a[:, 0].long()][None])
        return SimpleNamespace(
            frozen={"ilq": {"delta": torch.tensor(0.25)}},
            target={"critic": q},
            services=services,
            bootstrap=lambda s, site: q.max(1).values[s[:, 0].long()],
            log=lambda name, value: None,
        )

    def backup(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """T Q [STATES, ACTIONS], and where the limit decided."""
        s, a = (index.reshape(-1, 1).double() for index in torch.meshgrid(*map(torch.arange, q.shape), indexing="ij"))
        v = self.view(q)
        off = self.ilq.target(v, s, a).view_as(q)
        capped = (self.ilq.y_lmt(v, s) < self.ilq.y_img(v, s, a)).view_as(q)
        inside = torch.zeros_like(q, dtype=torch.bool).scatter(1, self.support, True)
        on = self.reward + GAMMA * q.max(1).values[self.next]
        return torch.where(inside, on, off), capped & ~inside


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max())


def test_applied_twice_the_operator_contracts_and_once_it_need_not():
    draw, once, twice = torch.Generator().manual_seed(0), [], []
    for seed in range(20):
        table = Table(seed)
        for size in (0.1, 1.0, 10.0):
            q1 = size * torch.randn(STATES, ACTIONS, generator=draw, dtype=torch.float64)
            q2 = q1 + torch.randn(STATES, ACTIONS, generator=draw, dtype=torch.float64)
            (a1, capped1), (a2, capped2) = table.backup(q1), table.backup(q2)
            once.append(distance(a1, a2) / distance(q1, q2))
            twice.append(distance(table.backup(a1)[0], table.backup(a2)[0]) / distance(q1, q2))
            free = ~(capped1 | capped2)
            assert distance(a1[free], a2[free]) <= GAMMA * distance(q1, q2) + 1e-12
    assert max(twice) <= GAMMA + 1e-12
    assert GAMMA + 0.01 < max(once) <= 1 + 1e-12


def test_an_error_of_the_model_is_limited():
    """A model that promises 1000 per step raises no value above the best of the behaviour, plus delta."""
    for seed in range(3):
        wrong, right = Table(seed, reward_error=1000.0), Table(seed)
        fixed_points = []
        for table in (wrong, right):
            q = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
            for _ in range(250):
                q = table.backup(q)[0]
            assert distance(q, table.backup(q)[0]) < 1e-5, "it has a fixed point"
            best = q.gather(1, table.support).max(1).values
            assert (q <= best[:, None] + 0.25 + 1e-5).all()
            fixed_points.append(q)
        values = [q.max(1).values for q in fixed_points]
        assert (fixed_points[0] >= fixed_points[1] - 1e-4).all() and distance(*values) <= 0.25 / (1 - GAMMA) + 1e-4
        unlimited = replace(wrong.ilq, limit=False)
        v, s = wrong.view(fixed_points[0]), torch.zeros(1, 1, dtype=torch.float64)
        assert unlimited.target(v, s, s) > 900
