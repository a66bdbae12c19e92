"""What a report draws: short names, the best stacks, the data's own score, and pages without the libraries."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.data.references import SUCCESS
from adaptive_constraints.errors import DependencyError
from adaptive_constraints.reports import charts, text
from adaptive_constraints.reports.figures import MOST, figures, level
from adaptive_constraints.reports.findings import ALL, find
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.names import Names
from adaptive_constraints.reports.report import write_report

from .synthetic_rows import HOPPER, MAZE, folder, grid, in_returns, lost, row

drawing = pytest.mark.skipif(not charts.installed(), reason="Altair (extra report) is not installed")


def found(at, rows, **changed):
    return find(read_grid([folder(at, rows, **changed)]), "last_ten")


# -- names ----------------------------------------------------------------------------------------------------------


def test_what_all_stacks_have_in_common_is_said_once(tmp_path):
    learner = "TD3BC(batch_size=64, critic=robust)"
    rows = [row(learner, some, HOPPER, seed) for some in ((), ("SSAR(hidden=64)",)) for seed in range(2)]
    rows += [row("TD3BC(alpha=8, critic=robust)", ["SSAR(hidden=64, frozen=true)"], HOPPER, seed) for seed in range(2)]
    for row_ in rows:
        row_["cell"] = re.sub(r"\W", "-", row_["stack"])
    findings = found(tmp_path, rows)
    assert [stack.label for stack in findings.grid.stacks] == [
        "TD3BC(batch_size=64)",
        "TD3BC(batch_size=64) + SSAR",
        "TD3BC(alpha=8) + SSAR(frozen=true)",
    ]
    assert text.common(findings.grid) == ["TD3BC: critic=robust", "SSAR: hidden=64"]
    assert dict(text.facts(findings.grid, "last"))["Settings of all"] == "TD3BC: critic=robust; SSAR: hidden=64"
    assert [text.title(effect) for effect in findings.effects] == ["SSAR on TD3BC(batch_size=64)"]
    report = write_report([tmp_path])
    page = report.html.read_text(encoding="utf-8")
    assert 'data-stack="TD3BC(batch_size=64) + SSAR"' in page
    assert "<dd>TD3BC: critic=robust; SSAR: hidden=64</dd>" in page
    assert "--learner TD3BC(batch_size=64, critic=robust)" in page, "commands name everything"
    assert "- Settings of all: TD3BC: critic=robust; SSAR: hidden=64" in report.markdown.read_text(encoding="utf-8")


def test_nothing_is_said_of_stacks_that_have_nothing_in_common(tmp_path):
    findings = found(tmp_path, grid(seeds=1))
    assert text.common(findings.grid) == []
    assert "Settings of all" not in dict(text.facts(findings.grid, "last"))


@pytest.mark.parametrize(
    ("parts", "short"),
    [
        (["A(x=[1, 2], y=f(1, 2))", "A(x=[1, 2], y=3)"], ["A(y=f(1, 2))", "A(y=3)"]),
        (["A(x=1)", "A"], ["A(x=1)", "A"]),
        (["A(x=1)"], ["A"]),
        (["A(x=1", "<b>(y)z"], ["A(x=1", "<b>(y)z"]),
    ],
)
def test_settings_are_told_apart_at_commas_outside_brackets(parts, short):
    names = Names.of([row("TD3BC", [], HOPPER, 0) | {"learner": part} for part in parts])
    assert [names.part(part) for part in parts] == short


def test_what_stands_behind_the_parts_is_kept():
    made = row("TD3BC", ["ASPC"], HOPPER, 0) | {"learner": "A(x=1)", "adapters": ["B"]}
    rows = [made | {"stack": f"A(x=1) + B{end}"} for end in ("", ", online")]
    names = Names.of(rows)
    assert [names.stack(row_) for row_ in rows] == ["A + B", "A + B, online"]
    assert names.stack(made | {"stack": "our method"}) == "our method"


def test_published_figures_still_find_their_stack(tmp_path):
    learner = "TD3BC(critic=robust)"
    published = [{"data": HOPPER, "stack": learner, "score": 50.0, "spread": None, "source": "a paper"}]
    findings = find(read_grid([folder(tmp_path, [row(learner, [], HOPPER, 0)], published)]), "last")
    (figure,) = findings.grid.published()
    assert text.published_ours(figure, findings.grid).stack.label == "TD3BC"


# -- which stacks ---------------------------------------------------------------------------------------------------


def levels(count):
    """Stacks of which each is better than the one before it."""
    rows = []
    for place in range(count):
        learner = f"TD3BC(alpha={place})"
        made = row(learner, [], HOPPER, 0, cell=str(place))
        numbers = dict.fromkeys(("last", "best", "last_ten"), float(place))
        rows.append(made | numbers)
    return rows


@drawing
def test_the_best_are_drawn_and_the_last_of_the_suite_with_them(tmp_path):
    findings = found(tmp_path, levels(30))
    best = [f"TD3BC(alpha={place})" for place in range(29, -1, -1)]
    assert findings.ranking(HOPPER) == best
    by_section = {figure.section: figure for figure in figures(findings)}
    for section in ("scores", "profiles", "curves"):
        figure = by_section[section]
        shown = list(dict.fromkeys(charts.key(row_) for row_ in figure.best()))
        assert shown == best[: MOST[section]]
        assert figure.count == 30, "the page may draw any of them, once filters leave it"
    report = write_report([tmp_path])
    assert f"![Learning curves, {HOPPER}: the best 7 of 30]" in report.markdown.read_text(encoding="utf-8")


def test_stacks_without_a_number_come_last(tmp_path):
    rows = [in_returns(row_) for row_ in grid(("TD3BC",), ((), ("ASPC",), ("ANQ",)), (HOPPER,), 1)]
    rows[0] = lost(rows[0])
    ranking = found(tmp_path, rows).ranking(HOPPER)
    assert ranking[-1] == "TD3BC" and len(ranking) == 3


@drawing
def test_a_stack_keeps_its_colour_in_every_figure(tmp_path):
    findings = found(tmp_path, grid())
    domains = [
        layer["encoding"]["color"]["scale"]["domain"]
        for figure in figures(findings)
        for layer in figure.chart()["layer"]
        if "color" in layer["encoding"]
    ]
    assert domains and all(domain == domains[0] for domain in domains)
    assert domains[0][:7] == findings.ranking(ALL)[:7] and len(domains[0]) == 8


# -- what is drawn --------------------------------------------------------------------------------------------------


def own(findings, scope):
    (figure,) = [one for one in figures(findings) if (one.section, one.scope) == ("curves", scope)]
    return [row_["own"] for row_ in figure.rows if "own" in row_]


def with_return(row_, mean_return, fingerprint=None):
    data = row_["data"] | {"mean_return": mean_return}
    return row_ | {"data": data | ({} if fingerprint is None else {"fingerprint": fingerprint})}


@drawing
def test_the_datas_own_score_stands_in_its_learning_curves(tmp_path):
    rows = grid(("TD3BC",), ((), ("ASPC",)), (HOPPER, MAZE), 2)
    known = [with_return(row_, 20 + 3180 * (0.5 if row_["data"]["reference"] == HOPPER else 0.25)) for row_ in rows]
    findings = found(tmp_path / "known", known)
    assert own(findings, HOPPER) == [50] and own(findings, MAZE) == [25]
    assert own(found(tmp_path / "older", rows), HOPPER) == []
    unknown = found(tmp_path / "pieces", [with_return(row_, None) for row_ in rows])
    assert own(unknown, HOPPER) == []
    returns = found(tmp_path / "returns", [in_returns(with_return(row_, 321.0)) for row_ in rows])
    assert own(returns, HOPPER) == [321]
    shares = {"random": 0.0, "expert": 1.0, "source": SUCCESS.source}
    success = [with_return(row_, 321.0) | {"reference": shares} for row_ in rows]
    assert own(found(tmp_path / "success", success), HOPPER) == [], "a return is no share of successes"


def test_the_datas_own_score_is_the_mean_over_its_draws(tmp_path):
    rows = [
        with_return(row("TD3BC", [], f"scripted:pendulum/mixed#draw={draw}", 0), 20 + 3180 * score, str(draw))
        for draw, score in ((0, 0.5), (1, 0.7))
    ]
    (cell,) = found(tmp_path, rows).grid.cells.values()
    assert cell.behaviour == pytest.approx(60)
    assert found(tmp_path / "half", [rows[0], with_return(rows[1], None)]).grid.cells.popitem()[1].behaviour is None


@drawing
def test_what_is_all_equal_is_said_and_not_drawn(tmp_path):
    rows = grid(("TD3BC",), ((), ("ASPC",)), (HOPPER,), 2)
    flat = [
        row_ | {"series": {name: [steps, [1.0] * len(steps)] for name, (steps, _) in row_["series"].items()}}
        for row_ in rows
    ]
    findings = found(tmp_path, flat)
    assert level(figures(findings)) == [f"Adaptive quantities, aspc/scale on {HOPPER}: all equal, 1"]
    report = write_report([tmp_path])
    assert "quantities-bundled-hopper.png" not in {path.name for path in report.pictures}
    assert f"Adaptive quantities, aspc/scale on {HOPPER}: all equal, 1." in report.markdown.read_text(encoding="utf-8")


def test_all_equal_means_every_number():
    line = {"stack": "a", "x": [1, 2], "y": [1, 1], "low": [1, 1], "high": [1, None]}
    assert charts.all_equal([line]) == 1
    assert charts.all_equal([line, {"stack": "b", "seed": 0, "x": [1], "y": [2]}]) is None
    assert charts.all_equal([line, {"own": 3}]) is None
    assert charts.all_equal([{"name": "a", "value": 0, "low": None, "high": None}]) == 0


@drawing
def test_axes_say_their_units_and_which_way_is_better(tmp_path):
    rows = [
        row_ | {"series": row_["series"] | {"ilq/model_error": [[1, 2], [1, 500]]}}
        for row_ in grid(("TD3BC",), seeds=2)
    ]
    titles, logarithmic = {}, {}
    for figure in figures(found(tmp_path, rows)):
        layer = figure.chart()["layer"][-1]["encoding"]
        titles[figure.section, figure.title] = layer["x" if figure.section in ("scores", "effects") else "y"].get(
            "title"
        )
        logarithmic[figure.section, figure.title] = layer.get("y", {}).get("scale", {}).get("type") == "log"
    assert titles["curves", HOPPER] == "normalised score, higher is better"
    assert titles["profiles", ALL] == "share of seeds above, higher is better"
    assert titles["quantities", "ilq/model_error"] == ["holdout error, lower is", "better"]
    assert " ".join(titles["quantities", "aspc/scale"]) == "trade-off, value against constraint"
    assert [key for key, is_log in logarithmic.items() if is_log] == [("quantities", "ilq/model_error")]


def test_quantities_of_strangers_go_by_their_names():
    assert text.quantity("mine/thing") == "mine/thing" and text.quantity("mine/scale") == "mine/scale"
    assert text.quantity("ssar/weight, 10, 50, 90 %") == "weight of the constraint"


@drawing
def test_a_legend_names_what_is_drawn_in_as_many_columns_as_fit():
    tree = charts.lines(("a", "b", "c" * 60), "steps", "score")
    rows = [{"stack": name, "x": [1, 2], "y": [1, 2], "low": [1, 2], "high": [1, 2]} for name in ("b", "c" * 60)]
    for kept, width, columns in ((rows, 640, 1), (rows[:1], 640, 1), ([rows[0], rows[0] | {"stack": "a"}], 640, 2)):
        legends = [
            channel["legend"]
            for layer in charts.filled(tree, kept, width)["layer"]
            for channel in layer["encoding"].values()
            if isinstance(channel, dict) and channel.get("legend")
        ]
        assert {json.dumps(one["values"]) for one in legends} == {json.dumps([row_["stack"] for row_ in kept])}
        assert {one["columns"] for one in legends} == {columns}
        assert {one["labelLimit"] for one in legends} == {0}
    assert "values" not in json.dumps(tree), "filling leaves the tree as it is"


@drawing
def test_names_of_estimates_are_broken_and_get_their_room():
    row_ = {"name": "a " * 100, "value": 1, "low": None, "high": None}
    wide, narrow = (charts.filled(charts.intervals("score"), [row_], width) for width in (640, 320))
    assert narrow["height"] > wide["height"]
    assert max(map(len, narrow["data"]["values"][0]["lines"].split("\n"))) * charts.LETTER <= 320


@drawing
def test_each_panel_of_a_picture_draws_its_own_rows():
    """In one picture, charts that share names of layers would all draw the rows of one."""
    import vl_convert

    tree = charts.lines(("a",), "steps", "score", small=True, moving=False)
    rows = [
        {"stack": "a", "x": [1, 2], "low": [1, 2], "high": [1, 2]} | {"y": [place, place + 1]} for place in (1, 700)
    ]
    both = charts.beside([charts.filled(tree, [row_], charts.SMALL) for row_ in rows])
    svg = vl_convert.vegalite_to_svg(both)
    assert ">600<" in svg and ">1.2<" in svg


@drawing
def test_equal_charts_give_equal_trees_without_addresses():
    tree = charts.lines.__wrapped__(("a",), "steps", "score")
    assert tree == charts.lines.__wrapped__(("a",), "steps", "score")
    assert "http" not in json.dumps(tree)


@drawing
def test_values_that_are_not_there_are_gaps(tmp_path):
    rows = grid(("TD3BC",), ((),), (HOPPER,), 2)
    rows[0] = lost(rows[0])
    (figure,) = [one for one in figures(found(tmp_path, rows)) if one.section == "curves"]
    seeds = {row_["seed"]: row_["y"] for row_ in figure.rows if "seed" in row_}
    assert seeds[0][3] is not None and seeds[0][4:] == [None] * 16 and None not in seeds[1]
    assert np.isfinite(figure.rows[0]["y"]).all()


# -- without the libraries ------------------------------------------------------------------------------------------


def test_a_page_without_the_libraries_has_its_tables_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    report = write_report([folder(tmp_path, grid(seeds=2))])
    page = report.html.read_text(encoding="utf-8")
    assert "pip install &#39;adaptive-constraints[report]&#39;" in page
    assert 'id="scores-table"' in page and 'data-figure="' not in page and "Performance profiles" not in page
    assert len(page) < 200_000
    assert report.pictures == () and "## Figures" not in report.markdown.read_text(encoding="utf-8")
    with pytest.raises(DependencyError, match=r"adaptive-constraints\[report\]"):
        figures(report.findings)
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "note: charts need Altair" in said and "report.html, report.md, 0 pictures" in said
