"""Minibatches of all seeds, gathered on the device from one packed table."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptive_constraints.training.noise import NoiseTables


class Batches:
    """Uniform minibatches with replacement; the rows of a tick are a pure function of (seed, tick)."""

    def __init__(
        self, table: Mapping[str, Tensor], columns: Mapping[str, Tensor], noise: NoiseTables, size: int
    ) -> None:
        """``table`` holds columns [N] or [N, C] that all seeds share, ``columns`` those of each seed [S, N, ...]."""
        self._rows = next(iter(table.values())).shape[0]
        self._shapes = {name: tensor.shape[1:] for name, tensor in table.items()}
        self._packed = torch.cat([tensor.reshape(self._rows, -1) for tensor in table.values()], 1)
        self._widths = [tensor.shape[1:].numel() for tensor in table.values()]
        self._columns, self._noise, self._size = columns, noise, size

    def at(self, tick: int) -> dict[str, Tensor]:
        """Columns [S, B, ...] of this tick's minibatches."""
        index = self._noise.at(tick, "index", "batch", (self._size,), self._rows)
        seeds = index.shape[0]
        gathered = self._packed.index_select(0, index.reshape(-1)).view(seeds, self._size, -1)
        split = torch.split(gathered, self._widths, -1)
        batch = {
            name: part.reshape(seeds, self._size, *shape)
            for part, (name, shape) in zip(split, self._shapes.items(), strict=True)
        }
        each = torch.arange(seeds, device=index.device)[:, None]
        return batch | {name: column[each, index] for name, column in self._columns.items()}
