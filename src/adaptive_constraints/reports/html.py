"""A report as one HTML page that needs nothing else: tables from templates, charts by a library that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from adaptive_constraints.reports import charts, text
from adaptive_constraints.reports.figures import MOST, Figure
from adaptive_constraints.reports.findings import ALL, Findings
from adaptive_constraints.reports.grid import SCORES, DataName, is_lost
from adaptive_constraints.reports.names import kind

TEMPLATE = files("adaptive_constraints.reports") / "template"


def page(findings: Findings, figures: Sequence[Figure] | None, command: str) -> str:
    """The whole page.

    figures: what it draws; None where the libraries for charts are not installed, which it then says.
    command: what makes this report, shown with it.
    """
    numbers = list(findings.grid.cells)
    return (
        _environment()
        .get_template("page.html")
        .render(
            findings=findings,
            grid=findings.grid,
            command=command,
            figures=figures,
            most=MOST,
            data=_data(findings, figures or ()),
            style=Markup(_read("report.css")),
            script=Markup(_read("report.js")),
            library=Markup(charts.library()) if figures else "",
            column=lambda scope: next((data for data in findings.grid.data if data.label == scope), None),
            anchor=lambda stack, data: f"run-{numbers.index((stack, data))}",
        )
    )


@cache
def _environment() -> Environment:
    """Everything that is put into a template is escaped, and nothing may be missing."""
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(
        text=text, ALL=ALL, SCORES=SCORES, CHARTS_MISSING=charts.MISSING, is_lost=is_lost, kind=kind, unit=_unit
    )
    return environment


def _read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _unit(data: DataName) -> str:
    """What stands below a column's head."""
    return f"{'regenerated, ' if data.regenerated else ''}{data.unit.split()[-1]}"


def _data(findings: Findings, figures: Sequence[Figure]) -> dict[str, Any]:
    """What the page's script draws. Charts that are alike stand there once."""
    trees: list[charts.Tree] = []
    drawn = []
    for figure in figures:
        tree = figure.chart()
        trees += [] if tree in trees else [tree]
        drawn.append(
            {"section": figure.section, "scope": figure.scope, "title": figure.title, "chart": trees.index(tree)}
            | {"rows": figure.rows}
        )
    return {
        "all": ALL,
        "scopes": findings.scopes,
        "charts": trees,
        "figures": drawn,
        "most": MOST,
        "letter": charts.LETTER,
        "step": [charts.NAME, charts.LINE],
        "beside": charts.BESIDE,
        "oneColumn": charts.ONE_COLUMN,
        "config": {"light": charts.config(), "dark": charts.config(dark=True)},
    }


__all__ = ["page"]
