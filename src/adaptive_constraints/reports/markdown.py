"""A report as Markdown, with its figures as pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adaptive_constraints.experiments.rows import ResultRow
from adaptive_constraints.reports import text
from adaptive_constraints.reports.claims import Outcome
from adaptive_constraints.reports.findings import ALL, Effect, Findings
from adaptive_constraints.reports.grid import SCORES, Grid, GridCell, is_lost, seed_value


def document(findings: Findings, pictures: dict[str, Path], level: Sequence[str], command: str) -> str:
    """The whole document.

    pictures: files by caption, in the folder where the document will stand.
    level: what no picture shows because it is one number, in words.
    command: what makes this report, shown with it.
    """
    return "\n".join(_lines(findings, pictures, level, command)) + "\n"


def _lines(findings: Findings, pictures: dict[str, Path], level: Sequence[str], command: str) -> Iterator[str]:
    yield f"# {_escaped(text.heading(findings.grid))}"
    for about in dict.fromkeys(suite["about"] for suite in findings.grid.suites):
        yield from ("", _escaped(about))
    for warning in text.warnings(findings.grid):
        yield from ("", f"> {_escaped(warning)}")
    if findings.outcomes:
        yield from ("", "## Claims and outcomes", "", text.CLAIMS, *claims(findings.outcomes, findings.grid))
    yield from ("", "## Scores", "")
    yield f"Interquartile mean over seeds [95 % interval]; each seed counts with its {SCORES[findings.score]}."
    yield from ("", *_scores(findings))
    yield from ("", "## Effect of each adapter", "")
    yield "Mean difference of seeds with the adapter and the same seeds without it [95 % interval], n pairs."
    yield from ("", *_effects(findings))
    if findings.grid.published():
        yield from ("", "## Published figures", "")
        yield "They come from other code, other seeds and, where said, other data."
        yield from ("", *_published(findings))
    if pictures or level:
        yield from ("", "## Figures")
    for caption, path in pictures.items():
        yield from ("", f"![{_escaped(caption)}]({path.name})")
    for said in level:
        yield from ("", f"{_escaped(said)}.")
    yield from ("", "## Runs: speed, memory and commands", "", *_runs(findings))
    yield from ("", "## Each seed", "", *_seeds(findings))
    yield from ("", "## How it was made", "")
    for name, value in [*text.facts(findings.grid, findings.score), ("This report", command)]:
        yield f"- {name}: {_escaped(value)}"


def claims(outcomes: Sequence[Outcome], grid: Grid) -> Iterator[str]:
    """Each claim with its verdict and its table."""
    for outcome in outcomes:
        yield from ("", f"**{text.verdict(outcome)}** {_escaped(outcome.claim['text'])}")
        if notes := text.claim_notes(outcome):
            yield from ("", notes)
        if rows := text.claim_rows(outcome, grid):
            yield from ("", f"{_escaped(grid.named(outcome.claim['stack']))}:", "", *_table(text.CLAIM_HEADS, rows))


def _scores(findings: Findings) -> list[str]:
    rows = []
    for stack in findings.grid.stacks:
        cells = [findings.grid.cells.get((stack.label, scope)) for scope in findings.scopes]
        estimates = [findings.scores.get((stack.label, scope)) for scope in findings.scopes]
        rows.append([stack.label, *map(_with_lost, map(text.estimated, estimates), cells)])
    return _table(["stack", *_heads(findings)], rows)


def _with_lost(shown: str, cell: GridCell | None) -> str:
    badge = None if cell is None else text.lost(cell.lost, len(cell.rows), "seeds")
    return shown if badge is None else f"{shown} ({badge})"


def _heads(findings: Findings) -> list[str]:
    units = {data.label: data.unit for data in findings.grid.data} | {ALL: "normalised score"}
    return [f"{scope}, {units[scope]}" for scope in findings.scopes]


def _effects(findings: Findings) -> list[str]:
    if not findings.effects:
        return ["No stack was run both with and without one of its adapters on the same data and seeds."]
    heads = ["adapter on stack", *_heads(findings)]
    return _table(heads, [[text.title(effect), *_changes(effect, findings)] for effect in findings.effects])


def _changes(effect: Effect, findings: Findings) -> list[str]:
    cells = []
    for scope in findings.scopes:
        difference = effect.by_scope.get(scope)
        badge = None if difference is None else text.lost(difference.lost, difference.pairs, "pairs")
        cells.append(text.changed(difference) if badge is None else f"{text.changed(difference)} ({badge})")
    return cells


def _published(findings: Findings) -> list[str]:
    rows = []
    for figure in findings.grid.published():
        cell = text.published_ours(figure, findings.grid)
        ours = None if cell is None else findings.scores.get((cell.stack.label, cell.data.label))
        note = text.published_note(figure, findings.grid)
        source = figure["source"] + (f". {note}" if note else "")
        rows.append([figure["data"], figure["stack"], text.estimated(ours), text.printed(figure), source])
    return _table(["data", "stack", "ours", "published", "source"], rows)


def _runs(findings: Findings) -> list[str]:
    rows = []
    for cell in findings.grid.cells.values():
        costs = [shown for shown, _ in text.cost(cell)]
        rows.append([cell.stack.label, cell.data.label, str(len(cell.rows)), *costs, cell.rows[0]["command"]])
    return _table(["stack", "data", "seeds", *text.COSTS, "command"], rows)


def _seeds(findings: Findings) -> list[str]:
    rows = []
    for cell in findings.grid.cells.values():
        values = [f"{text.seed_name(row)}: {_seed(row, findings)}" for row in cell.rows]
        rows.append([cell.stack.label, cell.data.label, ", ".join(values)])
    return _table(["stack", "data", f"seed: {SCORES[findings.score]}"], rows)


def _seed(row: ResultRow, findings: Findings) -> str:
    if is_lost(row):
        return "lost"
    return text.number(seed_value(row, findings.score)) if row["evaluations"] else "not evaluated"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        _row([_escaped(head) for head in heads]),
        _row(["---"] * len(heads)),
        *(_row([_escaped(cell) for cell in row]) for row in rows),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(words: str) -> str:
    """The words less what Markdown or the HTML in it would take for its own."""
    one_line = " ".join(words.split())
    return re.sub(r"[\\`*_|<>#]|\](?=\()", r"\\\g<0>", one_line)


__all__ = ["claims", "document"]
