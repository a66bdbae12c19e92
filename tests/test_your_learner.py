"""The page for authors of Modules is true: its file is wrapped, checked, trained and benchmarked as it says."""

from __future__ import annotations

import re
import shlex

import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.testing import check_learner, check_stack

from .helpers import FOUR
from .test_examples import ROOT, load

PAGE = (ROOT / "docs" / "your-learner.md").read_text(encoding="utf-8")
FILE, CHECK = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    adaptive-constraints ")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files of the page."""
    (tmp_path / "my_learner.py").write_text(FILE)
    suite = re.search(r"here `mine\.toml`:\n\n((?:    .*\n)+)", PAGE)
    assert suite is not None
    text = re.sub(r"^    ", "", suite.group(1), flags=re.MULTILINE)
    text = text.replace("hidden=64", "hidden=8").replace("every = 2000, episodes = 10", "every = 4, episodes = 1")
    (tmp_path / "mine.toml").write_text(text.replace("seeds = 5", "seeds = 1").replace("steps = 20000", "steps = 4"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_its_learner_keeps_the_laws_and_takes_the_adapters(folder):
    learner = load(folder / "my_learner.py", "my_learner").MyLearner(hidden=8, batch_size=16, dropout=0.1)
    check_learner(learner)
    check_stack(learner, *FOUR)
    assert "check_learner(" in CHECK


@pytest.mark.slow
def test_its_commands_do_what_it_says(folder, capsys):
    """As they stand, but for their length."""
    assert [shlex.split(command)[1] for command in COMMANDS] == ["train", "explain", "train", "bench", "report"]
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        words = ["4" if word == "20000" else "hidden=8" if word == "hidden=64" else word for word in words]
        more = ["--eval-episodes", "1", "--quiet"] if words[0] == "train" else []
        assert main([*words, *more]) == 0, capsys.readouterr().err
    assert list((folder / "runs").rglob("*.html"))
