"""Learning curves as a picture. Matplotlib (extra ``plots``) is imported when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import DependencyError, FileError
from adaptive_constraints.support.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values: TypeAlias = NDArray[np.floating]
Steps: TypeAlias = NDArray[np.integer] | NDArray[np.floating]

# Okabe and Ito's colours, which stay apart for colour-blind readers; yellow is left out because it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_PANELS_PER_COLUMN = 3
_CHARACTERS_PER_INCH = 9
"""Characters of a title in an inch, at its size of type."""


@dataclass(frozen=True)
class Curves:
    """Curves of one stack over a run of S seeds.

    steps: [T] the steps of the evaluations.
    scores: [T, S] scores or returns; NaN leaves a seed out from there on.
    series: by name, an adaptive quantity over its own steps: (steps [T'], values [T', S]).
    """

    steps: Steps
    scores: Values
    series: Mapping[str, tuple[Steps, Values]] = field(default_factory=dict)


def drawn(
    curves: Curves, *, title: str | None = None, ylabel: str = "normalised score", own: float | None = None
) -> Figure:
    """Draw scores over steps and, in a panel each, every adaptive quantity.

    Each is drawn as the mean over the seeds, in a band from the lowest to the highest, with one thin line per seed. A
    quantity that is one number throughout is written and not drawn.

    ylabel: what the scores are, with their unit.
    own: the score of the data's own episodes, a level line.
    """
    figure, (scores, *panels) = _figure(len(curves.series))
    _draw(scores, curves.steps, curves.scores)
    for panel, series in zip(panels, curves.series.values(), strict=True):
        _draw(panel, *series)
    for panel, label in zip([scores, *panels], [ylabel, *curves.series], strict=True):
        _finish(panel, label)
    for panel in panels:
        _rescale(panel)
    if own is not None:
        scores.axhline(own, color="0.45", linestyle=(0, (4, 3)), linewidth=1.2, label="the data's own")
    figure.legend(*scores.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    if title is not None:
        figure.suptitle("\n".join(textwrap.wrap(title, int(_CHARACTERS_PER_INCH * figure.get_figwidth()))))
    return figure


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure in inches that lays itself out, and that notebooks show; pyplot is left alone."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(
            "Drawing needs matplotlib, which is not installed: pip install 'adaptive-constraints[plots]'."
        ) from error

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as what the name ends in (.png, .pdf, .svg); raises `FileError` for another ending."""
    path = Path(path)
    kind, known = path.suffix.lower().removeprefix("."), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise FileError(f"cannot draw a picture to {path}: its name must end in one of {', '.join(sorted(known))}")
    with replacing(path, "wb") as file:
        figure.savefig(file, format=kind, dpi=150)
    return path


def _figure(quantities: int) -> tuple[Figure, list[Axes]]:
    """A figure with a large panel at the left and ``quantities`` small ones at its right."""
    columns = ceil(quantities / _PANELS_PER_COLUMN)
    rows = ceil(quantities / columns) if columns else 1
    figure = blank_figure(6.4 + 3.6 * columns, max(4.4, 2.1 * rows))
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[1.7, *[1.0] * columns])
    score = figure.add_subplot(grid[:, 0])
    cells = [(row, 1 + column) for column in range(columns) for row in range(rows)][:quantities]
    return figure, [score, *(figure.add_subplot(grid[cell], sharex=score) for cell in cells)]


def _draw(panel: Axes, steps: Steps, values: Values) -> None:
    """One run in one panel: thin seeds, a band over them, their mean."""
    if values.shape[1] > 1:
        low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
        panel.fill_between(steps, low, high, color=COLOURS[0], alpha=0.12, linewidth=0)
        panel.plot(steps, values, color=COLOURS[0], linewidth=0.6, alpha=0.45)
    alone = "o" if len(steps) == 1 else None  # of which there is no line
    panel.plot(steps, _mean(values), color=COLOURS[0], marker=alone, linewidth=2.0, label="mean of the seeds")


def _mean(values: Values) -> Values:
    """[T, S] -> [T], over the seeds that are finite at that step; NaN where none is."""
    finite = np.isfinite(values)
    count = finite.sum(axis=1)
    total = np.where(finite, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _finish(panel: Axes, label: str) -> None:
    """Labels, a light grid, and no more frame than is read."""
    from matplotlib.ticker import EngFormatter

    panel.set_xlabel("training steps (minibatches)")
    panel.set_ylabel(label)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.01)


def _rescale(panel: Axes) -> None:
    """A logarithmic axis for what is positive and runs over more than two decades; words for what is level."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in panel.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return
    if drawn.min() == drawn.max():
        for artist in (*panel.get_lines(), *panel.collections):
            artist.remove()
        panel.set_yticks([])
        panel.text(0.5, 0.5, f"all equal: {drawn[0]:.4g}", transform=panel.transAxes, ha="center", va="center")
    elif drawn.min() > 0 and drawn.max() > 100 * drawn.min():
        panel.set_yscale("log")
