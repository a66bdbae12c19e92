"""Draw docs/overview.png, the picture of the README: a learner, adapters at its seams, and what came out of two runs.

    python -m benchmarks.picture

The curves are rows of benchmarks/results/offline: TD3+BC with and without ASPC on regenerated halfcheetah/mixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from adaptive_constraints.experiments.rows import ResultRow
from adaptive_constraints.reports.grid import behaviour

from .results_page import Cell, cells

PICTURE = Path(__file__).parents[1] / "docs" / "overview.png"
DATA = "minari:regenerated/halfcheetah/mixed-v0"
STACKS = {"TD3BC(critic=robust)": ("TD3BC", "#0072B2"), "TD3BC(critic=robust) + ASPC": ("TD3BC + ASPC", "#D55E00")}
SEAMS = {"tradeoff": "ASPC", "constraint_weight": "SSAR", "bootstrap": "ANQ", "critic_rows": "ILQ"}
"""Some seams of TD3BC, and who may answer there."""
INK, GREY = "#222222", "#777777"


def main() -> None:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    plan, scores, scale = figure.subplots(1, 3, width_ratios=(1.35, 1.1, 0.8))
    diagram(plan)
    by_stack = {cell[0]["stack"]: cell for cell in cells("offline", DATA)}
    for stack, (name, colour) in STACKS.items():
        curves(scores, [_evaluations(row) for row in by_stack[stack]], colour, name)
    curves(scale, _series(by_stack["TD3BC(critic=robust) + ASPC"], "aspc/scale"), "#D55E00", "learned")
    own = behaviour(by_stack["TD3BC(critic=robust)"][0])
    assert own is not None
    scores.axhline(own, color=GREY, linestyle="--", linewidth=1.2, label="the data's own")
    scale.axhline(2.5, color="#0072B2", linewidth=2)
    scores.set(title="normalised score, halfcheetah/mixed", xlabel="training steps", ylim=(0, None))
    scale.set(title="trade-off", xlabel="training steps", ylim=(0, None))
    scores.legend(frameon=False, loc="lower right")
    for panel in (scores, scale):
        panel.title.set_fontsize(11)
        panel.set_xticks([0, 50_000, 100_000], ["0", "50k", "100k"])
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, format="png", dpi=120, metadata={"Software": None})


def diagram(panel: Axes) -> None:
    """A learner with its seams, an adapter at each."""
    panel.set(xlim=(0, 10), ylim=(0, 10))
    panel.axis("off")
    panel.add_patch(FancyBboxPatch((0.2, 0.2), 5.4, 9.5, boxstyle="round,pad=0.1", fc="#E8F1F8", ec="#0072B2", lw=1.5))
    panel.text(0.6, 9.0, "learner: TD3BC", weight="bold", color=INK, va="center", fontsize=11)
    for place, (seam, adapter) in enumerate(SEAMS.items()):
        y = 7.3 - 2.0 * place
        panel.text(5.2, y, seam, ha="right", va="center", family="monospace", fontsize=9.5, color=INK)
        panel.plot([5.72], [y], marker="o", color="white", markeredgecolor="#0072B2", markersize=8, zorder=3)
        panel.annotate(
            "", (5.95, y), (7.3, y), arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
        )
        box = FancyBboxPatch((7.4, y - 0.55), 2.1, 1.1, boxstyle="round,pad=0.1", fc="#FBEDE3", ec="#D55E00", lw=1.5)
        panel.add_patch(box)
        panel.text(8.45, y, adapter, ha="center", va="center", weight="bold", fontsize=10.5, color=INK)
    panel.text(8.45, 9.0, "adapters", ha="center", va="center", weight="bold", color=INK, fontsize=11)
    panel.set_title("wrap(learner, *adapters)", family="monospace", fontsize=10.5)


def curves(panel: Axes, seeds: list[tuple[np.ndarray, np.ndarray]], colour: str, name: str) -> None:
    """The mean over seeds, and a thin line for each."""
    for steps, values in seeds:
        panel.plot(steps, values, color=colour, linewidth=0.8, alpha=0.6)
    panel.plot(seeds[0][0], np.mean([values for _, values in seeds], axis=0), color=colour, linewidth=2.2, label=name)


def _evaluations(row: ResultRow) -> tuple[np.ndarray, np.ndarray]:
    steps, values = ([point[entry] for point in row["evaluations"]] for entry in ("step", "value"))
    return np.array(steps), np.array(values, float)


def _series(cell: Cell, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array(row["series"][name][0]), np.array(row["series"][name][1])) for row in cell]


if __name__ == "__main__":
    main()
