"""Who stands side by side, and what the ratios between them should be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .contestant import Contestant, Maker, Shape
from .measure import Timing

SEEDS = (1, 2, 4, 8, 16)
SIZES = (64, 128, 256, 512, 1024)
SIZE, SMALL = 256, 64
"""The batch size and width of most targets, and of those for small networks."""
LEARNERS = ("IQL", "CQL", "DiffusionQL", "FQL")
ADAPTERS = ("ASPC", "SSAR", "ANQ", "ILQ")


def seeds_in_words(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def ours(
    seeds: int = 1,
    adapters: Sequence[str] = (),
    traced: bool = True,
    precision: Literal["float32", "bf16"] = "float32",
    learner: str = "",
    compiled: bool = False,
    size: int = SIZE,
) -> Contestant:
    """One of ours, named by what is special about it."""
    stack = " + ".join([learner or "ours", *(("all four",) if len(adapters) == len(ADAPTERS) else adapters)])
    special = [] if traced else ["eager"]
    special += ([] if precision == "float32" else [precision]) + (["compiled"] if compiled else [])
    return Contestant(
        ", ".join([" ".join([stack, *special]), seeds_in_words(seeds), *sized(size)]),
        "ours",
        seeds,
        shape_of(size),
        learner=learner or "TD3BC",
        adapters=tuple(adapters),
        traced=traced,
        precision=precision,
        compiled=compiled,
    )


def jax(seeds: int = 1, size: int = SIZE) -> Contestant:
    return Contestant(", ".join(["JAX", seeds_in_words(seeds), *sized(size)]), "jax", seeds, shape_of(size))


def plain_loop(size: int = SIZE) -> Contestant:
    return Contestant(", ".join(["plain loop", *sized(size)]), "plain", shape=shape_of(size))


def shape_of(size: int) -> Shape:
    """Minibatches of so many rows, layers of so many units."""
    return replace(Shape(), batch=size, width=size)


def sized(size: int) -> list[str]:
    """The size in words, where it is not the usual one."""
    return [] if size == SIZE else [f"{size}/{size}"]


def floor(half: Literal["products", "copies"], seeds: int) -> Contestant:
    return Contestant(f"floor of {half}, {seeds_in_words(seeds)}", "floor", seeds, floor=half)


PLAIN = plain_loop()
D3RLPY = Contestant("d3rlpy", "d3rlpy")


def adapter_seeds(device: str) -> int:
    """Adapters are timed at one seed on a CPU, and at eight on an accelerator, which one seed does not fill."""
    return 1 if device == "cpu" else 8


def main_suite(device: str, quick: bool = False) -> list[Contestant]:
    """Everybody at the shapes of the targets."""
    few = adapter_seeds(device)
    if quick:
        return [PLAIN, jax(), ours(traced=False), ours(), jax(8), ours(8), ours(few, ["ASPC"])]
    stacks = [ours(few, [name]) for name in ADAPTERS]
    return _once(
        *(PLAIN, D3RLPY),
        *(contestant for seeds in SEEDS for contestant in (jax(seeds), ours(seeds))),
        *(ours(compiled=True), ours(8, compiled=True), ours(traced=False), ours(8, traced=False)),
        *(ours(seeds, precision="bf16", compiled=compiled) for compiled in (False, True) for seeds in (1, 8)),
        *(floor(half, seeds) for seeds in (1, 8) for half in ("products", "copies")),
        *(ours(few), *stacks, ours(few, ADAPTERS)),
        *(ours(few, learner=name) for name in LEARNERS),
        *(_small_suite() if device == "cpu" else ()),
    )


def _small_suite() -> list[Contestant]:
    """The common uses of a CPU: small networks, and compiled steps with adapters."""
    return [
        plain_loop(SMALL),
        *(contestant for seeds in (1, 8) for contestant in (jax(seeds, SMALL), ours(seeds, size=SMALL))),
        *(ours(seeds, size=SMALL, compiled=True) for seeds in (1, 8)),
        *(ours(1, [name], compiled=True) for name in ADAPTERS),
        *(ours(1, learner=name, compiled=True) for name in LEARNERS),
    ]


def sweep(what: Literal["batch", "width"]) -> dict[int, list[Contestant]]:
    """The plain loop, JAX and ours at one seed, by batch size or width."""
    makers: tuple[Maker, ...] = ("plain", "jax", "ours")
    shapes = {size: replace(Shape(), **{what: size}) for size in SIZES}
    return {
        size: [Contestant(f"{maker}, {what} {size}", maker, shape=shape) for maker in makers]
        for size, shape in shapes.items()
    }


def _once(*contestants: Contestant) -> list[Contestant]:
    return list({contestant.name: contestant for contestant in contestants}.values())


# -- targets ---------------------------------------------------------------------------------------------------------

Measure = Literal["speed", "time", "added"]
"""speed: seed-steps per second of the first over the second. time: seconds per step of the first over the second.
added: how much longer a step takes, as a fraction."""


@dataclass(frozen=True)
class Comparison:
    """A ratio of two contestants, and what it should be."""

    first: str
    second: str
    measure: Measure = "speed"
    target: float | None = None
    """speed: at least; otherwise at most. None: no target."""

    def values(self, timings: Mapping[str, Timing]) -> list[float]:
        """Turn by turn, sorted; empty where one of them did not run."""
        ran = [name for name in (self.first, self.second) if name in timings and timings[name].seconds]
        if len(ran) < 2:
            return []
        first, second = timings[self.first], timings[self.second]
        if self.measure == "speed":
            return sorted(b / a for a, b in zip(first.seed_seconds, second.seed_seconds, strict=True))
        by_time = [a / b for a, b in zip(first.seconds, second.seconds, strict=True)]
        return sorted(ratio - (self.measure == "added") for ratio in by_time)


def verdict(values: Sequence[float], target: float | None, measure: Measure) -> str:
    """Say whether the median reaches a target, and if not by how much it is missed."""
    if target is None:
        return "-"
    if not values:
        return "not measured"
    median = statistics.median(values)
    if median >= target if measure == "speed" else median <= target:
        return "reached"
    if measure == "added":
        return f"missed by {100 * (median - target):.0f} points"
    return f"missed by a factor of {target / median if measure == 'speed' else median / target:.2f}"


LARGEST_ADDED = {
    "cpu": {"ASPC": 0.05, "SSAR": 0.60, "ANQ": 0.70},
    "cuda": {"ASPC": 0.05, "SSAR": 0.15, "ANQ": 0.40, "ILQ": 1.0},
}
"""The most that each adapter may add to a step of TD3+BC, as a fraction, by device."""


def comparisons(device: str) -> list[Comparison]:
    """Comparisons, those with a target of this device first."""
    one, eight, plain = ours().name, ours(8).name, PLAIN.name
    few = adapter_seeds(device)
    most, on_cpu = LARGEST_ADDED[device], device == "cpu"

    def added_by(name: str, compiled: bool) -> Comparison:
        first, second = ours(few, [name], compiled=compiled), ours(few, compiled=compiled)
        return Comparison(first.name, second.name, "added", most.get(name) if compiled == on_cpu else None)

    added = {name: added_by(name, False) for name in ADAPTERS}
    four = Comparison(ours(few, ADAPTERS).name, ours(few).name, "added")
    if on_cpu:
        program, small = ours(compiled=True).name, ours(compiled=True, size=SMALL).name
        targets = [
            Comparison(program, plain, target=2.0),
            Comparison(ours(precision="bf16", compiled=True).name, plain, target=3.5),
            Comparison(program, jax().name, target=1.0),
            Comparison(ours(8, compiled=True).name, jax(8).name, target=1.0),
            Comparison(small, plain_loop(SMALL).name, target=8.0),
            Comparison(small, jax(1, SMALL).name, target=1.1),
            Comparison(ours(8, compiled=True, size=SMALL).name, jax(8, SMALL).name, target=1.0),
            *(added_by(name, True) for name in ADAPTERS),
        ]
    else:
        targets = [
            Comparison(eight, plain, target=40.0),
            Comparison(eight, jax(8).name, target=1.5),
            Comparison(eight, one, "time", 1.5),
            *added.values(),
        ]
    others = [
        *(Comparison(eight, plain), Comparison(one, plain), Comparison(one, D3RLPY.name)),
        *(Comparison(eight, jax(8).name), Comparison(ours(precision="bf16").name, plain)),
        *(Comparison(one, jax().name), Comparison(one, ours(traced=False).name)),
        *(Comparison(ours(8, precision="bf16").name, plain), Comparison(eight, one, "time")),
        *(*added.values(), four),
    ]
    known = {(target.first, target.second, target.measure) for target in targets}
    return targets + [other for other in others if (other.first, other.second, other.measure) not in known]


@dataclass(frozen=True)
class Gap:
    """How far a step of ours is from its floor, turn by turn."""

    seeds: int
    times: tuple[float, ...]
    """Sorted; the step's time over the larger half of the floor."""
    products: float
    """Median seconds of the counted products."""
    copies: float
    """Median seconds of the counted traffic."""

    def target(self, device: str) -> float | None:
        """How many times its floor a step may take; eight seeds on an accelerator have one."""
        return 3.0 if device == "cuda" and self.seeds == 8 else None


def gaps(timings: Mapping[str, Timing]) -> list[Gap]:
    """For all numbers of seeds whose floor was measured."""
    gaps = []
    for seeds in SEEDS:
        names = (ours(seeds).name, floor("products", seeds).name, floor("copies", seeds).name)
        if all(name in timings and timings[name].seconds for name in names):
            step, products, copies = (timings[name].seconds for name in names)
            times = sorted(t / max(p, c) for t, p, c in zip(step, products, copies, strict=True))
            gaps.append(Gap(seeds, tuple(times), statistics.median(products), statistics.median(copies)))
    return gaps
