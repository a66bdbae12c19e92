"""A report as one HTML page that needs nothing else: tables from here, figures drawn by its own small script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from adaptive_constraints.reports import text
from adaptive_constraints.reports.claims import Outcome
from adaptive_constraints.reports.figures import figure_data
from adaptive_constraints.reports.findings import ALL, Difference, Effect, Findings
from adaptive_constraints.reports.grid import SCORES, DataName, GridCell, StackName, is_lost, kind
from adaptive_constraints.support.markup import Html, embedded, join, tag

TEMPLATE = files("adaptive_constraints.reports") / "template"


def page(findings: Findings, command: str) -> str:
    """The whole page.

    command: what makes this report, shown with it.
    """
    parts = {
        "title": join([text.heading(findings.grid)]),
        "style": Html(_template("report.css")),
        "script": Html(_template("report.js")),
        "data": embedded(figure_data(findings)),
        "heading": tag("h1", text.heading(findings.grid)),
        "about": join(tag("p", about) for about in dict.fromkeys(suite["about"] for suite in findings.grid.suites)),
        "warnings": _warnings(findings),
        "facts": _facts(findings, command),
        "filters": _filters(findings),
        "score": join([SCORES[findings.score]]),
        "claims": _claims(findings),
        "claims_link": tag("a", "Claims", href="#claims") if findings.outcomes else Html(),
        "scores": _scores(findings),
        "effects": _effects(findings),
        "published": _published(findings),
        "runs": _runs(findings),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("page.html"))


def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


# -- what stands above --------------------------------------------------------------------------------------------


def _warnings(findings: Findings) -> Html:
    notes = text.warnings(findings.grid)
    return tag("ul", *(tag("li", note) for note in notes), class_="warnings") if notes else Html()


def _facts(findings: Findings, command: str) -> Html:
    entries = [*text.facts(findings.grid, findings.score), ("This report", command)]
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in entries), class_="facts")


def _filters(findings: Findings) -> Html:
    """A choice of data set, learners, and of each adapter with or without it."""
    learners = dict.fromkeys(stack.learner for stack in findings.grid.stacks)
    kinds = sorted({name for stack in findings.grid.stacks for name in stack.kinds})
    data = [(str(i), data.label) for i, data in enumerate(findings.grid.data)]
    return join(
        [
            _choice("Data set", "data", [("", "all"), *data]),
            tag("fieldset", tag("legend", "Learners"), *map(_box, learners)),
            *(_choice(name, "adapter", [("", "any"), ("1", "with"), ("0", "without")]) for name in kinds),
        ]
    )


def _choice(label: str, name: str, options: Sequence[tuple[str, str]]) -> Html:
    shown = [tag("option", words, value=value) for value, words in options]
    choices = tag("select", *shown, name=name, aria_label=label, data_kind=label if name == "adapter" else None)
    return tag("label", tag("span", label), choices)


def _box(learner: str) -> Html:
    return tag("label", tag("input", type="checkbox", name="learner", value=learner, checked=True), learner)


# -- tables -------------------------------------------------------------------------------------------------------


def _table(name: str | None, caption: str, heads: Iterable[Html], rows: Iterable[Html]) -> Html:
    """A table that sorts by its heads' buttons and scrolls within itself where the page is narrow."""
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *rows), id=name)
    return tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0)


def _head(label: str, note: str | None = None, scope: str | None = None, *, numeric: bool = True) -> Html:
    small = None if note is None else tag("small", note)
    words = join(part for piece in label.split("/") for part in ("/", tag("wbr"), piece))
    button = tag("button", tag("span", Html(words.removeprefix("/<wbr>"))), small, type="button")
    return tag("th", button, scope="col", data_scope=scope, class_="number" if numeric else None)


def _number(content: Html | str, value: float | None, scope: str | None = None) -> Html:
    return tag("td", content, class_="number", data_value=value, data_scope=scope)


def _row(learner: str, kinds: Sequence[str], *cells: Html, **known: str | int | None) -> Html:
    """A row that filters know; ``known`` is what the script is told beside."""
    return tag("tr", *cells, data_learner=learner, data_adapters=" ".join(kinds), **known)


