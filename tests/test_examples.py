"""The examples run, keep the laws and say what they show."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from adaptive_constraints import load_agent, load_dataset
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.testing import check_adapter, check_learner, check_stack

from .helpers import FOUR

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
PICTURE = b"\x89PNG\r\n\x1a\n"


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


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo without a terminal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_the_demo_compares_draws_and_saves(tmp_path):
    done = demo("--steps", "2", "--seeds", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    table = re.search(r"^stack .*?^$", done.stdout, re.MULTILINE | re.DOTALL)
    assert table is not None
    heads, plain, adaptive, data = table.group(0).splitlines()
    assert heads.split("  ")[0] == "stack" and "alpha at the end" in heads and "steps/s" in heads
    assert re.match(r"TD3BC  .* 2\.50 ", plain) and re.match(r"TD3BC \+ aspc  .* \d\.\d\d ", adaptive)
    assert data.split() == ["the", "data", "itself", "22.5"]
    assert "td3bc: step 2/2" in done.stdout and "td3bc-aspc: step 2/2" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(PICTURE)
    for name in ("td3bc", "td3bc-aspc"):
        agent = load_agent(tmp_path / f"{name}.npz")
        assert agent.step == 2
        assert agent.act(load_dataset("bundled:hopper").observations[:4]).shape == (4, 3)


def test_the_demo_starts_anew_and_ends_in_time(tmp_path):
    for name in ("td3bc", "td3bc-aspc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.npz").write_text("left behind")
        (tmp_path / name / "metrics.jsonl").write_text("left behind\n")
    done = demo("--steps", "16", "--seeds", "1", "--out", str(tmp_path), "--minutes", "0")
    assert done.returncode == 1
    assert done.stderr.strip() == "td3bc and td3bc-aspc reached no checkpoint in 0 minutes: give more --minutes"
