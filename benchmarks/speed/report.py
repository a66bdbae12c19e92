"""The report of a measurement: Markdown tables with the ratios first."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .measure import Timing
from .suites import (
    SEEDS,
    SIZE,
    STACK_SIZES,
    STACKS,
    Comparison,
    Gap,
    comparisons,
    compiled_twin,
    floor,
    gap,
    gaps,
    jax,
    ours,
    plain_loop,
    seeds_in_words,
    stack_in_words,
    sweep,
    verdict,
)

Timings = Mapping[str, Timing]
MAKERS = {"plain": "plain loop", "jax": "JAX", "ours": "ours"}


def by_name(records: Sequence[Mapping[str, Any]]) -> Timings:
    """Timings from their JSON."""
    timings = [Timing.from_json(dict(record)) for record in records]
    return {timing.contestant.name: timing for timing in timings}


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report."""
    device = result["device_type"]
    stacks = result.get("suite") == "stacks"
    lines = [f"`{result['command']}` on {result['device']}, commit {_commit(result)}; {_versions(result['versions'])}"]
    for threads, records in result["by_threads"].items():
        timings, where = by_name(records), f" ({threads} thread{'s' * (threads != '1')})" if device == "cpu" else ""
        if stacks:
            lines += [f"{line}{where}" if line.startswith("### ") else line for line in stack_tables(timings, device)]
        else:
            lines += ["", f"### Ratios{where}", "", *ratio_table(timings, device)]
        lines += ["", f"### Steps{where}", "", *rate_table(timings)]
    if not stacks:
        main = by_name(result["by_threads"][result["sweep_threads"]])
        lines += ["", "### Cost by number of seeds", "", *seed_table(main)]
    for what, records in result["sweeps"].items():
        lines += ["", f"### Cost by {what}", "", *sweep_table(what, by_name(records))]
    return "\n".join(lines) + "\n"


# -- tables ----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, aligned for a terminal too."""
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    every.insert(1, ["-" * width for width in widths])
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in every
    ]


def ratio_table(timings: Timings, device: str) -> list[str]:
    """Ratios against their targets, then the gap to the floor."""
    rows = [_ratio_row(comparison, timings) for comparison in comparisons(device) if _wanted(comparison, timings)]
    for found in gaps(timings):
        halves = ", ".join(f"{half} {1e3 * seconds:.3g} ms" for half, seconds in found.halves.items())
        name = f"{found.step.name}: time over the floor ({halves})"
        rows.append([name, _spread(found.times, "{:.2f}x"), *_judged(found, device)])
    return table(("ratio", "median (lowest to highest)", "target", "verdict"), rows)


def _judged(found: Gap, device: str) -> tuple[str, str]:
    """Target and verdict."""
    limit = found.target(device)
    return "-" if limit is None else f"at most {limit:g}x", verdict(found.times, limit, "time")


def stack_tables(timings: Timings, device: str) -> list[str]:
    """Every stack over its own floor, by size; each table under a title."""
    lines = []
    for size in STACK_SIZES:
        if rows := stack_rows(timings, device, size):
            others = (plain_loop(size), jax(1, size))
            beside = [f"{name.name} {_milliseconds(timings.get(name.name))}" for name in others]
            lines += ["", f"### Stacks at batch {size}, width {size}", "", *table(STACK_HEADS, rows)]
            lines += ["", f"Beside them, ms per step: {', '.join(beside)}."]
    return lines


STACK_HEADS = (
    "one seed",
    "Mflop",
    "MB",
    "ms per step",
    "over its floor",
    "compiled, ms",
    "over its products",
    "target",
    "verdict",
    "adds",
    "its products add",
)
"""Million floating-point operations of products, and traffic of single operators; what a compiled step adds to one of
TD3+BC, and what its products alone do."""


