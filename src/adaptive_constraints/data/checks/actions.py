"""Checks of actions: numbers of choices, which are no vectors in a box."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaptive_constraints.data.checks.findings import Finding
from adaptive_constraints.data.columns import chunks
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.support.outside import DISCRETE

_FEW = 32
"""Numbers of choices are so few at most."""


def look_discrete(dataset: Dataset) -> bool:
    """Tell whether every action is of whole numbers from 0, of which there are several and few.

    Whole numbers on both sides of 0 are more often a controller that switches between bounds.
    """
    levels: set[float] = set()
    for part in chunks(len(dataset)):
        found = np.unique(dataset.actions[part])
        levels.update(found.tolist())
        if len(levels) > _FEW or not (found == np.round(found)).all() or (found < 0).any():
            return False
    return len(levels) > 1


def check_discrete(dataset: Dataset) -> Iterator[Finding]:
    """Whole numbers as actions, few of them: discrete actions, or one-hot codes of them."""
    if look_discrete(dataset):
        levels = np.unique(dataset.actions)
        shown = ", ".join(f"{level:g}" for level in levels[:4]) + (", ..." if len(levels) > 4 else "")
        message = f"every action is one of {len(levels)} whole numbers ({shown})"
        way_out = f"fine for a controller that switches between them; if they are numbers of choices, {DISCRETE}"
        yield Finding("warning", "discrete_actions", message, way_out)