def _column(scope: str, findings: Findings) -> Html:
    """The head of a scope's column."""
    if scope == ALL:
        return _head("All data sets", "score", ALL)
    data = _data(scope, findings)
    return _head(data.label, ("regenerated, " if data.regenerated else "") + data.unit.split()[-1], scope)


def _data(label: str, findings: Findings) -> DataName:
    return next(data for data in findings.grid.data if data.label == label)


def _claims(findings: Findings) -> Html:
    """What was claimed beforehand, and what became of it; nothing without claims."""
    if not findings.outcomes:
        return Html()
    return tag(
        "section",
        tag("h2", "Claims and outcomes"),
        tag("p", text.CLAIMS),
        *map(_claim, findings.outcomes),
        id="claims",
    )


def _claim(outcome: Outcome) -> Html:
    kinds = [None if name in text.CLAIM_WORDS else "number" for name in text.CLAIM_HEADS]
    heads = [tag("th", name, scope="col", class_=kind) for name, kind in zip(text.CLAIM_HEADS, kinds, strict=True)]
    rows = [
        tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(cells, kinds, strict=True)))
        for cells in text.claim_rows(outcome)
    ]
    table = _table(None, outcome.claim["stack"], heads, rows) if rows else None
    verdict = tag("strong", text.verdict(outcome), class_=outcome.verdict)
    return tag("div", tag("p", verdict, " ", outcome.claim["text"]), table, class_="claim")


def _scores(findings: Findings) -> Html:
    heads = [_head("Stack", numeric=False), *(_column(scope, findings) for scope in findings.scopes)]
    rows = [_score_row(stack, findings) for stack in findings.grid.stacks]
    return _table("scores-table", "Interquartile mean over seeds [95 % interval]", heads, rows)


def _score_row(stack: StackName, findings: Findings) -> Html:
    cells = [tag("th", stack.label, scope="row")]
    for scope in findings.scopes:
        estimate = findings.scores.get((stack.label, scope))
        cell = findings.grid.cells.get((stack.label, scope))
        shown = _interval(text.estimated(estimate))
        shown = shown if cell is None else _score(cell, shown, findings)
        cells.append(_number(shown, None if estimate is None else estimate.value, scope))
    return _row(stack.learner, stack.kinds, *cells, data_stack=stack.label)


def _interval(shown: str) -> Html:
    """``59.8 [53.9, 64.2]``, whose interval goes below its number where the page is narrow."""
    value, bracket, rest = shown.partition(" [")
    return join([value, tag("span", bracket + rest, class_="interval") if bracket else None])


def _score(cell: GridCell, shown: Html, findings: Findings) -> Html:
    """A number that unfolds into its seeds, and into the command that makes it."""
    badge = text.lost(cell.lost, len(cell.rows), "seeds")
    heads = [tag("th", name, scope="col") for name in ("seed", "last ten", "last", "best")]
    rows = [tag("tr", tag("th", text.seed_name(row), scope="row"), *_seed(cell, i)) for i, row in enumerate(cell.rows)]
    return tag(
        "details",
        tag("summary", shown, badge and tag("span", badge, class_="lost")),
        tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="inner"),
        _link("command", (cell.stack.label, cell.data.label), findings),
    )


def _seed(cell: GridCell, position: int) -> list[Html]:
    row = cell.rows[position]
    if not row["evaluations"] and row["lost"] is None:
        return [tag("td", "not evaluated", colspan=3)]
    if is_lost(row):
        where = row["lost"]
        why = "lost" if where is None else f"lost at step {where['step']:,}: {where['term']} was not finite"
        return [tag("td", why, colspan=3)]
    values = [row["last_ten"], row["last"], row["best"]]
    return [tag("td", text.MISSING if value is None else text.number(value)) for value in values]


def _link(words: str, run: tuple[str, str], findings: Findings) -> Html:
    """To the row of a run (stack label, data label), where its command stands."""
    return tag("a", words, href=f"#{_anchor(run, findings)}")


def _anchor(run: tuple[str, str], findings: Findings) -> str:
    return f"run-{list(findings.grid.cells).index(run)}"


def _effects(findings: Findings) -> Html:
    if not findings.effects:
        return tag("p", "No stack was run both with and without one of its adapters on the same data and seeds.")
    heads = [_head("Adapter on stack", numeric=False), *(_column(scope, findings) for scope in findings.scopes)]
    rows = [_effect_row(position, effect, findings) for position, effect in enumerate(findings.effects)]
    return _table("effects-table", "Mean paired difference [95 % interval], n pairs", heads, rows)


