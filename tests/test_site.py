"""The documentation site, as `make docs` built it: whole, connected, and without anything from elsewhere."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from .test_examples import ROOT

pytestmark = pytest.mark.skipif("SITE" not in os.environ, reason="`make docs` names its site here")
SITE = Path(os.environ.get("SITE", ".")).resolve()
PUBLIC = ("", ".adapters", ".baselines", ".data", ".evaluation", ".networks", ".testing")
#: What a browser loads by itself, by element.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


class Content(HTMLParser):
    """What a page links to, loads and can be led to, and how many elements of each kind its article has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.navigation: set[str] = set()
        self.elements: Counter[str] = Counter()
        self.depth = Counter[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.depth[tag] += 1
        self.anchors |= {found[name] or "" for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
            if self.depth["nav"]:
                self.navigation.add(found["href"] or "")
        if tag in LOADED and found.get("rel") != "canonical" and found.get(LOADED[tag]):
            self.loaded.append(found[LOADED[tag]] or "")
        if self.depth["article"]:
            self.elements[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth[tag] -= 1


@cache
def content(page: Path) -> Content:
    return Content(page)


def pages() -> list[Path]:
    found = sorted(SITE.rglob("*.html"))
    assert len(found) > 30
    return found


def test_every_page_of_the_repository_is_in_the_navigation():
    stems = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    stems += [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.ipynb")]
    assert len(stems) > 12
    wanted = {f"{stem}.html" for stem in stems} | {"contributing.html", "changelog.html", "design.html#glossary"}
    assert wanted <= content(SITE / "index.html").navigation


@pytest.mark.parametrize("room", PUBLIC)
def test_every_public_name_is_in_the_reference(room):
    module = import_module(f"adaptive_constraints{room}")
    anchors = set().union(*(content(page).anchors for page in (SITE / "reference").glob("*.html")))
    tops = (module.__name__, "adaptive_constraints")
    wanted = [name for name in module.__all__ if name != "__version__"]
    assert [name for name in wanted if not anchors & {f"{top}.{name}" for top in tops}] == []


def test_settings_show_what_they_may_be_and_what_they_are():
    shown = re.sub(r"<[^>]+>", "", (SITE / "reference" / "TD3BC.html").read_text(encoding="utf-8"))
    for setting in ("alpha: Annotated[float, Above(0)] = 2.5", "batch_size: Annotated[int, AtLeast(1)] = 256"):
        assert setting in re.sub(r"\s+", " ", shown)
    assert "Weight of the normalised value against the imitation term" in shown
    assert "Rows per minibatch and seed" in shown


def test_links_lead_somewhere():
    for page in pages():
        for link in content(page).links:
            address = urlsplit(link)
            if address.scheme or (page.name == "404.html"):
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.name}: {link}"
            if address.fragment and target.suffix == ".html":
                known = content(target).anchors
                assert unquote(address.fragment) in known, f"{page.name}: {link}"


def test_nothing_is_loaded_from_elsewhere():
    for page in pages():
        loaded = content(page).loaded
        assert loaded
        assert [address for address in loaded if urlsplit(address).netloc] == [], page
    for style in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_notebooks_show_what_they_computed():
    for notebook in (ROOT / "docs").rglob("*.ipynb"):
        page = SITE / notebook.relative_to(ROOT / "docs").with_suffix(".html")
        assert content(page).elements["img"] >= 1
        assert "score" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README", *sorted(path.stem for path in (ROOT / "docs").glob("*.md"))])
def test_tables_code_and_lists_are_those_of_the_file_view(page):
    markdown_it = pytest.importorskip("markdown_it")
    source = ROOT / "README.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(source.read_text(encoding="utf-8"))
    kinds = Counter(token.type for token in tokens)
    there = content(SITE / ("index.html" if page == "README" else f"{page}.html")).elements
    assert there["table"] == kinds["table_open"]
    assert there["tr"] == kinds["tr_open"]
    assert there["pre"] == kinds["fence"] + kinds["code_block"]
    assert there["ul"] + there["ol"] == kinds["bullet_list_open"] + kinds["ordered_list_open"]
