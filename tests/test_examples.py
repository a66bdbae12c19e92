"""The examples run, keep the laws and say what they show."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from adaptive_constraints import load_agent
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.testing import check_adapter, check_learner, check_stack

from .helpers import FOUR

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}


def load(path: Path, name: str) -> ModuleType:
    """A program as a module, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_own_adapter(capsys):
    load(ROOT / "examples" / "own_adapter.py", "example_own_adapter").main(steps=10)
    changed, *trained = capsys.readouterr().out.split("no paper\n")
    assert "sample_weight      returnweighted" in changed
    first, second = trained[0].splitlines()
    assert re.fullmatch(r"TD3BC: distance from the data \d\.\d+, score \d+\.\d after 10 steps", first)
    assert re.fullmatch(r"TD3BC \+ returnweighted: distance .*, score \d+\.\d after 10 steps", second)


def test_own_learner(capsys):
    load(ROOT / "examples" / "own_learner.py", "example_own_learner").main(steps=10)
    shown = capsys.readouterr().out
    assert "tradeoff           aspc" in shown and "not tested by its paper" in shown
    assert re.search(r"^AdvantageWeighted: score \d+\.\d after 10 steps$", shown, re.MULTILINE)
    assert re.search(r"^AdvantageWeighted \+ aspc: score \d+\.\d after 10 steps$", shown, re.MULTILINE)


def test_own_parts_are_short_and_keep_the_laws():
    for name in ("own_adapter", "own_learner"):
        assert EXAMPLES[name].count("\n") < 80
    adapter = load(ROOT / "examples" / "own_adapter.py", "example_own_adapter").ReturnWeighted()
    learner = load(ROOT / "examples" / "own_learner.py", "example_own_learner").AdvantageWeighted(batch_size=16)
    check_adapter(adapter, TD3BC(hidden=8, batch_size=16))
    check_learner(learner)
    check_stack(learner, adapter, *FOUR)


def test_finetune(capsys):
    example = load(ROOT / "examples" / "finetune.py", "example_finetune")
    example.main(offline_steps=2, steps=133, episodes=1, buffers=["half"])
    offline, online = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"TD3BC \+ ssar offline: score -?\d+\.\d after 2 steps", offline)
    assert re.fullmatch(r"buffer half  score +\S+ at the end, +\S+ on average; collecting: -?\d+", online)


@pytest.mark.slow
def test_the_demo_compares_and_says_what_became_of_its_claims(tmp_path, monkeypatch, capsys):
    """The two commands of ``make demo``, with steps that teach nothing."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "adaptive_constraints bench demo --workers" in makefile and "report runs/bench/demo" in makefile
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "20", "--seeds", "2", "--workers", "2"]
    assert main(["bench", "demo", *few]) == main(["report", "runs/bench/demo"]) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^TD3BC\(preset=pendulum\)(?: \+ \w+\([\w=.]+\))?  .*\d \+- .*\d \+- ", shown, re.MULTILINE)
    assert len(rows) == 3, "a score on each of two data sets"
    assert len(re.findall(r"^  (?:Holds|Not refuted|Refuted|Undecided)[.:]", shown, re.MULTILINE)) == 3
    assert (tmp_path / "runs/bench/demo/report/report.html").is_file()
    (cell,) = (tmp_path / "runs/bench/demo/cells").glob("*weak*NoiseTradeoff*")
    assert load_agent(cell).act([1.0, 0.0, 0.0]).shape == (1,)
