"""The report of a measurement: JSON, Markdown tables with the ratios first, and a picture of the sweeps."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .contestant import Shape
from .measure import Timing
from .suites import SEEDS, SIZES, Comparison, comparisons, gaps, jax, ours, seeds_in_words, sweep, verdict

Timings = Mapping[str, Timing]
MAKERS = {"plain": "plain loop", "jax": "JAX", "ours": "ours"}


def by_name(records: Sequence[Mapping[str, Any]]) -> Timings:
    """Timings from their JSON."""
    timings = [Timing.from_json(dict(record)) for record in records]
    return {timing.contestant.name: timing for timing in timings}


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report."""
    device = result["device_type"]
    lines = [f"`{result['command']}` on {result['device']}, commit {_commit(result)}; {_versions(result['versions'])}"]
    for threads, records in result["by_threads"].items():
        timings, where = by_name(records), f" ({threads} thread{'s' * (threads != '1')})" if device == "cpu" else ""
        lines += ["", f"### Ratios{where}", "", *ratio_table(timings, device)]
        lines += ["", f"### Steps{where}", "", *rate_table(timings)]
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
    for gap in gaps(timings):
        name = f"{ours(gap.seeds).name}: time over the floor"
        name += f" (products {1e3 * gap.products:.3g} ms, traffic {1e3 * gap.copies:.3g} ms)"
        limit = gap.target(device)
        target = "-" if limit is None else f"at most {limit:g}x"
        rows.append([name, _spread(gap.times, "{:.2f}x"), target, verdict(gap.times, limit, "time")])
    return table(("ratio", "median (lowest to highest)", "target", "verdict"), rows)


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


# -- picture ---------------------------------------------------------------------------------------------------------


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Microseconds per seed-step over batch size, width and number of seeds; a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    for panel, (axis, lines) in zip(panels, _curves(result).items(), strict=True):
        for (name, points), colour in zip(lines.items(), ("#000000", "#D55E00", "#0072B2"), strict=True):
            if points:
                panel.plot(list(points), list(points.values()), marker="o", markersize=4, color=colour, label=name)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        steps = SEEDS if axis == "seeds" else SIZES
        panel.set_xticks(steps, [str(step) for step in steps])
        panel.minorticks_off()
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("microseconds per step and seed")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    shape = Shape()
    figure.suptitle(f"TD3+BC on {result['device']}; elsewhere batch {shape.batch}, width {shape.width}, 1 seed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)


def _curves(result: Mapping[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """By what is on the axis and whose curve it is: median microseconds by size."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for what, axis in (("batch", "batch size"), ("width", "width")):
        timings = by_name(result["sweeps"].get(what, []))
        curves[axis] = {
            label: _points({size: timings.get(f"{maker}, {what} {size}") for size in SIZES})
            for maker, label in MAKERS.items()
        }
    main = by_name(result["by_threads"][result["sweep_threads"]])
    named = {"plain": lambda seeds: "plain loop", "jax": lambda s: jax(s).name, "ours": lambda s: ours(s).name}
    curves["seeds"] = {
        label: _points({seeds: main.get(named[maker](seeds)) for seeds in SEEDS}) for maker, label in MAKERS.items()
    }
    return curves


def _points(timings: Mapping[int, Timing | None]) -> dict[int, float]:
    return {
        size: 1e6 * statistics.median(timing.seed_seconds)
        for size, timing in timings.items()
        if timing is not None and timing.seconds
    }