def stack_rows(timings: Timings, device: str, size: int = SIZE) -> list[list[str]]:
    """A row for each stack that was measured at this size."""
    base = ours(size=size)
    rows = []
    for learner, adapters in STACKS:
        step = ours(1, adapters, learner=learner, size=size)
        products, twin = timings.get(floor("products", step).name), compiled_twin(step)
        if products is None or products.counts is None:
            continue
        found, fused = gap(step, timings), gap(twin, timings)
        operations, traffic = products.counts
        added = Comparison(twin.name, compiled_twin(base).name, "added").values(timings)
        least = Comparison(products.contestant.name, floor("products", base).name, "added").values(timings)
        rows.append(
            [
                stack_in_words(learner, adapters).replace("ours", "TD3BC"),
                *(f"{operations / 1e6:,.0f}", f"{traffic / 1e6:,.0f}"),
                *(_milliseconds(timings.get(step.name)), _spread(found.times, "{:.2f}x") if found else "-"),
                *(_milliseconds(timings.get(twin.name)), _spread(fused.times, "{:.2f}x") if fused else "-"),
                *(_judged(fused, device) if fused else ("-", "-")),
                *(
                    "-" if step == base or not values else f"{statistics.median(values):+.0%}"
                    for values in (added, least)
                ),
            ]
        )
    return rows


def _milliseconds(timing: Timing | None) -> str:
    return f"{1e3 * statistics.median(timing.seconds):.3g}" if timing and timing.seconds else "-"


def _wanted(comparison: Comparison, timings: Timings) -> bool:
    """With a target it is told that nothing was measured; the rest is left out then."""
    return comparison.target is not None or bool(comparison.values(timings))


def _ratio_row(comparison: Comparison, timings: Timings) -> list[str]:
    first, second, values = comparison.first, comparison.second, comparison.values(timings)
    name, form, at = {
        "speed": (f"{first} / {second}", "{:.2f}x", "at least"),
        "time": (f"time of {first} / {second}", "{:.2f}x", "at most"),
        "added": (f"{first}: added to {second}", "{:+.0%}", "at most"),
    }[comparison.measure]
    target = "-" if comparison.target is None else f"{at} {form.format(comparison.target)}"
    return [
        name,
        _spread(values, form) if values else "-",
        target,
        verdict(values, comparison.target, comparison.measure),
    ]


def rate_table(timings: Timings) -> list[str]:
    """Speed and memory of everybody."""
    rows = []
    for timing in timings.values():
        if timing.contestant.maker == "floor":
            continue
        if timing.skipped:
            rows.append([timing.contestant.name, "-", "-", f"skipped: {timing.skipped}"])
            continue
        rates = [1 / seconds for seconds in timing.seed_seconds]
        milliseconds = 1e3 * statistics.median(timing.seconds)
        rows.append([timing.contestant.name, _spread(rates, "{:.0f}"), f"{milliseconds:.2f}", _memory(timing)])
    return table(("contestant", "seed-steps per second", "ms per step", "peak memory, MB"), rows)


def seed_table(timings: Timings) -> list[str]:
    """The cost of a step of one seed beside others."""
    rows = [
        [seeds_in_words(seeds), *(_microseconds(timings.get(name)) for name in (jax(seeds).name, ours(seeds).name))]
        for seeds in SEEDS
    ]
    return table(("seeds", "JAX, us per seed-step", "ours, us per seed-step"), rows)


def sweep_table(what: Any, timings: Timings) -> list[str]:
    """The cost of a step at other sizes."""
    rows = []
    for size, contestants in sweep(what).items():
        measured = [timings.get(contestant.name) for contestant in contestants]
        if any(measured):
            rows.append([f"{size}", *map(_microseconds, measured), *_against_ours(measured)])
    names = [f"{name}, us per step" for name in MAKERS.values()]
    return table((what, *names, "ours / plain loop", "ours / JAX"), rows)


def _against_ours(timings: Sequence[Timing | None]) -> Iterator[str]:
    *others, mine = timings
    for other in others:
        if other and mine and other.seconds and mine.seconds:
            pairs = zip(other.seconds, mine.seconds, strict=True)
            yield f"{statistics.median(theirs / own for theirs, own in pairs):.2f}x"
        else:
            yield "-"


def _microseconds(timing: Timing | None) -> str:
    return f"{1e6 * statistics.median(timing.seed_seconds):.0f}" if timing and timing.seconds else "-"


def _memory(timing: Timing) -> str:
    if timing.memory is None:
        return "-"
    libraries = f" ({timing.libraries / 1e6:.0f} before building)" if timing.libraries else ""
    return f"{timing.memory / 1e6:.0f}{libraries}"


def _spread(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(statistics.median(values))} ({low} to {high})"


def _commit(result: Mapping[str, Any]) -> str:
    commit = result["commit"]
    return "unknown" if commit is None else commit["hash"][:12] + (" with changes" if commit["dirty"] else "")


def _versions(versions: Mapping[str, str]) -> str:
    shown = ("python", "torch", "numpy", "jax", "d3rlpy")
    return ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)
