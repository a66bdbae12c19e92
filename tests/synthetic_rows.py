"""Made-up rows of a bench run, for tests of reports: nothing here was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adaptive_constraints.experiments.rows import Published, ResultRow, SuiteRecord, write_rows, write_suite

LEVELS = {"TD3BC": 45.0, "IQL": 40.0, "ASPC": 9.0, "ANQ": 3.0, "SSAR": 1.0}
"""Mean score of a learner, and what an adapter adds to it."""
QUANTITIES = {
    "ASPC": {"aspc/scale": 2.5},
    "SSAR": {f"ssar/weight_{q}": q / 50 for q in (10, 50, 90)},
    "ANQ": {},
}
HOPPER, MAZE = "bundled:hopper", "npz:maze/umaze.npz"


def name(part: str) -> str:
    """``ASPC`` of ``ASPC(interval=5)``."""
    return part.partition("(")[0]


def row(learner: str, adapters: Sequence[str], data: str, seed: int, **changed: object) -> ResultRow:
    """One seed: a curve that rises to its level, with noise that only depends on what it is of."""
    stack = " + ".join([learner, *adapters])
    draw = np.random.default_rng([seed, *f"{stack} on {data}".encode()])
    level = sum(LEVELS[name(part)] for part in (learner, *adapters)) + 6 * draw.normal() + 15 * (data == HOPPER)
    steps = np.arange(1, 21) * 1_000
    values = level * (1 - np.exp(-steps / 4_000)) + 2 * draw.normal(size=20)
    series = {
        quantity: [steps.tolist(), (start * np.exp(-steps / 15_000 + 0.1 * draw.normal())).tolist()]
        for adapter in adapters
        for quantity, start in QUANTITIES[name(adapter)].items()
    }
    made = {
        "suite": "synthetic", "cell": f"{stack}-{data}".replace(" ", "").replace(":", "-").replace("/", "-"),
        "stack": stack, "learner": learner, "adapters": list(adapters), "spec": {"learner": learner},
        "data": {"reference": data, "name": data, "fingerprint": data[::-1], "rows": 50_000, "episodes": 300,
                 "regenerated": False},
        "reference": {"random": 20.0, "expert": 3200.0, "source": "made up"},
        "seed": seed, "steps": 20_000, "step": 20_000, "lost": None, "measure": "score",
        "last": float(values[-1]), "best": float(values.max()), "last_ten": float(values[-10:].mean()),
        "evaluations": [{"step": int(t), "value": float(v), "returns": [float(v) * 32] * 2}
                        for t, v in zip(steps, values, strict=True)],
        "series": series, "steps_per_second": 120.0 + 10 * len(adapters), "seconds": 170.0, "wall_seconds": 190.0,
        "peak_memory": 900 * 2**20, "device": "cpu (made up)", "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "commit": {"hash": "0123456789abcdef", "dirty": False}, "threads": 1,
        "command": f"adaptive-constraints train --data {data} --learner {learner} --adapters {' '.join(adapters)}",
    }  # fmt: skip
    return made | changed


def lost(of: ResultRow, step: int = 5_000) -> ResultRow:
    """The same seed, had its losses ceased to be finite at ``step``."""
    kept = [evaluation for evaluation in of["evaluations"] if evaluation["step"] < step]
    gone = {"lost": {"step": step, "term": "critic"}, "step": step, "last": None, "best": None, "last_ten": None}
    return of | gone | {"evaluations": kept}


def in_returns(of: ResultRow) -> ResultRow:
    """The same seed where no reference returns are known: mean returns instead of scores."""
    return of | {"measure": "return", "reference": None}


def grid(
    learners: Sequence[str] = ("TD3BC", "IQL"),
    subsets: Sequence[Sequence[str]] = ((), ("ASPC",), ("ANQ",), ("ANQ", "ASPC")),
    data: Sequence[str] = (HOPPER, MAZE),
    seeds: int = 4,
) -> list[ResultRow]:
    """Every learner with every subset on every data set."""
    return [row(one, some, on, seed) for one in learners for some in subsets for on in data for seed in range(seeds)]


def folder(at: Path, rows: Sequence[ResultRow], published: Sequence[Published] = (), **changed: object) -> Path:
    """A results folder that holds ``rows`` and planned as much."""
    cells: dict[str, Mapping[str, object]] = {}
    for row_ in rows:
        kept = {key: row_[key] for key in ("cell", "stack", "learner", "adapters", "steps")}
        seeds = [other["seed"] for other in rows if other["cell"] == row_["cell"]]
        cells[row_["cell"]] = kept | {"data": row_["data"]["reference"], "seeds": seeds}
    record = {
        "suite": "synthetic", "about": "Made-up scores.", "command": "adaptive-constraints bench synthetic",
        "commit": {"hash": "0123456789abcdef", "dirty": False}, "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "published": list(published), "cells": list(cells.values()),
    }  # fmt: skip
    planned: SuiteRecord = record | changed  # type: ignore[assignment]
    write_suite(at, planned)
    write_rows(at, rows)
    return at
