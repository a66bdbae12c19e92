"""Reports of made-up results: what is found in them, and what the page, the Markdown and the pictures say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.errors import EvaluationError, TrainingError
from adaptive_constraints.experiments.rows import write_failure, write_rows
from adaptive_constraints.reports import charts, text
from adaptive_constraints.reports.findings import ALL, effects, find, profiles
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.html import page
from adaptive_constraints.reports.report import write_report
from adaptive_constraints.reports.statistics import interquartile_mean

from .synthetic_rows import HOPPER, MAZE, folder, grid, in_returns, lost, row

SMALL: dict[str, Any] = {"learners": ("TD3BC",), "subsets": ((), ("ASPC",)), "seeds": 2}


def numbered(row_, number):
    """The row with all its numbers set."""
    return row_ | {"last": number, "best": number, "last_ten": number}


def found_in(tmp_path, rows, **changed):
    return find(read_grid([folder(tmp_path / "results", rows, **changed)]), "last_ten")


def effect_of(findings, adapter, base):
    (effect,) = [
        effect for effect in effects(findings.grid, findings.score) if (effect.adapter, effect.base) == (adapter, base)
    ]
    return effect


# -- the grid -----------------------------------------------------------------------------------------------------


def test_the_grid_keeps_the_suites_order(tmp_path):
    rows = grid()
    read = read_grid([folder(tmp_path, rows)])
    assert [stack.label for stack in read.stacks] == list(dict.fromkeys(row_["stack"] for row_ in rows))
    assert [data.label for data in read.data] == [HOPPER, MAZE]
    assert len(read.cells) == 16 and not read.missing
    cell = read.cells["TD3BC + ASPC", MAZE]
    assert [row_["seed"] for row_ in cell.rows] == [0, 1, 2, 3]


def test_cells_that_have_not_finished_are_named(tmp_path):
    folder(tmp_path, grid(**SMALL))
    rows = [row_ for row_ in grid(**SMALL) if (row_["stack"], row_["data"]["reference"]) != ("TD3BC + ASPC", MAZE)]
    write_rows(tmp_path, rows)
    findings = find(read_grid([tmp_path]), "last_ten")
    assert findings.grid.missing == (("TD3BC + ASPC", MAZE, None),)
    assert any("1 planned cell not finished: TD3BC + ASPC on npz:maze" in note for note in text.warnings(findings.grid))
    assert ("TD3BC", ALL) in findings.scores
    assert ("TD3BC + ASPC", ALL) not in findings.scores  # it is not on all data sets


def test_a_cell_that_failed_is_named_with_its_reason(tmp_path):
    rows = grid(**SMALL)
    folder(tmp_path, rows)
    (gone,) = {row_["cell"] for row_ in rows if (row_["stack"], row_["data"]["reference"]) == ("TD3BC + ASPC", MAZE)}
    write_rows(tmp_path, [row_ for row_ in rows if row_["cell"] != gone])
    write_failure(tmp_path / "cells" / gone, gone, "no <such> file", "")
    report = write_report([tmp_path])
    assert (
        "not finished: TD3BC + ASPC on npz:maze/umaze.npz, which failed (no &lt;such&gt; file)."
        in report.html.read_text()
    )
    assert r"which failed (no \<such\> file)." in report.markdown.read_text()


def test_nothing_finished_and_no_results_are_errors(tmp_path):
    with pytest.raises(EvaluationError, match="no cell of .* has finished"):
        read_grid([folder(tmp_path / "empty", [])])
    with pytest.raises(TrainingError, match="no folder of bench results"):
        read_grid([tmp_path])


def test_folders_are_reported_together_but_no_seed_twice(tmp_path):
    rows = grid(**SMALL)
    first = folder(tmp_path / "first", [row_ for row_ in rows if not row_["adapters"]])
    second = folder(tmp_path / "second", [row_ for row_ in rows if row_["adapters"]])
    read = read_grid([first, second])
    assert len(read.cells) == 4
    assert effects(read, "last_ten")[0].adapter == "ASPC"  # twins meet across folders
    with pytest.raises(EvaluationError, match="seed 0 of TD3BC for 20000 steps is there 2 times"):
        read_grid([first, first])


def test_lengths_are_told_apart(tmp_path):
    rows = [row("TD3BC", [], HOPPER, 0), row("TD3BC", [], HOPPER, 0, steps=100, cell="short")]
    labels = [stack.label for stack in read_grid([folder(tmp_path, rows)]).stacks]
    assert labels == ["TD3BC, 20,000 steps", "TD3BC, 100 steps"]
    both = [
        row_ | {"steps": steps, "cell": f"{steps} {row_['cell']}"} for row_ in grid(("TD3BC",)) for steps in (100, 200)
    ]
    titles = [text.title(effect) for effect in found_in(tmp_path / "both", both).effects]
    averages = [f"{adapter} on TD3BC, {n} steps, mean over 2 stacks" for n in (100, 200) for adapter in ("ASPC", "ANQ")]
    assert sorted(titles[:4]) == sorted(averages)
    assert "ASPC on TD3BC + ANQ, 100 steps" in titles


# -- findings -----------------------------------------------------------------------------------------------------


def test_scores_are_interquartile_means(tmp_path):
    findings = found_in(tmp_path, grid())
    hopper, maze = (findings.grid.cells["TD3BC", data].values("last_ten") for data in (HOPPER, MAZE))
    assert findings.scores["TD3BC", HOPPER].value == interquartile_mean(hopper)
    assert findings.scores["TD3BC", ALL].value == interquartile_mean(np.concatenate([hopper, maze]))
    assert findings.scores["TD3BC", ALL].n == 8


def test_the_effect_of_an_adapter_is_paired_by_seed(tmp_path):
    rows = [
        numbered(row("TD3BC", adapters, HOPPER, seed), 10 * seed + gain)
        for adapters, gains in (((), (0, 0, 0)), (("ASPC",), (1, 2, -6)))
        for seed, gain in enumerate(gains)
    ]
    effect = effect_of(found_in(tmp_path, rows), "ASPC", "TD3BC")
    difference = effect.by_scope[HOPPER]
    assert difference.estimate.value == pytest.approx(-1)
    assert (difference.estimate.low, difference.estimate.high) == (-6, 2)
    assert (difference.higher, difference.pairs, difference.lost) == (2, 3, 0)
    # with: 1, 12, 14; without: 0, 10, 20; of nine meetings 1 + 2 + 2 are won
    assert difference.improvement.value == pytest.approx(5 / 9)
    assert [(pair.seed, pair.values) for pair in effect.pairs[HOPPER]] == [(0, (1, 0)), (1, (12, 10)), (2, (14, 20))]


def test_twins_share_everything_but_that_adapter(tmp_path):
    rows = [row("TD3BC", (), HOPPER, 0), row("TD3BC", ("ANQ", "ASPC"), HOPPER, 0), row("IQL", ("ASPC",), HOPPER, 0)]
    rows += [row("TD3BC", ("ASPC",), HOPPER, 1), row("TD3BC", ("SSAR",), MAZE, 0)]
    assert find(read_grid([folder(tmp_path, rows)]), "last_ten").effects == []
    other_length = row("TD3BC", ("ASPC",), HOPPER, 0, steps=100)
    assert found_in(tmp_path, [*rows, other_length]).effects == []
    effects = found_in(tmp_path, [*rows, row("TD3BC", ("ANQ",), HOPPER, 0)]).effects
    assert [text.title(effect) for effect in effects] == ["ASPC on TD3BC + ANQ", "ANQ on TD3BC"]


def test_stacks_of_one_seed_are_one_pair_of_the_average(tmp_path):
    findings = found_in(tmp_path, grid(learners=("TD3BC",)))
    average = effect_of(findings, "ASPC", "TD3BC, mean over 2 stacks")
    alone = [effect_of(findings, "ASPC", base).by_scope[ALL].estimate for base in ("TD3BC", "TD3BC + ANQ")]
    mean = average.by_scope[ALL].estimate
    assert mean.value == pytest.approx((alone[0].value + alone[1].value) / 2)
    assert mean.n == alone[0].n == 8


def test_a_lost_seed_counts_as_the_random_policy(tmp_path):
    rows = [numbered(row_, 50.0) for row_ in grid(**SMALL)]
    rows[2] = lost(row("TD3BC", (), MAZE, 0))
    findings = found_in(tmp_path, rows)
    assert findings.scores["TD3BC", MAZE].value == 25  # 0 and 50
    assert findings.grid.cells["TD3BC", MAZE].lost == 1
    difference = effect_of(findings, "ASPC", "TD3BC").by_scope[MAZE]
    assert (difference.estimate.value, difference.lost, difference.pairs) == (25, 1, 2)
    (profile,) = [
        profile
        for profile in profiles(findings.grid, "last_ten")
        if (profile.stack.label, profile.scope) == ("TD3BC", MAZE)
    ]
    assert profile.share[5] == 0.5  # half the seeds are above 2.5
    said = page(findings, None, "report")
    assert "1 of 2 seeds lost" in said and "lost at step 5,000: critic was not finite" in said
    assert "1 of 2 pairs lost" in said
    assert any("1 of 8 seeds were lost" in note for note in text.warnings(findings.grid))


def test_returns_are_not_put_together_and_lost_seeds_have_none(tmp_path):
    rows = grid(**SMALL)
    rows = [in_returns(row_) if row_["data"]["reference"] == MAZE else row_ for row_ in rows]
    rows[2] = lost(rows[2])
    rows[6], rows[7] = lost(rows[6]), lost(rows[7])
    findings = found_in(tmp_path, rows)
    assert findings.scopes == [HOPPER, MAZE]
    assert not any(scope == ALL for _, scope in findings.scores)
    assert findings.scores["TD3BC", MAZE].n == 1  # of two: the other is lost
    assert ("TD3BC + ASPC", MAZE) not in findings.scores
    assert effect_of(findings, "ASPC", "TD3BC").by_scope[MAZE].estimate is None
    assert {profile.scope for profile in findings.profiles} == {HOPPER}
    assert "1 of 2 seeds lost" in page(findings, None, "report")


def test_what_was_not_evaluated_is_not_lost(tmp_path):
    nothing = {"evaluations": [], "last": None, "best": None, "last_ten": None}
    findings = found_in(tmp_path, [row_ | nothing for row_ in grid(**SMALL)])
    assert findings.scores == {} and findings.profiles == []
    said = page(findings, None, "report")
    assert "not evaluated" in said and "lost</span>" not in said


@pytest.mark.parametrize(("score", "number"), [("last_ten", 3), ("last", 1), ("best", 2)])
def test_which_number_of_a_seed_counts(tmp_path, score, number):
    rows = [row_ | {"last": 1.0, "best": 2.0, "last_ten": 3.0} for row_ in grid(**SMALL)]
    findings = find(read_grid([folder(tmp_path, rows)]), score)
    assert findings.scores["TD3BC", ALL].value == number


def test_curves_keep_where_a_seed_was_lost(tmp_path):
    rows = grid(**SMALL)
    rows[4] = lost(rows[4])
    curves = read_grid([folder(tmp_path, rows)]).cells["TD3BC + ASPC", HOPPER].curves()
    assert curves.steps.tolist() == [1_000 * i for i in range(1, 21)]
    assert np.isnan(curves.scores[4:, 0]).all() and np.isfinite(curves.scores[:4, 0]).all()
    assert np.isfinite(curves.scores[:, 1]).all()
    steps, values = curves.series["aspc/scale"]
    assert values.shape == (len(steps), 2)


# -- words --------------------------------------------------------------------------------------------------------


def test_numbers_in_words():
    assert [text.number(value) for value in (3.14, -0.04, -2, 12345.6)] == ["3.1", "0.0", "\u22122.0", "12,346"]
    assert [text.signed(value) for value in (3.14, -2, -0.02)] == ["+3.1", "\u22122.0", "0.0"]
    assert [text.duration(value) for value in (2.25, 200, 7_500)] == ["2.2 s", "3 min 20 s", "2 h 05 min"]


# -- files --------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of a small grid on regenerated data, with published figures, and rows that try to break out."""
    rows = grid(**SMALL)
    for row_ in rows:
        row_["command"] += f" {EVIL}"
        row_["device"] = EVIL
        row_["data"]["regenerated"] = row_["data"]["reference"] == MAZE
    figures = [
        {"data": MAZE, "stack": "TD3BC + ASPC", "score": 61.2, "spread": 4.1, "source": f"a paper {EVIL}"},
        {"data": HOPPER, "stack": "Another", "score": 70.0, "spread": None, "source": "a paper, table 2"},
        {"data": "not:run", "stack": "Another", "score": 70.0, "spread": None, "source": "a paper, table 2"},
    ]
    at = folder(tmp_path_factory.mktemp("results"), rows, figures, about=EVIL, suite=EVIL)
    return write_report([at])


