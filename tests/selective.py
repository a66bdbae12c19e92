"""SSAR that learns from a given w, and what it prepares for some data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from adaptive_constraints import SSAR, Dataset
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.pretraining.preparation import prepare

from .sketches import LEARNERS

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


@dataclass(frozen=True)
class Fixed(SSAR):
    """Learns from a given w."""

    name: str = "ssar"
    w: float = 0.0

    def margin(self, v):
        return torch.full_like(v.r, self.w)


def prepared(ssar: SSAR, data: Dataset, seeds=(0,), **preprocess):
    """Its columns and models on TD3+BC."""
    resolved = Stack(LEARNERS["TD3BC"], (ssar,)).resolve()
    return prepare(resolved, data, Preprocessor.fit(data, **preprocess), seeds, CPU)["ssar"]
