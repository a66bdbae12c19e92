"""The report's page in a real browser: it loads, filters, sorts and draws, at a desk and on a phone."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from adaptive_constraints.reports.figures import figures as figures_of
from adaptive_constraints.reports.findings import find
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.reports.html import page as html

from .synthetic_rows import HOPPER, MAZE, folder, grid, row

pytest.importorskip("altair", reason="Altair (extra report) is not installed")
pytest.importorskip("vl_convert", reason="vl-convert-python (extra report) is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright (extra dev) is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def write(at, rows, published=()):
    """The page of some rows, in a folder."""
    findings = find(read_grid([folder(at, rows, published)]), "last_ten")
    file = at / "report.html"
    file.write_text(html(findings, figures_of(findings), "report"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The page of a grid of eight stacks, one more than a figure draws at once."""
    published = [{"data": HOPPER, "stack": "TD3BC", "score": 50.0, "spread": 2.0, "source": "a paper"}]
    return write(tmp_path_factory.mktemp("report"), grid(), published)


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
        return drawn(page)

    yield at
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def opened(visit, path):
    """Opens the page of the grid."""
    return functools.partial(visit, path)


def drawn(page):
    """The page, once it has drawn its figures."""
    playwright.expect(page.locator("main")).to_have_attribute("aria-busy", "false", timeout=30_000)
    return page


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
    marks = drawn(page).locator(f"[data-figure={name}] [role=graphics-document]")
    return [mark.get_attribute("aria-label") for mark in marks.all()]


def words(figure, part):
    """The texts of a part of a figure; those of several lines with their lines joined."""
    joined = "texts => texts.map((one) => [...one.childNodes].map((line) => line.textContent).join(' '))"
    return figure.locator(f"{part} text").evaluate_all(joined)


def legend(figure):
    """The names in a figure's legend."""
    return words(figure, ".role-legend-label")


def heavy(figure):
    """The lines of means, which are thicker than those of seeds."""
    return figure.locator("path[stroke-width='2'][d*='L']")


def test_everything_is_drawn(opened):
    page = opened()
    assert page.title() == "Results of synthetic"
    assert len(shown(page)) == 8
    assert page.locator("#shown").inner_text() == "8 of 8 stacks, all data sets"
    counts = {name: len(figures(page, name)) for name in ("scores", "effects", "profiles", "curves", "quantities")}
    assert counts == {"scores": 1, "effects": 1, "profiles": 1, "curves": 2, "quantities": 2}
    curves = page.locator("[data-figure=curves] figure").first
    assert curves.locator("figcaption").inner_text() == f"{HOPPER}: the best 7 of 8"
    assert curves.locator("path[stroke-width='0.7']").count() == 7 * 4
    for line in heavy(curves).all():
        box = line.bounding_box()
        assert box["width"] > 300 and box["height"] > 50


def test_figures_draw_the_best_stacks_and_their_legends_name_no_other(opened, path):
    page = opened()
    read = find(read_grid([path.parent]), "last_ten")
    for place, scope in enumerate((HOPPER, MAZE)):
        figure = page.locator("[data-figure=curves] figure").nth(place)
        assert legend(figure) == read.ranking(scope)[:7]
    for quantity in page.locator("[data-figure=quantities] figure").all():
        assert set(legend(quantity)) == {stack for stack in shown(page) if "ASPC" in stack}  # the others have none
    page.locator("#filters").get_by_label("IQL").uncheck()
    drawn(page)
    left = [stack for stack in read.ranking(HOPPER) if stack.startswith("TD3BC")]
    assert legend(page.locator("[data-figure=curves] figure").first) == left


def test_a_click_in_a_legend_picks_stacks(opened):
    page = opened()
    figure = page.locator("[data-figure=curves] figure").first
    names = figure.locator(".role-legend-label text")
    names.first.click()
    playwright.expect(heavy(figure)).to_have_count(1)
    names.nth(1).click()
    playwright.expect(heavy(figure)).to_have_count(2)
    for name in (names.first, names.nth(1)):
        name.click()
    playwright.expect(heavy(figure)).to_have_count(7)


def test_hovering_shows_values_and_a_wheel_zooms_with_ctrl_alone(opened):
    page = opened()
    figure = page.locator("[data-figure=curves] figure").first
    figure.scroll_into_view_if_needed()
    box = heavy(figure).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = page.locator("#vg-tooltip-element.visible")
    playwright.expect(said).to_contain_text("training steps (minibatches)")
    playwright.expect(said).to_contain_text("value")
    axis = figure.locator(".role-axis-label text")
    before, place = axis.all_text_contents(), page.evaluate("window.scrollY")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    playwright.expect(axis.filter(has_text=re.compile("^20k$"))).to_have_count(0)
    assert axis.all_text_contents() != before and page.evaluate("window.scrollY") == place
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(300)
    assert page.evaluate("window.scrollY") > place


