"""Claims of suites: what may be written, and what rows say of them, against cases worked out by hand."""

from __future__ import annotations

from typing import Any, cast

import pytest

from adaptive_constraints import load_dataset
from adaptive_constraints.data.sources.scripted import drawn, draws_of, undrawn
from adaptive_constraints.errors import SuiteError
from adaptive_constraints.experiments.results import ResultsFolder
from adaptive_constraints.experiments.rows import Claim, PlannedCell, ResultRow, read_suite
from adaptive_constraints.experiments.suite import load_suite
from adaptive_constraints.reports import text
from adaptive_constraints.reports.claims import outcome
from adaptive_constraints.reports.findings import find
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.report import write_report

from .synthetic_rows import folder, lost, row

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
    first = outcome(claim("nowhere worse"), rows)
    assert (first.verdict, outcome(claim("better"), rows).verdict) == (nowhere_worse, better)
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
    found = outcome(claim("share of best", ("TD3BC", "IQL"), 0.6), rows)
    assert found.whole is not None and found.whole.value == pytest.approx(0.65)
    assert {part.label: part.rival for part in found.on} == {MIXED: "TD3BC", EXPERT: "IQL"}
    assert found.verdict == "holds"
    assert outcome(claim("share of best", ("TD3BC", "IQL"), 0.7), rows).verdict == "refuted"


def test_a_share_is_of_pairs_that_share_draw_and_seed() -> None:
    """Where every pair has the same share, draws that differ tenfold leave nothing unsure."""
    rival = on_both(([10, 100], [20, 200]), ([100, 10], [200, 20]))
    ours = {name: [0.8 * value for value in values] for name, values in rival.items()}
    found = outcome(claim("share of best", share=0.7), scored({"TD3BC": rival, "TD3BC + ASPC": ours}))
    assert found.whole is not None
    assert (found.whole.value, found.whole.low, found.whole.high) == pytest.approx((0.8, 0.8, 0.8))


def plan(stack: str, reference: str, seeds: int) -> PlannedCell:
    names = {"cell": f"{stack}-{reference}", "stack": stack, "learner": "TD3BC", "data": reference}
    return cast(PlannedCell, names | {"adapters": [], "seeds": list(range(seeds)), "steps": 20_000})


def test_planned_seeds_must_all_be_there() -> None:
    """Even where they are missing on both sides, and on a whole draw."""
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    planned = [plan(stack, name, 3) for stack in ("TD3BC", "TD3BC + ASPC") for name in BARE]
    assert outcome(claim("better"), rows, planned).verdict == "holds"
    fewer = [row for row in rows if row["seed"] != 2]
    assert outcome(claim("better"), fewer, planned).missing == 4
    without = [row for row in rows if row["data"]["reference"] != f"{MIXED}#draw=1"]
    assert outcome(claim("better"), without, planned).missing == 3


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", 40_000, "its stacks do not share steps: 20,000, 40,000"),
        ("fingerprint", "0123456789", "its stacks do not share data: 01234567, "),
        ("measure", "return", "its stacks do not share a score: return, score"),
    ],
)
def test_rows_that_do_not_compare_leave_a_claim_undecided(key: str, value: Any, said: str) -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    last: Any = rows[-1]
    changed = last | ({"data": last["data"] | {key: value}} if key == "fingerprint" else {key: value})
    found = outcome(claim("better"), [*rows[:-1], changed])
    assert found.verdict == "undecided" and said in text.verdict(found)


def test_a_stack_that_is_there_twice_leaves_a_claim_undecided() -> None:
    """Two lengths in two folders, of which the last would win."""
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    longer = [row | {"steps": 2 * row["steps"], "last": 0.0} for row in rows if row["stack"] == "TD3BC"]
    found = outcome(claim("better"), [*rows, *longer])
    assert found.verdict == "undecided" and "TD3BC is there more than once" in found.reason
    assert text.verdict(found).startswith("Undecided: TD3BC is there more than once")


def test_returns_of_several_tasks_are_not_averaged() -> None:
    rows = [row | {"measure": "return"} for row in scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})]
    assert outcome(claim("better"), rows).reason == "returns of several tasks cannot be averaged"
    nowhere = outcome(claim("nowhere worse"), rows)
    assert (nowhere.verdict, nowhere.whole) == ("holds", None)
    one = claim("better", data=(f"{MIXED}#draw=0", f"{MIXED}#draw=1"))
    assert outcome(one, rows).verdict == "holds"


