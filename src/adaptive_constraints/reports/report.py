"""A report of bench results: one HTML page that needs nothing else, and Markdown with pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_constraints.reports import charts
from adaptive_constraints.reports.figures import figures, level, pictures
from adaptive_constraints.reports.findings import Findings, find
from adaptive_constraints.reports.grid import SCORES, Score, read_grid
from adaptive_constraints.reports.html import page
from adaptive_constraints.reports.markdown import document
from adaptive_constraints.support.files import replacing

HTML, MARKDOWN = "report.html", "report.md"
FOLDER = "report"


@dataclass(frozen=True)
class Report:
    """The findings, and where they are written."""

    findings: Findings
    html: Path
    markdown: Path
    pictures: tuple[Path, ...]


def write_report(folders: Sequence[str | Path], out: str | Path | None = None, *, score: Score = "last_ten") -> Report:
    """Report what ``bench`` left in these results folders together.

    out: folder for ``report.html``, ``report.md`` and its pictures; ``report`` in the first results folder by default.
    score: what each seed counts with: the mean of its last ten evaluations, its last, or its best (which flatters).

    Equal results give equal files. Without the extra ``report``, tables are written and no figures.
    Raises `TrainingError` for a folder without results, `EvaluationError` where nothing has finished or a seed is
    there twice.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, not {score!r}")
    findings = find(read_grid(folders), score)
    folder = Path(folders[0]) / FOLDER if out is None else Path(out)
    command = _command(folders, out, score)
    # A results folder may have been copied to a machine where nothing more can be installed: tables are worth more than
    # an error there.
    drawn = figures(findings) if charts.installed() else None
    with replacing(folder / HTML) as file:
        file.write(page(findings, drawn, command))
    images = pictures(drawn or (), findings, folder)
    with replacing(folder / MARKDOWN) as file:
        file.write(document(findings, images, level(drawn or ()), command))
    return Report(findings, folder / HTML, folder / MARKDOWN, tuple(images.values()))


def _command(folders: Sequence[str | Path], out: str | Path | None, score: Score) -> str:
    words = ["adaptive-constraints", "report", *map(str, folders)]
    words += [] if out is None else ["--out", str(out)]
    words += [] if score == "last_ten" else ["--score", score]
    return shlex.join(words)


__all__ = ["Report", "write_report"]
