"""Files beside the package say of it what it says of itself."""

from __future__ import annotations

import re

import pytest

from adaptive_constraints import __version__

from .test_examples import ROOT

CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_newest_release_is_this_version_in_every_file():
    version, date = re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", CHANGES, re.MULTILINE)[0]
    assert version == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation


def test_a_release_says_ten_things():
    notes = CHANGES.partition("### What users of 0.1.0 must know")[2].partition("###")[0]
    assert re.findall(r"^(\d+)\. ", notes, re.MULTILINE) == [str(n) for n in range(1, 11)]


@pytest.mark.skipif(not (ROOT / ".github").exists(), reason="an sdist has no hidden folders")
def test_forms_of_issues_are_forms():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    forms = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FORMS.glob("*.yml")}
    assert set(forms) == {"bug", "feature", "config"}
    for name in ("bug", "feature"):
        assert set(forms[name]) == {"name", "description", "labels", "body"}
        ids = [field["id"] for field in forms[name]["body"]]
        assert len(set(ids)) == len(ids) >= 3
        for field in forms[name]["body"]:
            assert field["type"] == "textarea" and field["attributes"]["label"]


FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def test_the_citation_is_yaml():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == "MIT"
