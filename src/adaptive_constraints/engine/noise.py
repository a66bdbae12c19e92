"""Noise as a pure function of (seed, site, step, index): no generator state to save, shift or share.

A counter hash (the finaliser of SplitMix64) on int64 tensors gives 64 random bits per index; Box-Muller makes them
normal. Everything is computed in float64 and then rounded, so a draw is the same in every precision, on every
device, alone or beside other seeds, and drawing many steps ahead changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from adaptive_constraints.core.types import Draw

AHEAD_ON_CPU, AHEAD = 1 << 19, 1 << 22
"""Numbers drawn ahead at once and per site, on a CPU and elsewhere, where launching the hash is what costs."""


def signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = signed(0x9E3779B97F4A7C15)
_MIX1 = signed(0xBF58476D1CE4E5B9)
_MIX2 = signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own shift keeps the sign)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of int64 whose output looks random."""
    x = x.bitwise_xor(_shift(x, 30)).mul_(_MIX1)
    x = x.bitwise_xor_(_shift(x, 27)).mul_(_MIX2)
    return x.bitwise_xor_(_shift(x, 31))


def bits(seeds: Tensor, site: str, steps: Tensor, count: int) -> Tensor:
    """Random int64 [T, S, count] for seeds [S] at steps [T]."""
    key = mix(mix(seeds * _GOLDEN + 1) ^ zlib.crc32(site.encode()))
    state = mix(key[None, :] ^ mix(steps[:, None] * _GOLDEN + 2))
    index = torch.arange(count, device=seeds.device) * _GOLDEN
    return mix(state[..., None] + index)


def uniform(seeds: Tensor, site: str, steps: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uniform draws in [0, 1) with 24 bits (exact in float32); [T, S, *shape]."""
    raw = bits(seeds, f"uniform/{site}", steps, prod(shape))
    return (_shift(raw, 40).to(torch.float64) * 2.0**-24).to(dtype).view(*raw.shape[:2], *shape)


def normal(seeds: Tensor, site: str, steps: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normal draws; [T, S, *shape]."""
    raw = bits(seeds, f"normal/{site}", steps, 2 * prod(shape))
    unit = (_shift(raw, 11).to(torch.float64) + 0.5) * 2.0**-53
    radius = torch.sqrt(-2 * torch.log(unit[..., 0::2]))
    draws = radius * torch.cos(2 * torch.pi * unit[..., 1::2])
    return draws.to(dtype).view(*raw.shape[:2], *shape)


def fractions(seeds: Tensor, site: str, steps: Tensor, count: int) -> Tensor:
    """What row numbers are made of: uniform draws in [0, 1) with 53 bits; float64 [T, S, count]."""
    return _shift(bits(seeds, f"index/{site}", steps, count), 11).to(torch.float64) * 2.0**-53


def indices(seeds: Tensor, site: str, steps: Tensor, count: int, rows: int) -> Tensor:
    """Row numbers uniform in [0, rows); int64 [T, S, count]."""
    return (fractions(seeds, site, steps, count) * rows).long()


@dataclass
class _Chunk:
    """Draws of some steps in a row."""

    number: int
    """Which: the one of steps ``number * length`` and up."""
    values: Tensor
    """[length, S, *shape]"""


class NoiseTables:
    """Draws ahead of time for all seeds, a chunk of steps at once."""

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        namespace: str = "",
        clock: Tensor | None = None,
    ) -> None:
        """``namespace`` stands before every site.

        ``clock`` [] int64 is the step on the device: draws are then found by it and not by the host's number, so that
        a recorded graph reads those of the step in which it is replayed (see `refill`).
        """
        self.seeds = len(seeds)
        self._seeds = torch.tensor([signed(seed) for seed in seeds], dtype=torch.int64, device=device)
        self._dtype, self._namespace, self._clock = dtype, namespace, clock
        self._ahead = AHEAD_ON_CPU if device.type == "cpu" else AHEAD
        self._chunks: dict[Draw, _Chunk] = {}
        self.fills = 0
        """How often a chunk was drawn."""
        self.read: set[Draw] = set()
        """What was read since somebody cleared this."""

    def at(self, step: int, kind: str, site: str, shape: tuple[int, ...], rows: int = 0) -> Tensor:
        """The draw [S, *shape] of this step.

        ``kind`` is normal, uniform, index (row numbers below ``rows``), or fraction (what row numbers are made of, for
        tables whose number of rows changes from step to step).
        """
        draw = Draw(kind, site, shape, rows)
        self.read.add(draw)
        self._fill(step, draw)
        return self.of_step(self._chunks[draw].values, step)

    def of_step(self, ahead: Tensor, step: int) -> Tensor:
        """Select this step's entry from a prefetched chunk [length, ...], by the device clock if there is one."""
        if self._clock is None:
            return ahead[step % len(ahead)]
        return ahead.index_select(0, (self._clock % len(ahead)).view(1))[0]

    def on(self, device: torch.device) -> NoiseTables:
        """The same draws made on another device, found by the host's number of the step."""
        twin = NoiseTables((), device, self._dtype, self._namespace)
        twin.seeds, twin._seeds = self.seeds, self._seeds.to(device)
        return twin

    def refill(self, step: int, draws: Iterable[Draw]) -> range:
        """Make sure that these draws of this step stand where `at` has read them before.

        Returns the steps for which they stand there as long as `fills` does not change.
        """
        first, end = 0, step + 1 + (1 << 62)
        for draw in draws:
            length = self._fill(step, draw)
            start = step - step % length
            first, end = max(first, start), min(end, start + length)
        return range(first, end)

    def _fill(self, step: int, draw: Draw) -> int:
        """Draw the chunk of this step, if it is another; steps in a chunk."""
        chunk = self._chunks.get(draw)
        length = self._length(draw.shape) if chunk is None else len(chunk.values)
        number = step // length
        if chunk is None:
            self.fills += 1
            self._chunks[draw] = _Chunk(number, self._draw(draw, number * length, length))
        elif chunk.number != number:
            self.fills += 1
            chunk.number = number
            chunk.values.copy_(self._draw(draw, number * length, length))  # in place: graphs read it there
        return length

    def _length(self, shape: tuple[int, ...]) -> int:
        """Steps in a chunk."""
        return max(1, min(256, self._ahead // max(1, prod(shape) * len(self._seeds))))

    def _draw(self, draw: Draw, first: int, length: int) -> Tensor:
        kind, site, shape, rows = draw
        steps = torch.arange(first, first + length, device=self._seeds.device)
        site = self._namespace + site
        if kind == "index":
            return indices(self._seeds, site, steps, prod(shape), rows).view(length, len(self._seeds), *shape)
        if kind == "fraction":
            return fractions(self._seeds, site, steps, prod(shape)).view(length, len(self._seeds), *shape)
        draws = normal if kind == "normal" else uniform
        return draws(self._seeds, site, steps, shape, self._dtype)
