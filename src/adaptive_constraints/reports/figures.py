"""The figures of a report: what each draws, for the page's script and as pictures beside the Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from adaptive_constraints.reports import charts, text
from adaptive_constraints.reports.charts import SMALL, WIDTH, Row, Tree
from adaptive_constraints.reports.findings import ALL, Findings
from adaptive_constraints.reports.grid import GridCell
from adaptive_constraints.reports.statistics import Estimate
from adaptive_constraints.runs.plots import COLOURS, Steps, Values

Section: TypeAlias = Literal["scores", "effects", "profiles", "curves", "quantities"]
MOST: dict[Section, int] = {
    "scores": 24,
    "effects": 24,
    "profiles": len(COLOURS),
    "curves": len(COLOURS),
    "quantities": len(COLOURS),
}
"""Most stacks, or effects, that a figure draws: more cannot be told apart."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    chart: its tree without rows; with ``moving=False`` for a picture.
    rows: all that there are, as `charts` takes them: the best stacks first, effects in their table's order.
    """

    section: Section
    scope: str
    title: str
    chart: Callable[..., Tree]
    rows: Sequence[Row]

    def best(self) -> list[Row]:
        """The rows of as many as can be told apart: the best stacks, or the first effects."""
        kept = list(dict.fromkeys(key for row in self.rows if (key := charts.key(row)) is not None))[: self.most]
        return [row for row in self.rows if charts.key(row) in (*kept, None)]

    @property
    def most(self) -> int:
        """Most of them that are drawn."""
        return MOST[self.section]

    @property
    def count(self) -> int:
        """How many there are."""
        return len({key for row in self.rows if (key := charts.key(row)) is not None})


def figures(findings: Findings) -> list[Figure]:
    """Every figure that has something to draw, section by section. Raises `DependencyError` without the libraries."""
    charts.require()
    made = chain(_scores(findings), _effects(findings), _profiles(findings), _curves(findings), _quantities(findings))
    return [figure for figure in made if figure.count]


# -- sections -----------------------------------------------------------------------------------------------------


def _scores(findings: Findings) -> Iterator[Figure]:
    for scope in findings.scopes:
        known = ((label, findings.scores.get((label, scope))) for label in findings.ranking(scope))
        rows = [_estimate(label, estimate) for label, estimate in known if estimate is not None]
        chart = partial(charts.intervals, f"{_unit(scope, findings)}, higher is better")
        yield Figure("scores", scope, scope, chart, rows)


def _effects(findings: Findings) -> Iterator[Figure]:
    for scope in findings.scopes:
        rows = [
            _estimate(text.title(effect), effect.by_scope[scope].estimate) | {"row": row}
            for row, effect in enumerate(findings.effects)
            if scope in effect.by_scope and effect.by_scope[scope].estimate is not None
        ]
        chart = partial(
            charts.intervals, f"difference in {_unit(scope, findings)}, above 0 the adapter helped", zero=True
        )
        yield Figure("effects", scope, scope, chart, rows)


def _profiles(findings: Findings) -> Iterator[Figure]:
    lines = partial(charts.lines, _styled(findings), "normalised score", "share of seeds above, higher is better")
    x = _plain(findings.thresholds)
    for scope in findings.scopes:
        profiles = {profile.stack.label: profile for profile in findings.profiles if profile.scope == scope}
        ranked = [profiles[label] for label in findings.ranking(scope) if label in profiles]
        rows = [
            {"stack": profile.stack.label, "x": x, "y": _plain(profile.share)}
            | _band(profile.low, profile.high, len(x))
            for profile in ranked
        ]
        yield Figure("profiles", scope, scope, partial(lines, share=True), rows)


def _curves(findings: Findings) -> Iterator[Figure]:
    for data in findings.grid.data:
        rows: list[Row] = []
        for cell in _ranked(findings, data.label):
            curves = cell.curves()
            steps, scores = curves.steps, curves.scores
            where = {"stack": cell.stack.label, "x": _plain(steps)}
            several = scores.shape[1] > 1
            rows += [where | _spread(scores)] if len(steps) else []
            rows += [
                where | {"seed": i, "y": _plain(seed)} for i, seed in enumerate(scores.T) if several and len(steps)
            ]
        own = next((cell.behaviour for cell in _ranked(findings, data.label)), None)
        if rows and own is not None:
            rows.append({"own": _short(own)})
        chart = partial(charts.lines, _styled(findings), STEPS, f"{data.unit}, higher is better")
        yield Figure("curves", data.label, data.label, chart, rows)


def _quantities(findings: Findings) -> Iterator[Figure]:
    for data in findings.grid.data:
        by_name: dict[str, list[Row]] = {}
        for cell in _ranked(findings, data.label):
            for name, row in _quantities_of(cell):
                by_name.setdefault(name, []).append({"stack": cell.stack.label, **row})
        for name, rows in by_name.items():
            chart = partial(charts.lines, _styled(findings), STEPS, text.quantity(name), small=True)
            yield Figure("quantities", data.label, name, partial(chart, logarithmic=_spans_decades(rows)), rows)


STEPS = "training steps (minibatches)"


def _ranked(findings: Findings, scope: str) -> list[GridCell]:
    """The cells of a data set, the best first."""
    cells = (findings.grid.cells.get((label, scope)) for label in findings.ranking(scope))
    return [cell for cell in cells if cell is not None]


def _styled(findings: Findings) -> tuple[str, ...]:
    """All stacks in the order of their colours: those that figures draw come first, so that these repeat the fewest."""
    drawn = (findings.ranking(scope)[: MOST["curves"]] for scope in findings.scopes)
    return tuple(dict.fromkeys(chain(*drawn, (stack.label for stack in findings.grid.stacks))))


def _unit(scope: str, findings: Findings) -> str:
    return next((data.unit for data in findings.grid.data if data.label == scope), "normalised score")


def _quantities_of(cell: GridCell) -> Iterator[tuple[str, Row]]:
    """Adaptive quantities over steps: mean and range over seeds.

    Names that end in _10, _50 and _90 are percentiles of one quantity: the median, in a band between the outer two.
    """
    series = cell.curves().series
    for name, (steps, values) in series.items():
        stem, _, percentile = name.rpartition("_")
        outer = [series.get(f"{stem}_{percent}") for percent in (10, 90)]
        if percentile in ("10", "90") and f"{stem}_50" in series:
            continue
        if percentile == "50" and outer[0] is not None and outer[1] is not None:
            band = {"low": _plain(_mean(outer[0][1])), "high": _plain(_mean(outer[1][1]))}
            yield f"{stem}, 10, 50, 90 %", {"x": _plain(steps), "y": _plain(_mean(values)), **band}
        else:
            yield name, {"x": _plain(steps), **_spread(values)}


def _spans_decades(rows: Sequence[Row]) -> bool:
    """Tell whether values are positive and run over more than two decades, so that a logarithmic axis shows more."""
    known = [value for row in rows for name in ("y", "low", "high") for value in row[name] if value is not None]
    return bool(known) and 0 < 100 * min(known) < max(known)


# -- numbers ------------------------------------------------------------------------------------------------------


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    assert estimate is not None
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"name": name} | {key: None if value is None else _short(value) for key, value in ends.items()}


def _band(low: Values | None, high: Values | None, count: int) -> dict[str, Any]:
    ends = {"low": low, "high": high}
    return {name: [None] * count if values is None else _plain(values) for name, values in ends.items()}


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


def _short(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


# -- pictures -----------------------------------------------------------------------------------------------------


def pictures(drawn: Sequence[Figure], findings: Findings, folder: Path) -> dict[str, Path]:
    """Draw figures into ``folder``; the files by caption. Adaptive quantities of a data set share one picture."""
    files: dict[str, Path] = {}
    for figure in drawn:
        if figure.section == "curves" or (figure.section != "quantities" and figure.scope in findings.drawn_scopes):
            at = folder / f"{figure.section}{'' if figure.scope == ALL else f'-{_safe(figure.scope)}'}.png"
            files |= _picture(_caption(figure), [figure], WIDTH, at)
    for data in findings.grid.data:
        panels = [figure for figure in drawn if (figure.section, figure.scope) == ("quantities", data.label)]
        files |= _picture(
            f"Adaptive quantities, {data.label}", panels, SMALL, folder / f"quantities-{_safe(data.label)}.png"
        )
    return files


def _caption(figure: Figure) -> str:
    """What a figure shows, and of how many."""
    named = f"{text.SECTIONS[figure.section]}, {figure.scope}"
    if figure.count <= figure.most:
        return named
    return f"{named}: the {'first' if figure.section == 'effects' else 'best'} {figure.most} of {figure.count}"


def level(drawn: Sequence[Figure]) -> list[str]:
    """What is one number throughout, such as ``Adaptive quantities, aspc/scale on bundled:hopper: all equal, 2.5``."""
    flat = ((figure, charts.all_equal(figure.best())) for figure in drawn)
    return [
        f"{text.SECTIONS[figure.section]}, {figure.title}{_on(figure)}: all equal, {text.short(value)}"
        for figure, value in flat
        if value is not None
    ]


def _on(figure: Figure) -> str:
    return "" if figure.title == figure.scope else f" on {figure.scope}"


def _picture(named: str, panels: Sequence[Figure], width: int, path: Path) -> dict[str, Path]:
    """One figure, or several in one picture; what is all equal is said by `level` and not drawn."""
    shown = [(figure, rows) for figure in panels if charts.all_equal(rows := figure.best()) is None]
    trees = [
        charts.filled(figure.chart(moving=False), rows, width) | {"title": named if width == WIDTH else figure.title}
        for figure, rows in shown
    ]
    return {named: charts.picture(charts.beside(trees), path)} if trees else {}


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", label).strip("-.")


__all__ = ["MOST", "Figure", "figures", "level", "pictures"]