@pytest.mark.parametrize("level", [-10, 0])
def test_a_share_of_what_is_not_above_zero_says_nothing(level: float) -> None:
    rival = on_both(([level - 1, level + 1], [level - 1, level + 1]), ([level - 1, level + 1], [level - 1, level + 1]))
    ours = {name: [2 * value for value in values] for name, values in rival.items()}
    found = outcome(claim("share of best", share=0.9), scored({"TD3BC": rival, "TD3BC + ASPC": ours}))
    assert found.verdict == "undecided" and "not surely above 0" in text.verdict(found)


def test_lost_seeds_and_other_machines_are_told() -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    rows[-2:] = [rows[-2] | {"device": "another"}, lost(rows[-1])]
    found = outcome(claim("nowhere worse"), rows)
    assert (found.lost, found.apart) == (1, 1)
    assert text.claim_notes(found) == (
        "1 seed diverged, and counts as a score of 0. In 1 of 12 pairs the sides ran with another commit or on another "
        "machine."
    )


def test_one_seed_proves_nothing() -> None:
    once = {
        name: on_both(([value], [value]), ([value], [value])) for name, value in (("TD3BC", 1), ("TD3BC + ASPC", 2))
    }
    rows = scored(once)
    for expect in ("nowhere worse", "better"):
        only = claim(expect, data=(f"{MIXED}#draw=1", f"{EXPERT}#draw=1"))
        assert outcome(only, rows).verdict == "undecided"


def test_nowhere_worse_is_not_proved_by_lack_of_a_loss() -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 0)})
    assert text.verdict(outcome(claim("nowhere worse"), rows)).startswith("Not refuted: +10.0 [")
    assert text.verdict(outcome(claim("better"), rows)).startswith("Holds: +10.0 [")


def test_missing_seeds_leave_a_claim_undecided() -> None:
    rows = scored({"TD3BC": BARE, "TD3BC + ASPC": shifted(20, 20)})
    found = outcome(claim("better"), rows[:-1])
    assert (found.verdict, found.missing, found.whole) == ("undecided", 1, None)
    assert text.verdict(found) == "Undecided: 1 pair not there."
    assert outcome(claim("better", data=("npz:other.npz",)), rows).verdict == "undecided"


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
        (
            'data = "*/mixed"',
            'data = "*/slips"',
            r"data: '\*/slips' names no data set that all its stacks share",
        ),
        ('"*/mixed"', '["*/mixed", "*/expret"]', r"claim 1, data: '\*/expret' names no data set"),
        ('against = "TD3BC hidden=8"', 'against = "TD3BC hidden=8 + ASPC interval=10"', "be compared with itself"),
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


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ('data = "scripted:pendulum/expert"', "no data set that all its stacks share; not all of them have .*expert"),
        ("steps = 20", "its stacks differ in seeds, steps or evaluation on scripted:pendulum/mixed"),
        ("seeds = 3", "its stacks differ in seeds"),
        ("evaluation = { episodes = 1 }", "its stacks differ in seeds, steps or evaluation"),
    ],
)
def test_sides_that_ran_otherwise_are_no_sides_of_a_claim(tmp_path, other: str, said: str) -> None:
    head, claimed = SUITE.replace('adapters = ["none", "ASPC"]\n', "").split("[[claim]]")
    head = head.replace('learners = "TD3BC hidden=8"\n', "").replace("draws = [3, 5]\n", "")
    head = head.replace("{mixed,expert}", "mixed")
    grids = '[[grid]]\nlearners = "TD3BC hidden=8"\n[[grid]]\nlearners = "TD3BC hidden=8"\nadapters = ["ASPC"]\n'
    loaded = load_suite(written(tmp_path, f"{head}{grids}[[claim]]{claimed}"))
    assert len(loaded.claims) == 1
    wanted = claimed.replace("*/mixed", "*")
    with pytest.raises(SuiteError, match=said):
        load_suite(written(tmp_path, f"{head}{grids}{other}\n[[claim]]{wanted}"))


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
