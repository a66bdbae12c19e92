"""Contestants: each names one loop, its shapes and its number of seeds; `build` makes it run.

Everything here is plain data, so that a contestant reaches its process by value; the libraries it needs are imported
there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Maker = Literal["plain", "d3rlpy", "jax", "ours", "floor"]
Half = Literal["products", "copies"]

PERIOD = 20
"""Steps after which work repeats (ASPC's meta step at its default interval): blocks hold whole periods."""
EPISODE = 1000
"""Rows per episode of the made data."""


class Unavailable(Exception):
    """A contestant cannot run here; the message says why."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a step; targets are stated at the defaults."""

    batch: int = 256
    width: int = 256
    state: int = 17
    action: int = 6
    rows: int = 100_000
    """Transitions in the data."""


@dataclass(frozen=True)
class Contestant:
    """One loop in a process of its own."""

    name: str
    maker: Maker
    seeds: int = 1
    shape: Shape = Shape()
    learner: str = "TD3BC"
    """Of ours: its name, and settings behind it as on the command line."""
    adapters: tuple[str, ...] = ()
    traced: bool = True
    """Take the fast path of ours. False: every step as it is written."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the matrix products of ours."""
    compiled: bool = False
    """Compile whole steps of ours, on CUDA the stages."""
    floor: Half = "products"
    """Half of the floor that is timed."""


@dataclass(frozen=True)
class Loop:
    """A contestant that is ready to run."""

    run: Callable[[int], int]
    """Runs at least this many steps, waits until they are done, and says how many they were."""
    device_memory: Callable[[], int | None] = lambda: None
    """Peak bytes on the accelerator; None on a CPU."""
    counts: tuple[float, float] | None = None
    """Floating-point operations and bytes of one step of the floor."""


def build(contestant: Contestant, device: str) -> Loop:
    """Make a contestant in this process; raises `Unavailable`."""
    loop: Loop = import_module(f"benchmarks.speed.{MODULES[contestant.maker]}").build(contestant, device)
    return loop


MODULES: dict[Maker, str] = {
    "plain": "plain_loop",
    "d3rlpy": "d3rlpy_loop",
    "jax": "jax_loop",
    "ours": "ours",
    "floor": "floor",
}


def transitions(shape: Shape) -> dict[str, Floats]:
    """Random transitions, the same for all contestants; what is in them does not matter to speed."""
    draw = np.random.default_rng(0)
    return {
        "observations": draw.standard_normal((shape.rows, shape.state), np.float32),
        "actions": draw.random((shape.rows, shape.action), np.float32) * 2 - 1,
        "rewards": draw.standard_normal(shape.rows, np.float32),
        "next_observations": draw.standard_normal((shape.rows, shape.state), np.float32),
        "terminals": np.zeros(shape.rows, np.float32),
    }
