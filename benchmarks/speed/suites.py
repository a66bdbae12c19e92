"""Who stands side by side, and what the ratios between them should be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .contestant import Contestant, Half, Maker, Shape
from .measure import Timing

SEEDS = (1, 2, 4, 8, 16)
SIZES = (64, 128, 256, 512, 1024)
SIZE, SMALL = 256, 64
"""The batch size and width of most targets, and of those for small networks."""
LEARNERS = ("IQL", "CQL", "DiffusionQL", "FQL")
ADAPTERS = ("ASPC", "SSAR", "ANQ", "ILQ")
ROBUST = "TD3BC critic=robust"
STACKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((learner, ()) for learner in ("TD3BC", ROBUST, *LEARNERS)),
    *(("TD3BC", (adapter,)) for adapter in ADAPTERS),
)
"""Learner and adapters of the stacks that are held against their own floors."""
STACK_SIZES = (64, 128, 256)
"""Batch size and width of these."""


def seeds_in_words(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def stack_in_words(learner: str, adapters: Sequence[str]) -> str:
    """TD3+BC, whom everybody else stands beside, is just ours."""
    name = "ours" if learner == "TD3BC" else learner
    return " + ".join([name, *(("all four",) if len(adapters) == len(ADAPTERS) else adapters)])


def ours(
    seeds: int = 1,
    adapters: Sequence[str] = (),
    traced: bool = True,
    precision: Literal["float32", "bf16"] = "float32",
    learner: str = "TD3BC",
    compiled: bool = False,
    size: int = SIZE,
) -> Contestant:
    """One of ours, named by what is special about it."""
    special = [] if traced else ["eager"]
    special += ([] if precision == "float32" else [precision]) + (["compiled"] if compiled else [])
    return Contestant(
        ", ".join([" ".join([stack_in_words(learner, adapters), *special]), seeds_in_words(seeds), *sized(size)]),
        "ours",
        seeds,
        shape_of(size),
        learner=learner,
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


def floor(half: Half, step: Contestant) -> Contestant:
    """One half of the floor under a step of ours."""
    stack = stack_in_words(step.learner, step.adapters)
    name = f"floor of {half}" + (f" of {stack}" if stack != "ours" else "")
    name = ", ".join([name, seeds_in_words(step.seeds), *sized(step.shape.batch)])
    return Contestant(name, "floor", step.seeds, step.shape, step.learner, step.adapters, floor=half)


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
        *(floor(half, ours(seeds)) for seeds in (1, 8) for half in HALVES),
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


def stack_suite(device: str, size: int) -> list[Contestant]:
    """Every stack at this batch size and width, with the floors under it; learners uncompiled as well on a CPU.

    A learner with an adapter is timed as people run it, which on a CPU is compiled.
    """
    on_cpu = device == "cpu"
    steps = [ours(1, adapters, learner=learner, size=size) for learner, adapters in STACKS]
    whole = [step for step in steps if not (on_cpu and step.adapters)]
    compiled = [compiled_twin(step) for step in steps if on_cpu]
    return _once(
        *(plain_loop(size), jax(1, size), *whole, *compiled),
        *(floor(half, step) for step in whole + compiled for half in halves_under(step)),
    )


def compiled_twin(step: Contestant) -> Contestant:
    """The same step, compiled."""
    return ours(step.seeds, step.adapters, learner=step.learner, compiled=True, size=step.shape.batch)


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


HALVES: tuple[Half, ...] = ("products", "copies")


def halves_under(step: Contestant) -> tuple[Half, ...]:
    """The halves of the floor that a step cannot beat: one whose operators are fused may save their traffic."""
    return ("products",) if step.compiled else HALVES


@dataclass(frozen=True)
class Gap:
    """How far a step of ours is from its floor, turn by turn."""

    step: Contestant
    times: tuple[float, ...]
    """Sorted; the step's time over its floor, of two halves over the larger."""
    halves: Mapping[Half, float]
    """Median seconds of the counted products, and of the counted traffic where it is part of the floor."""

    def target(self, device: str) -> float | None:
        """How many times its floor a step may take, if a target says so."""
        step = self.step
        if device == "cuda":
            return 3.0 if step == ours(8) else None
        return LARGEST_GAP.get((step.learner, step.adapters)) if step.compiled and step.shape == Shape() else None


LARGEST_GAP = {("DiffusionQL", ()): 1.5, ("TD3BC", ("ILQ",)): 1.5, (ROBUST, ()): 1.3}
"""How many times its products a compiled step on a CPU may take."""


def gap(step: Contestant, timings: Mapping[str, Timing]) -> Gap | None:
    """None where the step or its floor was not measured."""
    halves = halves_under(step)
    measured = [timings.get(contestant.name) for contestant in (step, *(floor(half, step) for half in halves))]
    seconds = [timing.seconds for timing in measured if timing is not None and timing.seconds]
    if len(seconds) < len(measured):
        return None
    times = sorted(own / max(others) for own, *others in zip(*seconds, strict=True))
    medians = map(statistics.median, seconds[1:])
    return Gap(step, tuple(times), dict(zip(halves, medians, strict=True)))


def gaps(timings: Mapping[str, Timing]) -> list[Gap]:
    """TD3+BC against its floor, for all numbers of seeds for which it was measured."""
    steps = [ours(seeds, compiled=compiled) for seeds in SEEDS for compiled in (False, True)]
    return [found for step in steps if (found := gap(step, timings)) is not None]
