"""Minibatches of all seeds, gathered on the device from one packed table, which may grow or stay on the host."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.errors import StackError

Columns = dict[str, Tensor]
ROOM = 0.8
"""The share of a device's free memory that a table may take."""
WINDOW = 1 << 28
"""Bytes of minibatches that are sent ahead to a device which cannot hold the table."""


class StreamingWarning(UserWarning):
    """The data does not fit on the device."""


def batches_of(
    table: Mapping[str, Tensor],
    columns: Mapping[str, Tensor],
    noise: NoiseTables,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    growth: Growth | None = None,
    numbered: bool = False,
) -> Batches:
    """Minibatches of ``size`` rows from columns [N] or [N, C] that all seeds share, and those of each seed [S, N, ...].

    The rows stand on the device, or on the host where it has no room for them. ``numbered``: minibatches say which rows
    they are of.
    """
    rows = next(iter(table.values())).shape[0]
    shapes = {name: tensor.shape[1:] for name, tensor in table.items()}
    packed = _packed(table, rows, dtype)
    own = {name: column.to(dtype if column.is_floating_point() else column.dtype) for name, column in columns.items()}
    needed = sum(tensor.numel() * tensor.element_size() for tensor in (packed, *own.values()))
    free = room(device)
    if free is not None and needed > ROOM * free and growth is None:
        made: Batches = Streamed(packed, shapes, own, noise, size, device)
    else:
        packed, own = packed.to(device), {name: column.to(device) for name, column in own.items()}
        made = (
            Batches(packed, shapes, own, noise, size)
            if growth is None
            else Replay(packed, shapes, own, noise, size, growth)
        )
    made.numbered = numbered
    return made


