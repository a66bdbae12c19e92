"""What the README, the documentation and the examples show: it runs, and prints what it says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from adaptive_constraints import ASPC, adapters, baselines, load_agent, load_dataset, wrap
from adaptive_constraints.adapter import SEAMS
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli.entry import parse
from adaptive_constraints.testing import check_adapter, check_learner, check_stack

from .helpers import FOUR

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN, EXTENDING = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("design.md", "extending.md"))
EXAMPLES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
PICTURE = b"\x89PNG\r\n\x1a\n"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def load(path: Path, name: str) -> ModuleType:
    """A program as a module, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# -- examples -----------------------------------------------------------------------------------------------------


def test_own_adapter(capsys):
    load(ROOT / "examples" / "own_adapter.py", "example_own_adapter").main(steps=10)
    changed, *trained = capsys.readouterr().out.split("no paper\n")
    assert "sample_weight      returnweighted" in changed
    first, second = trained[0].splitlines()
    assert re.fullmatch(r"TD3BC: distance from the data \d\.\d+, score \d+\.\d after 10 ticks", first)
    assert re.fullmatch(r"TD3BC \+ returnweighted: distance .*, score \d+\.\d after 10 ticks", second)


def test_own_learner(capsys):
    load(ROOT / "examples" / "own_learner.py", "example_own_learner").main(steps=10)
    shown = capsys.readouterr().out
    assert "tradeoff           aspc" in shown and "not tested by its paper" in shown
    assert re.search(r"^AdvantageWeighted: score \d+\.\d after 10 ticks$", shown, re.MULTILINE)
    assert re.search(r"^AdvantageWeighted \+ aspc: score \d+\.\d after 10 ticks$", shown, re.MULTILINE)


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
    example.main(ticks=2, steps=133, episodes=1, buffers=["half"])
    offline, online = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"TD3BC \+ ssar offline: score -?\d+\.\d after 2 ticks", offline)
    assert re.fullmatch(r"buffer half  score +\S+ at the end, +\S+ on average; collecting: -?\d+", online)


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo without a terminal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_the_demo_compares_draws_and_saves(tmp_path):
    done = demo("--ticks", "2", "--seeds", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    table = re.search(r"^stack .*?^$", done.stdout, re.MULTILINE | re.DOTALL)
    assert table is not None
    heads, plain, adaptive, data = table.group(0).splitlines()
    assert heads.split("  ")[0] == "stack" and "alpha at the end" in heads and "ticks/s" in heads
    assert re.match(r"TD3BC  .* 2\.50 ", plain) and re.match(r"TD3BC \+ aspc  .* \d\.\d\d ", adaptive)
    assert data.split() == ["the", "data", "itself", "22.5"]
    assert "td3bc: tick 2/2" in done.stdout and "td3bc-aspc: tick 2/2" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(PICTURE)
    for name in ("td3bc", "td3bc-aspc"):
        agent = load_agent(tmp_path / f"{name}.npz")
        assert agent.tick == 2
        assert agent.act(load_dataset("bundled:hopper").observations[:4]).shape == (4, 3)


def test_the_demo_starts_anew_and_ends_in_time(tmp_path):
    for name in ("td3bc", "td3bc-aspc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.npz").write_text("left behind")
        (tmp_path / name / "metrics.jsonl").write_text("left behind\n")
    done = demo("--ticks", "16", "--seeds", "1", "--out", str(tmp_path), "--minutes", "0")
    assert done.returncode == 1
    assert done.stderr.strip() == "td3bc and td3bc-aspc reached no checkpoint in 0 minutes: give more --minutes"


# -- the README ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_run(number, tmp_path, monkeypatch, capsys):
    """As they stand, but for the number of steps."""
    text, shortened = re.subn(r"steps=[\d_]+", "steps=10", blocks("python")[number])
    assert shortened == 1
    (tmp_path / "block.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    module = load(tmp_path / "block.py", f"readme_block_{number}")
    assert module.agent.tick == 10
    if number == 0:
        assert module.ablation.name == "TD3BC" and module.action.shape == (3,)
        assert np.isfinite(module.history.summary().last).all()
        assert wrap(TD3BC(critic="robust"), ASPC()).explain() in capsys.readouterr().out


def test_explain_prints_what_the_readme_says():
    assert blocks("text") == [wrap(TD3BC(critic="robust"), ASPC()).explain() + "\n"]


def test_commands_are_commands():
    commands = [shlex.split(line, comments=True) for line in "".join(blocks("bash")).replace("\\\n", "").splitlines()]
    assert len(commands) >= 6
    for name, *words in commands:
        assert name == "adaptive-constraints"
        parse(words)


def test_the_two_commands_and_every_part_are_named():
    assert "\n    make demo\n    make test\n" in README
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("demo", "test"))
    ours = {*adapters.__all__, *baselines.__all__}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", README, re.MULTILINE)) == ours


def test_own_parts_stand_in_the_readme_as_in_the_examples():
    for name in ("own_adapter", "own_learner"):
        part = re.search(r"^@dataclass.*?(?=\n\n\ndef main)", EXAMPLES[name], re.MULTILINE | re.DOTALL)
        assert part is not None and part.group(0) in README


# -- the documentation --------------------------------------------------------------------------------------------


def test_links_lead_somewhere():
    for folder, text in ((ROOT, README), (ROOT / "docs", DESIGN), (ROOT / "docs", EXTENDING)):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target


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
