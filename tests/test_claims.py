"""Claims of suites: what may be written, and what rows say of them, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from adaptive_constraints import load_dataset
from adaptive_constraints.data.sources.scripted import drawn, draws_of, undrawn
from adaptive_constraints.errors import SuiteError
from adaptive_constraints.experiments.results import ResultsFolder
from adaptive_constraints.experiments.rows import Claim, ResultRow, read_suite
from adaptive_constraints.experiments.suite import load_suite
from adaptive_constraints.reports import text
from adaptive_constraints.reports.claims import outcome
from adaptive_constraints.reports.findings import find
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.report import write_report

from .synthetic_rows import folder, row

MIXED, EXPERT = "scripted:pendulum/mixed", "scripted:pendulum/expert"


def claim(expect: Any, against: tuple[str, ...] = ("TD3BC",), share: float = 0.0, data: tuple[str, ...] = ()) -> Claim:
    data = data or tuple(f"{name}#draw={draw}" for name in (MIXED, EXPERT) for draw in (0, 1))
    return {
        "text": "It helps; refuted if not.",
        "expect": expect,
        "stack": "TD3BC + ASPC",
        "against": list(against),
        "data": list(data),
        "share": share,
    }


def scored(scores: dict[str, dict[str, list[float]]], learner: str = "TD3BC") -> list[ResultRow]:
    """Rows of scores by stack, then data reference, seed by seed."""
    rows = []
    for stack, on in scores.items():
        for reference, values in on.items():
            for seed, value in enumerate(values):
                made = row(stack.partition(" + ")[0], stack.split(" + ")[1:], "bundled:hopper", seed)
                data = made["data"] | {"reference": reference, "name": reference, "fingerprint": reference[::-1]}
                cell = f"{stack}-{reference}".replace(" ", "").replace(":", "-").replace("/", "-").replace("#", "-")
                rows.append(made | {"data": data, "cell": cell, "last": value, "best": value, "last_ten": value})
    return rows


def on_both(mixed: tuple[list[float], list[float]], expert: tuple[list[float], list[float]]) -> dict[str, list[float]]:
    """By reference: each set has two draws."""
    pairs = {MIXED: mixed, EXPERT: expert}
    return {f"{name}#draw={draw}": values for name, of in pairs.items() for draw, values in enumerate(of)}


BARE = on_both(([10, 12, 14], [11, 13, 15]), ([90, 91, 92], [93, 94, 95]))


def shifted(mixed: float, expert: float) -> dict[str, list[float]]:
    shift = {MIXED: mixed, EXPERT: expert}
    return {
        name: [value + shift[name.partition("#")[0]] + (seed - 1) for seed, value in enumerate(values)]
        for name, values in BARE.items()
    }


@pytest.mark.parametrize(
    ("mixed", "expert", "nowhere_worse", "better"),
    [
        (20, 5, "holds", "holds"),
        (20, -5, "refuted", "holds"),  # on average it is better, on expert it is worse
        (-20, -5, "refuted", "refuted"),
        (0, 0, "holds", "undecided"),  # -1, 0, 1 by seed
    ],
)
def test_outcomes_by_hand(mixed: float, expert: float, nowhere_worse: str, better: str) -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(mixed, expert)})
    first = outcome(claim("nowhere worse"), rows, "last")
    assert (first.verdict, outcome(claim("better"), rows, "last").verdict) == (nowhere_worse, better)
    assert first.whole is not None and first.whole.value == pytest.approx((mixed + expert) / 2)
    by_label = {part.label: part for part in first.on}
    assert by_label[MIXED].difference.value == pytest.approx(mixed)
    assert by_label[EXPERT].difference.n == 6
    assert by_label[EXPERT].wins == (6 if expert == 5 else 2 if expert == 0 else 0)
    assert by_label[MIXED].against.value == pytest.approx(12.5)


def test_the_share_of_the_best_is_of_the_best_rival_of_each_set() -> None:
    """Rivals are best on one set each: 50 of 100 and 80 of 100 are 65 %."""
    rivals = {
        "TD3BC": on_both(([100, 100], [100, 100]), ([1, 1], [1, 1])),
        "IQL": on_both(([1, 1], [1, 1]), ([100, 100], [100, 100])),
    }
    ours = on_both(([50, 50], [50, 50]), ([80, 80], [80, 80]))
    rows = scored({**rivals, "TD3BC + ASPC": ours})
    found = outcome(claim("share of best", ("TD3BC", "IQL"), 0.6), rows, "last")
    assert found.whole is not None and found.whole.value == pytest.approx(0.65)
    assert {part.label: part.rival for part in found.on} == {MIXED: "TD3BC", EXPERT: "IQL"}
    assert found.verdict == "holds"
    assert outcome(claim("share of best", ("TD3BC", "IQL"), 0.7), rows, "last").verdict == "refuted"


def test_a_share_is_of_pairs_that_share_draw_and_seed() -> None:
    """Where every pair has the same share, draws that differ tenfold leave nothing unsure."""
    rival = on_both(([10, 100], [20, 200]), ([100, 10], [200, 20]))
    ours = {name: [0.8 * value for value in values] for name, values in rival.items()}
    found = outcome(claim("share of best", share=0.7), scored({"TD3BC": rival, "TD3BC + ASPC": ours}), "last")
    assert found.whole is not None
    assert (found.whole.value, found.whole.low, found.whole.high) == pytest.approx((0.8, 0.8, 0.8))


def test_missing_seeds_leave_a_claim_undecided() -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    found = outcome(claim("better"), rows[:-1], "last")
    assert (found.verdict, found.missing, found.whole) == ("undecided", 1, None)
    assert text.verdict(found) == "Undecided: 1 pair not there."
    assert outcome(claim("better", data=("npz:other.npz",)), rows, "last").verdict == "undecided"


def test_a_report_begins_with_claims_and_puts_draws_together(tmp_path) -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, -5)})
    results = folder(tmp_path / "results", rows, claims=[claim("nowhere worse"), claim("better")])
    findings = find(read_grid([results]), "last")
    assert [data.label for data in findings.grid.data] == [EXPERT, MIXED]
    assert len(findings.grid.cells["TD3BC", MIXED].rows) == 6
    assert findings.grid.cells["TD3BC", MIXED].draws("last").tolist() == [0, 1, 0, 1, 0, 1]
    report = write_report([results], score="last")
    markdown, html = report.markdown.read_text(encoding="utf-8"), report.html.read_text(encoding="utf-8")
    assert markdown.index("Claims and outcomes") < markdown.index("## Scores")
    assert "**Refuted: +7.5 [" in markdown and "**Holds: +7.5 [" in markdown
    assert "0: 10.0, 0: " not in markdown and "0 (draw 1): 11.0" in markdown
    assert 'class="refuted"' in html and html.index('id="claims"') < html.index('id="scores"')


SUITE = """
about = "x"
learners = "TD3BC hidden=8"
adapters = ["none", "ASPC"]
data = ["scripted:pendulum/{mixed,expert}"]
draws = [3, 5]
seeds = 2
steps = 10