def _packed(table: Mapping[str, Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """All columns side by side, [N, W]; the tensor that they are parts of already, if they are (`packed_table`)."""
    whole = next(iter(table.values()))._base
    widths = [column[:1].numel() if rows else column.shape[1:].numel() for column in table.values()]
    starts = [sum(widths[:number]) for number in range(len(widths))]
    if whole is not None and whole.dtype == dtype and whole.shape == (rows, sum(widths)) and whole.is_contiguous():
        placed = zip(table.values(), starts, strict=True)
        if all(
            column._base is whole and column.storage_offset() == start and column.stride(0) == sum(widths)
            for column, start in placed
        ):
            return whole
    packed = torch.empty(rows, sum(widths), dtype=dtype, device=next(iter(table.values())).device)
    for column, part in zip(table.values(), torch.split(packed, widths, 1), strict=True):
        part.copy_(column.reshape(rows, part.shape[1]))
    return packed


def room(device: torch.device) -> int | None:
    """Free bytes of a device's memory; None where data lies in the host's own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class Batches:
    """Uniform minibatches with replacement; the rows of a step are a pure function of (seed, step)."""

    def __init__(
        self,
        packed: Tensor,
        shapes: Mapping[str, torch.Size],
        columns: Mapping[str, Tensor],
        noise: NoiseTables,
        size: int,
    ) -> None:
        """``packed`` [N, W] holds the columns that all seeds share, in the order of ``shapes``.

        ``columns`` are those of each seed [S, N, ...].
        """
        self.rows = len(packed)
        self.packed, self._shapes = packed, dict(shapes)
        self._widths = [shape.numel() for shape in self._shapes.values()]
        self._columns, self._noise, self._size = dict(columns), noise, size
        self.numbered = False
        """Minibatches have a column "row": the numbers of their rows, `rows` for one that is not of the data."""

    @property
    def data(self) -> Tensor:
        """All rows of the data [N, W], on the device; `StackError` where they do not fit there."""
        return self.packed

    def __len__(self) -> int:
        """Rows of one seed that may be drawn."""
        return self.rows

    @property
    def collected(self) -> int:
        """Rows that each seed has added so far."""
        return 0

    def at(self, step: int) -> Columns:
        """Columns [S, B, ...] of this step's minibatches."""
        index = self._noise.at(step, "index", "batch", (self._size,), self.rows)
        return self._gather(index, index)

    def refill(self, step: int) -> None:
        """Make sure that what `at` reads of this step is on the device."""

    def select(self, rows: Tensor) -> tuple[Columns, Columns]:
        """Some rows, by number, of the shared columns and of each seed's."""
        rows = rows.to(self.packed.device)
        return self.unpack(self.packed[rows]), {name: column[:, rows] for name, column in self._columns.items()}

    def _gather(self, index: Tensor, seed_index: Tensor) -> Columns:
        """Rows [S, B] of the packed table, and of the columns of each seed."""
        seeds = torch.arange(len(index), device=index.device)[:, None]
        packed = self.packed.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        own = {name: column[seeds, seed_index] for name, column in self._columns.items()}
        return self.unpack(packed) | own | ({"row": seed_index} if self.numbered else {})

    def unpack(self, packed: Tensor) -> Columns:
        """The columns that all seeds share, [..., ...], of rows [..., W] of the packed table."""
        parts = torch.split(packed, self._widths, -1)
        shapes = self._shapes.items()
        return {
            name: part.reshape(*packed.shape[:-1], *shape) for part, (name, shape) in zip(parts, shapes, strict=True)
        }


class Streamed(Batches):
    """The same minibatches from a table that stays on the host: those of the next steps are sent together."""

    def __init__(
        self,
        packed: Tensor,
        shapes: Mapping[str, torch.Size],
        columns: Mapping[str, Tensor],
        noise: NoiseTables,
        size: int,
        device: torch.device,
    ) -> None:
        super().__init__(packed, shapes, columns, noise.on(packed.device), size)
        self._found, self._device = noise, device
        self._number: int | None = None
        self._window: Columns = {}
        """[length, S, B, ...]"""
        per_step = sum(tensor.numel() * tensor.element_size() for tensor in super().at(0).values())
        self._length = max(1, min(256, WINDOW // per_step))
        warnings.warn(
            f"the data ({packed.numel() * packed.element_size() / 2**30:.2f} GiB) does not fit in the free memory of "
            f"{device}, so it stays on the host, which gathers minibatches and sends them ahead: "
            f"{per_step / 2**20:.2f} MiB a step, {self._length} steps at once. Results are the same, training is "
            "slower; fewer seeds, smaller minibatches or a part of the data avoid it",
            StreamingWarning,
            stacklevel=2,
        )

    @property
    def data(self) -> Tensor:
        raise StackError(
            f"a part of the stack reads all rows of the data at once, which do not fit in the free memory of "
            f"{self._device}: take a part of the data, or a device with more memory"
        )

    def at(self, step: int) -> Columns:
        self.refill(step)
        return {name: self._found.of_step(window, step) for name, window in self._window.items()}

    def refill(self, step: int) -> None:
        number = step // self._length
        if number == self._number:
            return
        gathered = [super(Streamed, self).at(number * self._length + offset) for offset in range(self._length)]
        ahead = {name: torch.stack([batch[name] for batch in gathered]) for name in gathered[0]}
        for name, values in ahead.items():
            if name in self._window:
                self._window[name].copy_(values)  # in place: graphs read it there
            else:
                self._window[name] = values.to(self._device)
        self._number = number


@dataclass(frozen=True)
class Growth:
    """How a table grows by the rows that each seed collects."""

    capacity: int
    """Rows kept per seed; once there are more, the newest replaces the oldest."""
    values: Mapping[str, float]
    """The value of a collected row in each column that no environment gives."""
    symmetric: bool = False
    """Draw half of each minibatch (rounded down) from the fixed table and the rest from the collected rows, instead of
    drawing from both together."""


class Replay(Batches):
    """Minibatches from a fixed table and from rows that each seed collects; all seeds add theirs at the same time.

    The fixed table is stored once; the collected rows of seed 0, of seed 1, ... follow it. The rows of a step are a
    pure function of (seed, step, how many rows there are).
    """

    def __init__(
        self,
        packed: Tensor,
        shapes: Mapping[str, torch.Size],
        columns: Mapping[str, Tensor],
        noise: NoiseTables,
        size: int,
        growth: Growth,
    ) -> None:
        padded = {name: _padded(column, growth.values[name]) for name, column in columns.items()}
        super().__init__(packed, shapes, padded, noise, size)
        self.count = 0
        """Rows that each seed has collected so far, those replaced since among them."""
        self._growth, fixed, seeds = growth, packed, noise.seeds
        self._kept = torch.zeros((), dtype=torch.float64, device=packed.device)
        """Collected rows of a seed that may be drawn, on the device, where recorded graphs read it."""
        self.packed = fixed.new_zeros(self.rows + seeds * growth.capacity, fixed.shape[1])
        self.packed[: self.rows] = fixed
        self._collected = self.packed[self.rows :].view(seeds, growth.capacity, -1)
        self._first = torch.arange(seeds, device=fixed.device)[:, None] * growth.capacity
        """What a collected row's number grows by from one seed to the next."""

    @property
    def data(self) -> Tensor:
        return self.packed[: self.rows]

    def __len__(self) -> int:
        return self.rows + self._filled

    @property
    def collected(self) -> int:
        return self.count

    @property
    def _filled(self) -> int:
        """Collected rows of a seed that may be drawn."""
        return min(self.count, self._growth.capacity)

    def at(self, step: int) -> Columns:
        fraction = self._noise.at(step, "fraction", "batch", (self._size,))
        if self._growth.symmetric:
            fixed, own = fraction.split_with_sizes([self._size // 2, self._size - self._size // 2], -1)
            index = torch.cat([(fixed * self.rows).long(), self.rows + (own * self._kept).long()], -1)
        else:
            index = (fraction * (self.rows + self._kept)).long()
        return self._gather(torch.where(index < self.rows, index, index + self._first), index.clamp(max=self.rows))

    def add(self, row: Mapping[str, Tensor]) -> None:
        """One more row of every seed: columns [S, ...]; those that are missing get their set values."""
        self._write(self.count % self._growth.capacity, row)
        self.count += 1
        self._kept.fill_(self._filled)

    def amend(self, values: Mapping[str, Tensor], seeds: Tensor) -> None:
        """Change columns [S, ...] of the newest row of those ``seeds`` [S] that are True."""
        slot = (self.count - 1) % self._growth.capacity
        newest = self.unpack(self._collected[:, slot].clone())  # torch refuses to copy a part onto itself
        changed = {
            name: torch.where(seeds.view(-1, *[1] * (value.dim() - 1)), value, newest[name])
            for name, value in values.items()
        }
        self._write(slot, newest | changed)

    def newest(self, seed: int, rows: int) -> Columns:
        """Columns [T, ...] of the newest rows of one seed, by position, in order of time; T is at most ``rows``."""
        return self.unpack(self._collected[seed, self._slots(rows)])

    def rewrite(self, seed: int, values: Mapping[str, Tensor]) -> None:
        """Give columns [T, ...] of the newest T rows of one seed other values."""
        parts = dict(zip(self._shapes, torch.split(self._collected[seed], self._widths, -1), strict=True))
        for name, value in values.items():
            parts[name][self._slots(len(value))] = value.reshape(len(value), -1).to(parts[name])

    def _slots(self, rows: int) -> Tensor:
        """The places of the newest rows in the ring, in order of time."""
        kept = min(rows, self._filled)
        return torch.arange(self.count - kept, self.count, device=self.packed.device) % self._growth.capacity

    def _write(self, slot: int, row: Mapping[str, Tensor]) -> None:
        packed = self._collected[:, slot]
        for name, part in zip(self._shapes, packed.split_with_sizes(self._widths, -1), strict=True):
            part.copy_(row[name].reshape(part.shape)) if name in row else part.fill_(self._growth.values[name])

    def state(self) -> Columns:
        """The collected rows by column, and how many there have been."""
        return self.unpack(self._collected[:, : self._filled]) | {"count": torch.tensor(self.count)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the collected rows of a saved state; raises `ValueError`, with everything as it was, for others."""
        check_like({"count": torch.tensor(0)}, state)
        count = int(state["count"])
        if count < 0:
            raise ValueError(f"the number of collected rows cannot be {count}")
        filled = min(count, self._growth.capacity)
        rows = self.unpack(self._collected[:, :filled])
        check_like(rows, state)
        if unknown := sorted(set(state) - set(rows) - {"count"}):
            raise ValueError(f"collected columns of unknown meaning: {', '.join(unknown)}")
        packed = [state[name].flatten(2) if shape else state[name][..., None] for name, shape in self._shapes.items()]
        self.count = count
        self._kept.fill_(filled)
        self._collected[:, :filled] = torch.cat([column.to(self.packed) for column in packed], -1)


def _padded(column: Tensor, value: float) -> Tensor:
    """A seeds' column [S, N, ...] with one row more, which stands for every collected row."""
    return torch.cat([column, column.new_full((len(column), 1, *column.shape[2:]), value)], 1)


__all__ = ["Batches", "Columns", "Growth", "Replay", "Streamed", "StreamingWarning", "batches_of"]
