"""A picture of stacks: a step of TD3+BC beside others by size, and every stack over its own floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contestant import Contestant
from .report import Timings, by_name
from .suites import SIZE, STACK_SIZES, STACKS, Gap, compiled_twin, gap, jax, ours, plain_loop, stack_in_words

WIDTH, HEIGHT, DPI = 6.4, 7.4, 200
"""Inches of a figure whose letters can still be read at the width of a phone."""
BLUE, COLOURS = "#0072B2", {"plain loop": "#000000", "JAX": "#D55E00", "ours": "#56B4E9", "ours, compiled": "#0072B2"}


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw the first number of threads of a result of `suites.stack_suite`; a PNG at ``path``."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    threads, records = next(iter(result["by_threads"].items()))
    timings = by_name(records)
    with rc_context({"font.size": 12}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.25))
        _draw_sizes(top, timings)
        _draw_gaps(bottom, timings, result["device_type"])
        cores = f", {threads} core{'s' * (threads != '1')}" if result["device_type"] == "cpu" else ""
        figure.suptitle(f"{result['device']}{cores}, one seed", fontsize=11)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=DPI)


def _draw_sizes(panel: Any, timings: Timings) -> None:
    """Milliseconds of a step of TD3+BC by batch size and width."""
    from matplotlib.ticker import LogLocator

    makers = (plain_loop, lambda size: jax(1, size), _ours, lambda size: compiled_twin(_ours(size)))
    for (label, colour), maker in zip(COLOURS.items(), makers, strict=True):
        points = {size: timings[maker(size).name] for size in STACK_SIZES if maker(size).name in timings}
        points = {size: timing for size, timing in points.items() if timing.seconds}
        if points:
            values = [1e3 * statistics.median(timing.seconds) for timing in points.values()]
            panel.plot(list(points), values, marker="o", color=colour, label=label)
    panel.set(xscale="log", yscale="log", title="TD3+BC: milliseconds per step", xlabel="batch size and width")
    shown = sorted({int(x) for line in panel.lines for x in line.get_xdata()})
    panel.set_xticks(shown, [str(size) for size in shown])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower right")


def _draw_gaps(panel: Any, timings: Timings, device: str) -> None:
    """How many times its floor a step of each stack takes, with targets as lines across the bars."""
    found = {}
    for learner, adapters in STACKS:
        step = ours(1, adapters, learner=learner)
        if measured := gap(compiled_twin(step), timings) or gap(step, timings):
            found[stack_in_words(learner, adapters).replace("ours", "TD3BC")] = measured
    places = range(len(found))
    medians = [statistics.median(measured.times) for measured in found.values()]
    bars = panel.barh(places, medians, color=BLUE, height=0.65)
    panel.bar_label(bars, [f"{value:.2f}x" for value in medians], padding=6)
    for place, measured in zip(places, found.values(), strict=True):
        if (limit := measured.target(device)) is not None:
            panel.plot([limit, limit], [place - 0.42, place + 0.42], color="#D55E00", linewidth=2.5)
    panel.set_yticks(places, [name.replace(" critic=robust", ", robust") for name in found])
    panel.invert_yaxis()
    panel.set_xlim(0, 1.2 * max([1.0, *medians]))
    panel.axvline(1, color="#000000", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set(title=_title(found), xlabel="1: nothing but them; orange: target")


def _title(found: Mapping[str, Gap]) -> str:
    compiled = any(measured.step.compiled for measured in found.values())
    return f"Batch and width {SIZE}: {'compiled step / its products' if compiled else 'step / its floor'}"


def _ours(size: int) -> Contestant:
    return ours(size=size)
