"""Notebooks are kept without outputs, run, and link to pages that are there; `make docs` runs them at full length."""

from __future__ import annotations

import json
import re

import pytest

from .test_examples import ROOT, load

NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("docs/notebooks/*.ipynb")}


def cells(name: str, kind: str) -> list[str]:
    """The texts of a notebook's cells of one kind."""
    return ["".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == kind]


def test_there_are_two():
    assert set(NOTEBOOKS) == {"first-steps", "ablation"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_what_it_printed(name):
    code = [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert set(NOTEBOOKS[name]["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, monkeypatch, capsys):
    """As it stands, but for the number of steps and pictures on a screen."""
    text, shortened = re.subn(r"\b(steps=|STEPS, SEEDS = )[\d_]+", r"\g<1>10", "\n\n".join(cells(name, "code")))
    assert shortened == 2
    (tmp_path / "cells.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    pyplot.switch_backend("agg")
    module = load(tmp_path / "cells.py", "cells_of_a_notebook")
    pyplot.close("all")
    assert module.agent.step == 10
    assert "score" in capsys.readouterr().out or name == "ablation"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_a_notebook_lead_somewhere(name):
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", "\n".join(cells(name, "markdown")))
    assert len(links) >= 3
    for link in links:
        assert (ROOT / "docs" / "notebooks" / link).is_file(), link
