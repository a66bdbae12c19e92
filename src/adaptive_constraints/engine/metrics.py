"""Scalars of a run, summed on the device: averages at log points, and the first non-finite term of each seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.engine.state import grouped, prefixed, under


class Failure(NamedTuple):
    """Where a seed was lost."""

    step: int
    term: str
    """The first logged quantity that was not finite, such as ``critic/loss``."""


class _Group(NamedTuple):
    names: tuple[str, ...]
    sums: Tensor
    """[M, S] float64"""
    added: Tensor
    """[] int64, on the host"""
    first_bad: Tensor
    """[M, S] int64, 0 = none"""

    def arrays(self, group: str) -> dict[str, Tensor]:
        """The live tensors by the names that a checkpoint has for them."""
        arrays = {"added": self.added}
        for row, name in enumerate(self.names):
            arrays |= {f"sums/{name}": self.sums[row], f"first_bad/{name}": self.first_bad[row]}
        return prefixed(group, arrays)


class Metrics:
    """Accumulates what stages log; reads nothing back to the host until asked."""

    def __init__(self, seeds: int, device: torch.device) -> None:
        self._seeds, self._device = seeds, device
        self._groups: dict[str, _Group] = {}
        self._counted: dict[str, int] = {}

    def add(self, group: str, values: Mapping[str, Tensor], step: Tensor) -> None:
        """Add one value [S] per name at this step []; ``group``, a word without a slash, always brings the same names.

        Done on the device, so that a graph can record it; `count` is its other half.
        """
        if group not in self._groups:
            self._groups[group] = self._new(tuple(values))
        held = self._groups[group]
        stacked = torch.stack([values[name] for name in held.names]).to(torch.float64)
        bad = ~stacked.isfinite() & (held.first_bad == 0)
        held.first_bad.copy_(torch.where(bad, step, held.first_bad))
        held.sums.add_(stacked)

    def count(self, group: str) -> None:
        """Remember that something was added to this group."""
        self._counted[group] = self._counted.get(group, 0) + 1

    def _settle(self) -> None:
        """Add up what was counted."""
        for group, count in self._counted.items():
            self._groups[group].added.add_(count)
        self._counted.clear()

    def flush(self) -> dict[str, list[float]]:
        """The average [S] of each name since the last flush."""
        self._settle()
        totals: dict[str, tuple[Tensor, int]] = {}
        for held in self._groups.values():
            for row, name in enumerate(held.names):
                total, count = totals.get(name, (torch.zeros(self._seeds, dtype=torch.float64), 0))
                totals[name] = (total + held.sums[row].cpu(), count + int(held.added))
            held.sums.zero_()
            held.added.zero_()
        return {name: (total / count).tolist() for name, (total, count) in totals.items() if count}

    def failures(self) -> dict[int, Failure]:
        """The first non-finite term of each lost seed, by position."""
        lost: dict[int, Failure] = {}
        for held in self._groups.values():
            for row, steps in enumerate(held.first_bad.tolist()):
                for seed, step in enumerate(steps):
                    if step and (seed not in lost or step < lost[seed].step):
                        lost[seed] = Failure(step, held.names[row])
        return lost

    def state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name."""
        self._settle()
        arrays: dict[str, Tensor] = {}
        for group, held in self._groups.items():
            arrays |= held.arrays(group)
        return arrays

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved state; raises `ValueError`, with everything as it was, where it is none."""
        groups: dict[str, _Group] = {}
        expected: dict[str, Tensor] = {}
        for group, arrays in grouped(state).items():
            groups[group] = self._new(tuple(under("sums", arrays)))
            expected |= groups[group].arrays(group)
        check_like(expected, state)
        if unknown := sorted(set(state) - set(expected)):
            raise ValueError(f"metrics of unknown meaning: {', '.join(unknown)}")
        for name, tensor in expected.items():
            tensor.copy_(state[name])
        if any(int(held.added) < 0 for held in groups.values()):
            raise ValueError("a sum of metrics has a negative number of terms")
        self._groups = groups
        self._counted.clear()

    def _new(self, names: tuple[str, ...]) -> _Group:
        size = (len(names), self._seeds)
        return _Group(
            names,
            sums=torch.zeros(size, dtype=torch.float64, device=self._device),
            added=torch.zeros((), dtype=torch.int64),
            first_bad=torch.zeros(size, dtype=torch.int64, device=self._device),
        )
