"""What the README and the guides show runs and prints what it says; their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from adaptive_constraints import ASPC, adapters, baselines, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli.entry import parse
from adaptive_constraints.core.types import SEAMS

from . import synthetic_rows
from .test_examples import EXAMPLES, ROOT, load

PAGES = {path.name: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
README, DESIGN, EXTENDING = PAGES["README.md"], PAGES["design.md"], PAGES["extending.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(page, text) for page, words in PAGES.items() for text in fence.findall(words)]


@pytest.fixture
def results(tmp_path):
    """A working directory with the results folders that guides name."""
    rows = synthetic_rows.grid(("TD3BC",), ((), ("ASPC",)), ("bundled:hopper",), seeds=2)
    for name in ("smoke", "quick"):
        synthetic_rows.folder(tmp_path / "runs" / "bench" / name, rows)


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_blocks_run(page, text, tmp_path, monkeypatch, capsys, results):
    """As they stand, but for the number of steps."""
    text, shortened = re.subn(r"\bsteps=[\d_]+", "steps=10", text)
    (tmp_path / "block.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    module = load(tmp_path / "block.py", "block_of_a_page")
    if shortened:
        assert module.agent.step == 10
    if page == "README.md":
        assert module.action.shape == (3,)
        assert np.isfinite(module.history.summary().last).all()
        assert module.agent.explain() in capsys.readouterr().out


def test_explain_prints_what_the_guide_says():
    assert [text for _, text in blocks("text")] == [wrap(TD3BC(critic="robust"), ASPC()).explain() + "\n"]


def test_commands_are_commands():
    text = "".join(text for _, text in blocks("bash")).replace("\\\n", "")
    commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert len(commands) >= 10
    for name, *words in commands:
        assert name == "adaptive-constraints"
        parse(words)


def test_the_readme_is_short_and_names_the_two_commands_and_every_part():
    assert README.count("\n") <= 130
    assert "\n    make demo\n    make test\n" in README
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "test"))
    ours = {*adapters.__all__, *baselines.__all__}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", README, re.MULTILINE)) == ours
    assert [name for name in PAGES if f"{name})" not in README] == ["README.md"]


def anchors(page: str) -> set[str]:
    """What a link may name behind the hash: the headings of a page as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


HOME = "https://github.com/adaptive-constraints/adaptive-constraints/blob/main/"
PICTURES = "https://raw.githubusercontent.com/adaptive-constraints/adaptive-constraints/main/"


def test_links_of_the_readme_hold_wherever_it_is_shown():
    """On a package's page there is no folder to follow others from, and a picture's link is the picture itself."""
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", README)
    assert len(links) > 15
    for picture, target in links:
        ours = target.startswith((HOME, PICTURES))
        assert re.match(r"https://\S+$", target), target
        assert target.startswith(PICTURES) if picture else ours or "github" not in target, target


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    text = PAGES[page].replace(f"]({HOME}", "](").replace(f"]({PICTURES}", "](")
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)]*))?\)", text):
        assert (folder / target).exists(), target
        if anchor:
            assert anchor in anchors(PAGES[Path(target).name] if target else PAGES[page]), f"{target}#{anchor}"


def test_the_design_names_every_seam_and_its_tests():
    for seam in SEAMS:
        assert f"| `{seam}" in DESIGN
    for path in re.findall(r"`(tests/\w+\.py)`", DESIGN):
        assert (ROOT / path).is_file()


def test_what_the_guide_quotes_stands_in_the_examples():
    code = "".join(EXAMPLES.values())
    quoted = re.findall(r"^(?:    .*\n|\n)+", EXTENDING, re.MULTILINE)
    lines = [line.strip() for block in quoted for line in block.splitlines() if "entry-points" not in block]
    wanted = [line for line in lines if line and not line.startswith("def ")]
    assert len(wanted) > 15
    assert [line for line in wanted if line not in code] == []
