"""The figures of a report: as numbers for the page's script, and as pictures (extra ``plots``)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_constraints.reports.findings import ALL, Findings, Profile
from adaptive_constraints.reports.grid import GridCell
from adaptive_constraints.reports.statistics import Estimate
from adaptive_constraints.reports.text import title
from adaptive_constraints.runs.plots import COLOURS, Steps, Values, blank_figure, learning_curves, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_PICTURE = len(COLOURS)
"""Stacks in one picture: more cannot be told apart."""
LONGEST = 24
"""Lines of intervals in one picture."""


# -- for the page -------------------------------------------------------------------------------------------------


def figure_data(findings: Findings) -> dict[str, Any]:
    """Everything that the page draws, as JSON; labels of stacks and data sets as in its tables."""
    cells = findings.grid.cells.values()
    return {
        "all": ALL,
        "scopes": findings.scopes,
        "units": {data.label: data.unit for data in findings.grid.data} | {ALL: "normalised score"},
        "stacks": [stack.label for stack in findings.grid.stacks],
        "scores": [_interval(scope, stack, estimate) for (stack, scope), estimate in findings.scores.items()],
        "effects": [
            _interval(scope, title(effect), difference.estimate) | {"row": row}
            for row, effect in enumerate(findings.effects)
            for scope, difference in effect.by_scope.items()
            if difference.estimate is not None
        ],
        "thresholds": _plain(findings.thresholds),
        "profiles": [_profile(profile) for profile in findings.profiles],
        "curves": [_curves(cell) for cell in cells],
        "quantities": [quantity for cell in cells for quantity in _quantities(cell)],
    }


def _interval(scope: str, label: str, estimate: Estimate) -> dict[str, Any]:
    return {"scope": scope, "label": label, **_plain_map(value=estimate.value, low=estimate.low, high=estimate.high)}


def _profile(profile: Profile) -> dict[str, Any]:
    ends = [("low", profile.low), ("high", profile.high)]
    band = {name: _plain(values) for name, values in ends if values is not None}
    return {"scope": profile.scope, "label": profile.stack.label, "y": _plain(profile.share), **band}


def _curves(cell: GridCell) -> dict[str, Any]:
    """Evaluations over steps: mean, range and each seed; and where seeds were lost."""
    curves = cell.curves()
    where = {"scope": cell.data.label, "label": cell.stack.label, "x": _plain(curves.steps)}
    seeds = [_plain(seed) for seed in curves.scores.T]
    return where | _spread(curves.scores) | {"seeds": seeds}


def _quantities(cell: GridCell) -> list[dict[str, Any]]:
    """Adaptive quantities over steps: mean and range over seeds.

    Names that end in _10, _50 and _90 are percentiles of one quantity: the median, in a band between the outer two.
    """
    series = cell.curves().series
    drawn = []
    for name, (steps, values) in series.items():
        stem, _, percentile = name.rpartition("_")
        outer = [series.get(f"{stem}_{percent}") for percent in (10, 90)]
        if percentile in ("10", "90") and f"{stem}_50" in series:
            continue
        where = {"scope": cell.data.label, "label": cell.stack.label, "name": name, "x": _plain(steps)}
        if percentile == "50" and outer[0] is not None and outer[1] is not None:
            band = {"low": _plain(_mean(outer[0][1])), "high": _plain(_mean(outer[1][1]))}
            drawn.append(where | {"name": f"{stem}, 10, 50, 90 %", "y": _plain(_mean(values)), **band})
        else:
            drawn.append(where | _spread(values))
    return drawn


def _spread(values: Values) -> dict[str, Any]:
    """Mean and range over seeds [T, S] -> [T]."""
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    return {"y": _plain(_mean(values)), "low": _plain(low), "high": _plain(high)}


def _mean(values: Values) -> Values:
    """[T, S] -> [T] over the seeds that are there; NaN where none is."""
    count = (~np.isnan(values)).sum(axis=1)
    mean: Values = np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
    return mean


def _plain(values: Values | Steps) -> list[float | None]:
    """Four digits are more than a figure shows."""
    return [_short(value) for value in np.asarray(values, np.float64).tolist()]


def _plain_map(**values: float | None) -> dict[str, float | None]:
    return {name: None if value is None else _short(value) for name, value in values.items()}


def _short(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


# -- pictures -----------------------------------------------------------------------------------------------------


def pictures(findings: Findings, folder: Path) -> dict[str, Path]:
    """Draw every figure into ``folder``; the files by caption.

    Where there are more stacks than a picture can tell apart, the best of the scope are drawn, and the caption says so.
    """
    drawn: dict[str, Path] = {}
    for scope in findings.drawn_scopes:
        of = "" if scope == ALL else f"-{_safe(scope)}"
        unit = _unit(scope, findings)
        rows = [(stack, estimate) for (stack, at), estimate in findings.scores.items() if at == scope]
        best = sorted(rows, key=lambda row: -row[1].value)[:LONGEST]
        caption = _caption("Scores", scope, len(best), len(rows))
        drawn |= _picture(caption, best, folder / f"scores{of}.png", unit)
        differences = _differences(findings, scope)
        caption = f"Effects of adapters, {scope}"
        drawn |= _picture(caption, differences, folder / f"effects{of}.png", f"difference, {unit}", zero=True)
        drawn |= _profile_picture(findings, scope, folder / f"profiles{of}.png")
    for data in findings.grid.data:
        drawn |= _curve_picture(findings, data.label, folder / f"curves-{_safe(data.label)}.png")
    return drawn


def _unit(scope: str, findings: Findings) -> str:
    return next((data.unit for data in findings.grid.data if data.label == scope), "normalised score")


def _differences(findings: Findings, scope: str) -> list[tuple[str, Estimate]]:
    """The effects of a scope; their averages alone where all are too many, because a choice by size would mislead."""
    rows = [(effect, effect.by_scope[scope].estimate) for effect in findings.effects if scope in effect.by_scope]
    known = [(effect, estimate) for effect, estimate in rows if estimate is not None]
    return [(title(effect), estimate) for effect, estimate in known if len(known) <= LONGEST or effect.stack is None]


def _picture(
    caption: str, rows: Sequence[tuple[str, Estimate]], path: Path, unit: str, *, zero: bool = False
) -> dict[str, Path]:
    """Estimates under each other, each a dot in its interval."""
    if not rows:
        return {}
    figure = blank_figure(8, 1.2 + 0.28 * len(rows))
    panel = figure.add_subplot()
    for height, (_, estimate) in enumerate(rows):
        if estimate.low is not None and estimate.high is not None:
            panel.plot([estimate.low, estimate.high], [height, height], color=COLOURS[0], linewidth=2)
        panel.plot(estimate.value, height, "o", color=COLOURS[0], markersize=6)
    panel.set_yticks(range(len(rows)), [label for label, _ in rows])
    panel.invert_yaxis()
    if zero:
        panel.axvline(0, color="0.4", linewidth=0.8)
    panel.set_title(caption, loc="left", fontsize=11)
    _finish(panel, unit)
    return {caption: save_figure(figure, path)}


def _profile_picture(findings: Findings, scope: str, path: Path) -> dict[str, Path]:
    profiles = [profile for profile in findings.profiles if profile.scope == scope]
    if not profiles:
        return {}
    kept = _best(findings, scope)
    figure = blank_figure(8, 4.4)
    panel = figure.add_subplot()
    for profile in profiles:
        if profile.stack.label in kept:
            colour = COLOURS[kept.index(profile.stack.label)]
            panel.plot(findings.thresholds, profile.share, color=colour, linewidth=2, label=profile.stack.label)
            if profile.low is not None and profile.high is not None:
                panel.fill_between(
                    findings.thresholds, profile.low, profile.high, color=colour, alpha=0.12, linewidth=0
                )
    panel.set_ylabel("share of seeds above")
    panel.set_ylim(0, 1.02)
    panel.set_title(f"Performance profiles, {scope}", loc="left", fontsize=11)
    _finish(panel, "normalised score")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return {_caption("Performance profiles", scope, len(kept), len(profiles)): save_figure(figure, path)}


def _curve_picture(findings: Findings, scope: str, path: Path) -> dict[str, Path]:
    cells = {stack: cell for (stack, data), cell in findings.grid.cells.items() if data == scope}
    kept = [stack for stack in _best(findings, scope) if stack in cells]
    if not kept:
        return {}
    runs = {stack: cells[stack].curves() for stack in kept}
    caption = _caption("Learning curves and adaptive quantities", scope, len(kept), len(cells))
    return {caption: learning_curves(runs, path, title=scope, ylabel=_unit(scope, findings))}


def _best(findings: Findings, scope: str) -> list[str]:
    """Labels of the best stacks of a scope, in the order of the grid."""
    scored = {stack: estimate.value for (stack, at), estimate in findings.scores.items() if at == scope}
    best = sorted(scored, key=lambda stack: -scored[stack])[:PER_PICTURE]
    return [stack.label for stack in findings.grid.stacks if stack.label in best]


def _caption(name: str, scope: str, drawn: int, there: int) -> str:
    return f"{name}, {scope}" + (f": the best {drawn} of {there}" if drawn < there else "")


def _finish(panel: Axes, label: str) -> None:
    panel.set_xlabel(label)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", label).strip("-.")


__all__ = ["figure_data", "pictures"]
