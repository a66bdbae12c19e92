"""The report's page in a real browser: it loads, filters, sorts and draws, at a desk and on a phone."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from adaptive_constraints.reports.findings import find
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.html import page as html

from .synthetic_rows import HOPPER, MAZE, folder, grid

playwright = pytest.importorskip("playwright.sync_api", reason="playwright (extra dev) is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The page of a grid of eight stacks, one more than figures draw at once."""
    at = tmp_path_factory.mktemp("report")
    published = [{"data": HOPPER, "stack": "TD3BC", "score": 50.0, "spread": 2.0, "source": "a paper"}]
    file = at / "report.html"
    file.write_text(html(find(read_grid([folder(at, grid(), published)]), "last_ten"), "report"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a file at a width; whatever its page logs or asks for fails the test."""
    pages, complaints = [], []

    def at(path, width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield at
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def opened(visit, path):
    """Opens the page of the grid."""
    return functools.partial(visit, path)


def shown(page, table="scores"):
    """The first words of the rows that are shown."""
    heads = page.locator(f"#{table}-table > tbody > tr:visible > th")
    return heads.all_inner_texts()


def numbers(page, column):
    """The numbers of a column of the scores table, from the top."""
    cells = page.locator(f"#scores-table > tbody > tr:visible > td:nth-child({column})")
    return [float(cell.split()[0]) for cell in cells.all_inner_texts()]


def figures(page, name):
    """What each drawn figure of a section says of itself to those who cannot see it."""
    drawn = page.locator(f"[data-figure={name}] svg[role=img]")
    return [mark.get_attribute("aria-label") for mark in drawn.all()]


def test_everything_is_drawn(opened):
    page = opened()
    assert page.title() == "Results of synthetic"
    assert len(shown(page)) == 8
    assert page.locator("#shown").inner_text() == "8 of 8 stacks, all data sets"
    counts = {name: len(figures(page, name)) for name in ("scores", "effects", "profiles", "curves", "quantities")}
    assert counts == {"scores": 1, "effects": 1, "profiles": 1, "curves": 2, "quantities": 2}
    curves = page.locator("[data-figure=curves] svg").first
    assert curves.locator(".stack").count() == 7 and curves.locator(".seed").count() == 7 * 4
    for line in curves.locator(".line").all():
        box = line.bounding_box()
        assert box["width"] > 300 and box["height"] > 50
    assert "and 1 more in the scores table" in page.locator("#curves .legend").inner_text()


def test_filters_act_on_tables_and_figures(opened):
    page = opened()
    filters = page.locator("#filters")
    filters.get_by_label("Data set").select_option(label=MAZE)
    assert page.locator("#scores-table thead th:visible").count() == 2
    assert {row.split("\t")[1] for row in page.locator("#runs-table > tbody > tr:visible").all_inner_texts()} == {MAZE}
    assert [label.startswith(MAZE) for label in figures(page, "curves")] == [True]
    assert page.locator("#published-table > tbody > tr:visible").count() == 0

    filters.get_by_label("IQL").uncheck()
    assert shown(page) == ["TD3BC", "TD3BC + ASPC", "TD3BC + ANQ", "TD3BC + ANQ + ASPC"]
    filters.get_by_label("ASPC").select_option(label="with")
    assert shown(page) == ["TD3BC + ASPC", "TD3BC + ANQ + ASPC"]
    filters.get_by_label("ANQ").select_option(label="without")
    assert shown(page) == ["TD3BC + ASPC"]
    assert shown(page, "effects") == ["ASPC on TD3BC, mean over 2 stacks", "ASPC on TD3BC"]
    (curves,) = figures(page, "curves")
    assert curves.endswith("TD3BC + ASPC") and "IQL" not in curves
    assert page.locator("#shown").inner_text() == f"1 of 8 stacks, {MAZE}"

    filters.get_by_label("TD3BC").uncheck()
    assert shown(page) == [] and figures(page, "curves") == []
    assert "Nothing to draw" in page.locator("[data-figure=curves]").inner_text()
    page.get_by_role("button", name="Show all").click()
    # Asked by a locator: wait_for_function evaluates strings, which the page's own policy forbids.
    playwright.expect(page.locator("#shown")).to_have_text(re.compile(r"^8 of 8"))
    assert len(shown(page)) == 8 and len(figures(page, "curves")) == 2


def test_columns_sort_both_ways_by_mouse_and_by_keyboard(opened):
    page = opened()
    given = numbers(page, 3)
    head = page.locator("#scores-table thead th").nth(2)
    head.get_by_role("button").click()
    assert numbers(page, 3) == sorted(given, reverse=True) != given
    assert head.get_attribute("aria-sort") == "descending"
    assert figures(page, "scores")[0].index(shown(page)[0]) < figures(page, "scores")[0].index(f", {shown(page)[-1]} ")
    head.get_by_role("button").press("Enter")
    assert numbers(page, 3) == sorted(given)
    page.locator("#scores-table thead th").first.get_by_role("button").press("Space")
    assert shown(page) == sorted(shown(page))
    assert head.get_attribute("aria-sort") is None


def test_a_number_unfolds_into_its_seeds_and_its_command(opened):
    page = opened()
    cell = page.locator("#scores-table > tbody > tr").nth(1).locator("td").nth(1)
    assert not cell.locator(".inner").is_visible()
    cell.locator("summary").press("Enter")
    assert cell.locator(".inner tbody tr:visible").count() == 4
    cell.get_by_role("link", name="command").click()
    run = page.locator("tr:has(:target)")
    assert run.locator("th").inner_text() == "TD3BC + ASPC"
    run.locator("summary").click()
    assert "--learner TD3BC --adapters ASPC" in run.locator("code").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_and_not_the_page(opened, scheme):
    page = opened(360, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for details in page.locator("#scores details").all()[:2]:
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.querySelector('#scores .scroll').scrollWidth") > 340
    text, ground = page.evaluate(
        "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (text, ground)]
    assert (light[0] < 200 < 600 < light[1]) if scheme == "light" else (light[1] < 200 < 600 < light[0])
    for figure in page.locator("svg[role=img]").all():
        assert figure.bounding_box()["width"] <= 360


def test_one_evaluation_and_equal_scores_are_drawn(browser, tmp_path):
    """Axes without an extent, such as those of a smoke test."""
    one = [{"step": 100, "value": 0.0, "returns": [20.0]}]
    same = {"last": 0.0, "best": 0.0, "last_ten": 0.0, "evaluations": one, "series": {"aspc/scale": [[100], [2.5]]}}
    rows = [row_ | same for row_ in grid(("TD3BC",), ((), ("ASPC",)), (HOPPER,), 1)]
    file = tmp_path / "report.html"
    file.write_text(html(find(read_grid([folder(tmp_path, rows)]), "last_ten"), "report"), encoding="utf-8")
    page, complaints = browser.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(file.as_uri())
    assert page.locator("[data-figure=curves] svg circle").count() == 2
    assert page.locator("[data-figure=quantities] svg circle").count() == 2
    drawn = page.evaluate("[...document.querySelectorAll('svg')].map((figure) => figure.outerHTML).join()")
    assert "NaN" not in drawn and complaints == []
    page.close()


def test_a_printed_page_has_no_controls(opened):
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert page.locator("#scores-table").is_visible()


@pytest.mark.skipif("BENCH_RESULTS" not in os.environ, reason="`make smoke` names its results here")
def test_the_page_of_a_real_run(visit):
    results = Path(os.environ["BENCH_RESULTS"])
    cells = json.loads((results / "suite.json").read_text(encoding="utf-8"))["cells"]
    page = visit((results / "report" / "report.html").resolve())
    stacks = {cell["stack"] for cell in cells}
    assert len(shown(page)) == len(stacks)
    assert figures(page, "scores") and figures(page, "curves") and figures(page, "quantities")
    page.locator("#filters").get_by_label("ASPC").select_option(label="without")
    assert len(shown(page)) == len({stack for stack in stacks if "ASPC" not in stack})