def test_a_figure_is_saved_as_a_picture(opened):
    page = opened()
    figure = page.locator("[data-figure=curves] figure").first
    figure.locator("summary").click()
    with page.expect_download() as waited:
        figure.get_by_role("link", name="Save as SVG").click()
    assert "TD3BC" in Path(waited.value.path()).read_text(encoding="utf-8")


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
    assert curves.endswith(": TD3BC + ASPC") and "IQL" not in curves
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
    for figure in page.locator("figure svg.marks").all():
        assert 250 < figure.bounding_box()["width"] <= 360


LONG = "SSAR(frozen=true, sigma=0.25, select=return, trusted_fraction=0.25)"


def test_long_names_are_whole_on_a_phone_and_stand_one_in_a_line(visit, tmp_path):
    rows = [row("TD3BC", some, HOPPER, seed) for some in ((), ("SSAR",), (LONG, "ASPC")) for seed in range(2)]
    page = visit(write(tmp_path, rows), 360)
    whole = f"TD3BC + {LONG} + ASPC"
    figure = page.locator("[data-figure=curves] figure").first
    labels = figure.locator(".role-legend-label")
    assert sorted(legend(figure)) == sorted(["TD3BC", "TD3BC + SSAR", whole])
    boxes = [label.bounding_box() for label in labels.all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    tops = sorted(box["y"] for box in boxes)
    assert all(after - before > 8 for before, after in pairwise(tops)), "two in one line"
    scores = page.locator("[data-figure=scores] figure")
    assert whole in words(scores, ".mark-text")
    for label in scores.locator(".mark-text text").all():
        box = label.bounding_box()
        assert box["x"] + box["width"] <= 360


def test_names_that_are_markup_are_drawn_as_they_are(visit, tmp_path):
    evil = "ASPC(<img src=x onerror=alert(1)>)"
    rows = [row("TD3BC", some, HOPPER, seed) for some in ((), ("ASPC",), (evil,)) for seed in range(2)]
    page = visit(write(tmp_path, rows))
    figure = page.locator("[data-figure=curves] figure").first
    assert f"TD3BC + {evil}" in legend(figure)
    figure.scroll_into_view_if_needed()
    box = heavy(figure).last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    playwright.expect(page.locator("#vg-tooltip-element.visible")).to_be_visible()
    assert page.locator("img").count() == 0


def test_the_datas_own_score_is_a_line(visit, tmp_path):
    rows = [
        row_ | {"data": row_["data"] | {"mean_return": 1000.0}} for row_ in grid(("TD3BC",), ((),), (HOPPER, MAZE), 2)
    ]
    page = visit(write(tmp_path, rows))
    for figure in page.locator("[data-figure=curves] figure").all():
        assert "the data's own" in words(figure, ".mark-text")
    page = visit(write(tmp_path, grid(("TD3BC",), ((),), (HOPPER,), 2)))
    assert "the data's own" not in words(page.locator("[data-figure=curves] figure"), ".mark-text")


def test_one_evaluation_is_a_dot_and_what_is_all_equal_is_said(visit, tmp_path):
    """Axes without an extent, such as those of a smoke test."""
    rows: list[Any] = grid(("TD3BC",), ((), ("ASPC",)), (HOPPER,), 1)
    for place, row_ in enumerate(rows):
        value = float(place)
        one = [{"step": 100, "value": value, "returns": [20.0]}]
        same = {"last": value, "best": value, "last_ten": value, "series": {"aspc/scale": [[100, 200], [2.5, 2.5]]}}
        rows[place] = row_ | same | {"evaluations": one}
    page = visit(write(tmp_path, rows))
    curves = page.locator("[data-figure=curves] figure")
    dots = [mark.get_attribute("opacity") for mark in curves.locator(".mark-symbol.role-mark path").all()]
    assert dots == ["1", "1"]
    assert page.locator("[data-figure=quantities] .note").inner_text() == "All equal: 2.5."
    assert page.locator("[data-figure=quantities] svg").count() == 0
    pictures = page.evaluate("[...document.querySelectorAll('svg')].map((figure) => figure.outerHTML).join()")
    assert "NaN" not in pictures and "Infinity" not in pictures


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
