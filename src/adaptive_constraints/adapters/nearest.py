"""The row of the data nearest to a point, exactly, for many points at once, as part of a traced step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 1 << 15
"""Rows whose distances are held together: B * BLOCK numbers per seed."""
SPARE = 3
"""Groups of rows that are looked at again beyond those that must be."""


def nearest(points: Sequence[Tensor], rows: Sequence[Tensor], scales: Sequence[float], neighbor: int = 1) -> Tensor:
    """Numbers [B] of the rows at the smallest distance |(scale_1 point_1, ...) - (scale_1 row_1, ...)|.

    points: parts [B, C_i] of the points.
    rows: the same parts [N, C_i] of the rows.
    scales: the factor on each part.
    neighbor: 1 for the nearest, 2 for the second nearest, and so on.

    Matrix products find the few small groups of rows that the nearest may be in. Their distances are then taken as
    differences, since products lose digits where a distance is small against the numbers themselves.
    """
    count = len(rows[0])
    size = min(BLOCK, 1 << max(3, (count.bit_length() - 3) // 2))
    point = _joined(points, scales)
    # -2 point . row + |row|^2 as one product: the squared distance less |point|^2, which is the same for all rows.
    asked = torch.cat([-2 * point, torch.ones_like(point[..., :1])], -1)
    smallest = []
    for start in range(0, count, BLOCK):
        block = _joined([part[start : start + BLOCK] for part in rows], scales)
        score = asked @ torch.cat([block, block.square().sum(-1, keepdim=True)], -1).mT
        score = pad(score, (0, -len(block) % size), value=float("inf"))
        smallest.append(score.view(len(point), -1, size).amin(-1))
    groups = torch.cat(smallest, -1)
    groups = groups.topk(min(neighbor + SPARE, groups.shape[-1]), largest=False).indices
    candidates = (groups.unsqueeze(-1) * size + torch.arange(size, device=groups.device)).flatten(-2)
    found = _joined([part[candidates.clamp(max=count - 1)] for part in rows], scales)
    distance = (point.unsqueeze(-2) - found).square().sum(-1)
    distance = torch.where(candidates < count, distance, torch.inf)
    place = distance.topk(min(neighbor, count), largest=False).indices[..., -1:]
    return candidates.gather(-1, place).squeeze(-1)


def _joined(parts: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    return torch.cat([part if scale == 1 else scale * part for part, scale in zip(parts, scales, strict=True)], -1)


__all__ = ["nearest"]