class Page(HTMLParser):
    """The tags of a page with their attributes, and the rows of each table as texts."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.tables, self.open = [], {}, None
        self.feed(source)
        self.tables = {
            name: [[" ".join(cell.split()) for cell in cells] for cells in rows] for name, rows in self.tables.items()
        }

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table" and "id" in attributes:
            self.open = self.tables.setdefault(attributes["id"], [])
        elif tag == "tr" and self.open is not None and ("data-learner" in attributes or not self.open):
            self.open.append([])
        elif tag in ("td", "th") and self.open and self.open[-1] is not None:
            self.open[-1].append("")

    def handle_data(self, data):
        if self.open and self.open[-1]:
            self.open[-1][-1] += data


def test_the_page_holds_everything_and_asks_for_nothing(report):
    source = report.html.read_text(encoding="utf-8")
    read = Page(source)
    assert not [
        name for name, attributes in read.tags if name in ("img", "iframe", "object", "embed") or "src" in attributes
    ]
    assert [attributes["href"] for name, attributes in read.tags if name == "link"] == ["data:,"]
    own = source.replace(
        charts.library() if charts.installed() else "", ""
    )  # what that asks for, a browser's test sees
    assert not re.search(r"(?:https?:)?//[\w.-]+\.\w+", own)
    assert "{{" not in own and "{%" not in own
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    links = {attributes["href"][1:] for name, attributes in read.tags if name == "a"}
    assert links <= set(identities)
    labelled = [attributes for name, attributes in read.tags if name == "th"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in labelled)


def test_what_rows_say_never_becomes_markup(report):
    source = report.html.read_text(encoding="utf-8")
    assert "alert(1)" in source
    assert "<script>alert(1)" not in source
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "alert(1)" in markdown and EVIL not in markdown


def test_the_tables_of_the_page(report):
    tables = Page(report.html.read_text(encoding="utf-8")).tables
    head, bare, adapted = (row[0] for row in tables["scores-table"])
    assert head.startswith("Stack") and (bare, adapted) == ("TD3BC", "TD3BC + ASPC")
    (effect,) = [row for row in tables["effects-table"] if row[0].startswith("ASPC on TD3BC")]
    assert re.match(r"[+\u2212][\d.]+ \[[+\u2212][\d.]+, [+\u2212][\d.]+\], n=4", effect[1])
    ours, theirs = tables["published-table"][1][2:4]
    assert theirs == "61.2 ± 4.1" and "61.2" not in ours
    assert "do not compare with figures published for D4RL" in tables["published-table"][1][4]
    assert tables["published-table"][2][1:4] == ["Another", "\N{EN DASH}", "70.0"]
    assert len(tables["published-table"]) == 3  # what was not run is not there
    assert len(tables["runs-table"]) == 5
    assert all("adaptive-constraints train --data" in row[-1] for row in tables["runs-table"][1:])


def test_markdown_shows_what_the_page_shows(report):
    markdown = report.markdown.read_text(encoding="utf-8")
    scores = Page(report.html.read_text(encoding="utf-8")).tables["scores-table"]
    estimate = report.findings.scores["TD3BC + ASPC", ALL]
    assert text.estimated(estimate) in scores[2][1]
    assert f"| TD3BC + ASPC | {text.estimated(estimate)} |" in markdown
    assert "| ASPC on TD3BC | +" in markdown
    assert "> npz:maze/umaze.npz: this data was recorded anew" in markdown
    for path in report.pictures:
        assert f"({path.name})" in markdown
        assert path.read_bytes().startswith(b"\x89PNG")
    names = {"scores.png", "effects.png", "profiles.png", "curves-bundled-hopper.png", "quantities-bundled-hopper.png"}
    assert {path.name for path in report.pictures} >= (names if charts.installed() else set())
    widths = {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("| TD3BC |")}
    assert widths == {5, 10, 4}  # scores, runs, seeds: no text of a row broke its table


def test_bars_in_the_name_of_data_break_no_table(tmp_path):
    derived = "npz:maze/umaze.npz|fraction(0.5)|noise(0.1)"
    report = write_report([folder(tmp_path / "results", grid(**SMALL, data=(HOPPER, derived)))])
    lines = report.markdown.read_text(encoding="utf-8").splitlines()
    bars = [line.replace("\\|", "").count("|") if line.startswith("|") else 0 for line in lines]
    assert max(bars) > 3
    assert all(one == next_ for one, next_ in pairwise(bars) if one and next_)
    assert sum(derived.replace("|", "\\|") in line for line in lines if line.startswith("|")) >= 2


def test_equal_results_give_equal_files(report):
    files = [report.html, report.markdown, *report.pictures]
    before = [path.read_bytes() for path in files]
    assert write_report([report.html.parents[1]]).pictures == report.pictures
    assert [path.read_bytes() for path in files] == before


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_the_effects(tmp_path, capsys):
    at = folder(tmp_path / "results", grid(**SMALL, data=(HOPPER,)))
    assert main(["report", str(at), "--out", str(tmp_path / "out"), "--score", "last"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"ASPC on TD3BC: [+\u2212][\d.]+ \[.*\], n=2", said)
    assert "note: Some cells have 2 seeds: an interval named 95 % then holds the true mean about half" in said
    assert f"in {tmp_path / 'out'}: report.html, report.md, {5 if charts.installed() else 0} pictures" in said
    assert "report --score" not in said
    assert "--score last" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_command_refuses_what_is_no_results_folder(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is no folder of bench results" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "name at least one results folder" in capsys.readouterr().err
