"""``report``: what a bench run found, as a page, as Markdown, and in short."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_constraints.cli.command import Command, Common
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.reports.grid import Score
from adaptive_constraints.reports.text import summary, verdict, warnings


@dataclass(kw_only=True)
class Report(Command):
    """Report what bench left: an HTML page that needs no network, Markdown with pictures, and the effects in short."""

    results: tuple[Path, ...]
    """Results folders, reported together."""
    out: Path | None = None
    """Folder to write to; by default report in the first results folder."""
    score: Score = "last_ten"
    """Number of a seed that counts: the mean of its last ten evaluations, its last, or its best (which flatters)."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Write the report, and show what became of claims and the effects of adapters."""
        from adaptive_constraints.reports import charts
        from adaptive_constraints.reports.report import write_report

        if not self.results:
            raise EvaluationError("name at least one results folder: what `bench` wrote to with --out")
        report = write_report(self.results, self.out, score=self.score)
        for warning in warnings(report.findings.grid):
            print(f"note: {warning}")
        if report.findings.outcomes:
            print("\nClaims, by the last evaluation of each seed:")
        for outcome in report.findings.outcomes:
            print(f"\n{outcome.claim['text']}\n  {verdict(outcome)}")
        if not charts.installed():
            print(f"note: {charts.MISSING}")
        for scope in report.findings.drawn_scopes:
            lines = [f"  {line}" for line in summary(report.findings.effects, scope)]
            if lines:
                print("\n".join([f"\n{scope}", *lines]))
        print(f"\nin {report.html.parent}: {report.html.name}, {report.markdown.name}, {len(report.pictures)} pictures")
        return 0


__all__ = ["Report"]