def _effect_row(position: int, effect: Effect, findings: Findings) -> Html:
    cells = [tag("th", text.title(effect), scope="row")]
    for scope in findings.scopes:
        difference = effect.by_scope.get(scope)
        value = None if difference is None or difference.estimate is None else difference.estimate.value
        cells.append(_number(_change(difference, _pairs(effect, scope, findings)), value, scope))
    kinds = effect.stack.kinds if effect.stack is not None else (kind(effect.adapter),)
    return _row(effect.learner, kinds, *cells, data_row=position)


def _change(difference: Difference | None, pairs: Html | None) -> Html:
    """A difference that unfolds into how often it was an improvement, and into its pairs."""
    if difference is None:
        return tag("span", text.MISSING)
    badge = text.lost(difference.lost, difference.pairs, "pairs")
    summary = tag("summary", _interval(text.changed(difference)), badge and tag("span", badge, class_="lost"))
    return tag("details", summary, tag("p", text.evidence(difference) or "no pair has numbers"), pairs)


def _pairs(effect: Effect, scope: str, findings: Findings) -> Html | None:
    """The pairs of one data set, and where the commands of both runs stand."""
    pairs = effect.pairs.get(scope)
    if pairs is None or effect.stack is None:
        return None
    heads = [tag("th", name, scope="col") for name in ("seed", "with", "without")]
    rows = [tag("tr", tag("th", str(pair.seed), scope="row"), *map(_side, pair.values)) for pair in pairs]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="inner")
    sides = [("command with", effect.stack.label), ("without", effect.base)]
    return join([table, *(join([_link(words, (stack, scope), findings), " "]) for words, stack in sides)])


def _side(value: float) -> Html:
    return tag("td", "no number" if value != value else text.number(value))


def _published(findings: Findings) -> Html:
    """Published figures in a column of their own, beside ours."""
    figures = findings.grid.published()
    if not figures:
        return Html()
    heads = [_head(name, numeric=False) for name in ("Data set", "Stack")]
    heads += [_head("ours"), _head("published"), _head("source", numeric=False)]
    rows = []
    for figure in figures:
        cell = text.published_ours(figure, findings.grid)
        ours = None if cell is None else findings.scores.get((cell.stack.label, cell.data.label))
        note = text.published_note(figure, findings.grid)
        cells = [tag("th", figure["data"], scope="row"), tag("td", figure["stack"])]
        cells += [_number(_interval(text.estimated(ours)), None if ours is None else ours.value)]
        cells += [_number(text.printed(figure), figure["score"])]
        cells += [tag("td", figure["source"], tag("small", note) if note else None)]
        stack = StackName(figure["stack"], "", ()) if cell is None else cell.stack
        rows.append(_row(stack.learner, stack.kinds, *cells, data_of=None if cell is None else cell.data.label))
    note = tag("p", "Published figures come from other code, other seeds and, where said, other data.")
    table = _table("published-table", "Ours beside published figures", heads, rows)
    return tag("section", tag("h2", "Published figures"), note, table, id="published")


def _runs(findings: Findings) -> Html:
    heads = [_head(name, numeric=False) for name in ("Stack", "Data set")]
    heads += [_head("seeds"), *map(_head, text.COSTS), *(_head(name, numeric=False) for name in ("device", "command"))]
    cells = findings.grid.cells.values()
    return _table(
        "runs-table", "One row per run; its seeds train together", heads, [_run_row(cell, findings) for cell in cells]
    )


def _run_row(cell: GridCell, findings: Findings) -> Html:
    first = cell.rows[0]
    threads = text.counted(first["threads"], "thread")
    return _row(
        cell.stack.learner,
        cell.stack.kinds,
        tag("th", cell.stack.label, scope="row", id=_anchor((cell.stack.label, cell.data.label), findings)),
        tag("td", cell.data.label),
        _number(str(len(cell.rows)), len(cell.rows)),
        *(_number(shown, value) for shown, value in text.cost(cell)),
        tag("td", f"{first['device']}, {threads}"),
        tag("td", tag("details", tag("summary", "show"), tag("code", first["command"]))),
        data_of=cell.data.label,
    )


__all__ = ["page"]