[[claim]]
text = "ASPC helps."
expect = "better"
stack = "TD3BC hidden=8 + ASPC"
against = "TD3BC hidden=8"
data = "*/mixed"
"""


def written(tmp_path, words: str):
    path = tmp_path / "own.toml"
    path.write_text(words, encoding="utf-8")
    return path


def test_draws_are_cells_and_claims_name_them(tmp_path) -> None:
    suite = load_suite(written(tmp_path, SUITE))
    assert len(suite.cells) == 8
    assert {cell.data for cell in suite.cells if "mixed" in cell.data} == {f"{MIXED}#draw=3", f"{MIXED}#draw=5"}
    (made,) = suite.claims
    assert made["stack"] == "TD3BC(hidden=8) + ASPC" and made["data"] == [f"{MIXED}#draw=3", f"{MIXED}#draw=5"]
    ResultsFolder(tmp_path / "results", suite, suite.cells, "bench own")
    assert read_suite(tmp_path / "results")["claims"] == [made]
    ResultsFolder(tmp_path / "few", suite, suite.cells[:2], "bench own")
    assert read_suite(tmp_path / "few")["claims"] == []  # its cells are not all planned


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('expect = "better"', 'expect = "best"', 'claim 1, expect: "nowhere worse", "better" or "share of best"'),
        ('data = "*/mixed"', 'data = "*/slips"', "claim 1, data: no data set that all its stacks share"),
        ("hidden=8 + ASPC", "hidden=8 + ANQ", r"claim 1: no grid has the stack TD3BC\(hidden=8\) \+ ANQ"),
        ('data = "*/mixed"', "share = 0.9", "a number above 0 belongs to"),
        ("draws = [3, 5]", "draws = [3, 3]", "the top, draws: 3 stands there twice"),
        ("draws = [3, 5]", "draws = [-1]", "the top, draws: numbers from 0 are needed"),
        ("scripted:pendulum/{mixed,expert}", "bundled:hopper", "bundled:hopper is one data set; draws are of scripted"),
    ],
)
def test_what_is_wrong_with_a_claim_is_said(tmp_path, before: str, after: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        load_suite(written(tmp_path, SUITE.replace(before, after)))


def test_draws_reach_recipes_inside_derived_sets(tmp_path) -> None:
    """Each recipe that names no draw gets one; what was done to it stays part of the label."""
    scarce = "scripted:pendulum/mixed | fraction(0.05) | mix(scripted:pendulum/expert#draw=7, 0.5)"
    assert drawn(scarce, 3) == scarce.replace("mixed |", "mixed#draw=3 |")
    assert drawn("scripted:pendulum/mixed-30", 1) == "scripted:pendulum/mixed-30#draw=1"
    assert drawn("bundled:hopper | top(0.5)", 1) == "bundled:hopper | top(0.5)"
    assert undrawn(drawn(scarce, 3)) == undrawn(scarce) == scarce.replace("#draw=7", "")
    assert (draws_of(drawn(scarce, 3)), draws_of("bundled:hopper")) == ("3, 7", "")
    text = SUITE.replace("scripted:pendulum/{mixed,expert}", "scripted:pendulum/{mixed,expert} | fraction(0.05)")
    suite = load_suite(written(tmp_path, text.replace('data = "*/mixed"', 'data = "*/mixed | *"')))
    assert {cell.data for cell in suite.cells} == {
        f"scripted:pendulum/{name}#draw={draw} | fraction(0.05)" for name in ("mixed", "expert") for draw in (3, 5)
    }
    assert [undrawn(name) for name in suite.claims[0]["data"]] == [f"{MIXED} | fraction(0.05)"] * 2
    assert load_dataset(suite.claims[0]["data"][0]).episodes == 5


def test_fractions_of_a_recipe_are_other_data_than_the_recipe(tmp_path) -> None:
    """In a report: two columns, each with both draws."""
    scarce = {f"{MIXED}#draw={draw} | fraction(0.1)": [1.0, 2.0] for draw in (0, 1)}
    rows = scored({"TD3BC": {**BARE, **scarce}})
    grid = read_grid([folder(tmp_path, rows)])
    assert [data.label for data in grid.data] == [EXPERT, MIXED, f"{MIXED} | fraction(0.1)"]
    assert len(grid.cells["TD3BC", f"{MIXED} | fraction(0.1)"].rows) == 4
