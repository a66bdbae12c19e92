"""The command ope: agents of run folders, files and results folders, ranked by value."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptive_constraints import Dataset, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import BC, TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.data import save_npz
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.experiments.rows import read_suite
from benchmarks import ope as benchmark

from . import synthetic_rows
from .agents import SMALL, fit, make_data

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["--steps", "20", "--hidden", "8", "--quiet"]
PENDULUM = "scripted:pendulum/weak | subset(episodes=0:4)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents on the pendulum (one a run folder, with two seeds) and one on made-up data."""
    at = tmp_path_factory.mktemp("agents")
    data = load_dataset(PENDULUM)
    fit(wrap(TD3BC(**SMALL)), steps=4, dataset=data, out=at / "run")
    cloned = wrap(BC(**SMALL))
    fit(cloned, steps=4, seeds=1, dataset=data)
    cloned.save(at / "bc.npz")
    save_npz(made := make_data(), at / "made.npz")
    other = wrap(TD3BC(**SMALL))
    fit(other, steps=4, seeds=1, dataset=load_dataset(f"npz:{at / 'made.npz'}"))
    assert len(made) == 400
    other.save(at / "other.npz")
    return at


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_policies_are_ranked_by_value_and_all_is_written(folder, tmp_path, capsys):
    out = tmp_path / "ope.json"
    assert main(["ope", str(folder / "run"), str(folder / "bc.npz"), *QUICK, "--json", str(out)]) == 0
    shown = lines(capsys)
    assert "return discounted by 0.99 from 4 initial states, in units of reward" in shown[1]
    assert shown[2].split("  ")[0] == "" and "95 % interval" in shown[2] and "TD error held out" in shown[2]
    assert [line.split()[0] for line in shown[3:6]] == ["1", "2", "3"]
    (record,) = json.loads(out.read_text())
    values = [one["value"] for one in record["candidates"]]
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert {(Path(one["name"]).name, one["seed"]) for one in record["candidates"]} == {
        ("run", 0),
        ("run", 1),
        ("bc.npz", 0),
    }
    assert record["data"] == PENDULUM and record["selection"] is None and record["held_out_episodes"] == 1
    assert any("20 steps are few" in line for line in shown)


def test_agents_of_different_data_are_ranked_apart_or_all_on_data_that_is_named(folder, capsys):
    assert main(["ope", str(folder / "run"), str(folder / "other.npz"), *QUICK]) == 0
    assert sum("estimated by fitted Q evaluation" in line for line in lines(capsys)) == 2
    named = ["--data", f"{PENDULUM} | subset(episodes=1:3)", "--discount", "0.9"]
    assert main(["ope", str(folder / "run"), *QUICK, *named]) == 0
    assert "discounted by 0.9 from 2 initial states" in "".join(lines(capsys))
    assert main(["ope", str(folder / "other.npz"), *QUICK, *named]) == 2
    assert "actions of shape (1, 400, 2), but (1, 400, 1)" in capsys.readouterr().err


def test_rollouts_say_what_choosing_by_them_comes_to(folder, tmp_path, capsys):
    out = tmp_path / "ope.json"
    agents = [str(folder / "run"), str(folder / "bc.npz")]
    assert main(["ope", *agents, *QUICK, "--rollouts", "3", "--json", str(out)]) == 0
    shown = lines(capsys)
    (record,) = json.loads(out.read_text())
    returns = [np.mean(one["returns"]) for one in record["candidates"]]
    assert all(len(one["returns"]) == 3 for one in record["candidates"])
    assert record["selection"]["best"] == pytest.approx(max(returns))
    assert len(record["selection"]["expected"]) == 15
    assert any("return of rollouts" in line for line in shown)
    start = next(i for i, line in enumerate(shown) if line.startswith("rollouts"))
    assert [line.split()[0] for line in shown[start + 1 : start + 6]] == ["1", "2", "5", "10", "15"]
    said = re.search(r"highest value: (\S+); of the best: (\S+); of one chosen blindly: (\S+)", shown[-2])
    expected = (returns[0], max(returns), np.mean(returns))
    assert [float(number) for number in said.groups()] == pytest.approx(expected, rel=1e-3)


def test_a_results_folder_stands_for_the_agents_of_its_cells(folder, tmp_path, capsys):
    rows = synthetic_rows.grid(("TD3BC",), ((), ("ASPC",)), ("bundled:hopper",), seeds=2)
    suite = synthetic_rows.folder(tmp_path / "suite", rows)
    assert main(["ope", str(suite), *QUICK]) == 2
    assert "keeps no trained agent" in capsys.readouterr().err
    first, second = (cell["cell"] for cell in read_suite(suite)["cells"])
    for cell in (first, second):
        shutil.copytree(folder / "run", suite / "cells" / cell)
    assert main(["ope", str(suite), *QUICK]) == 0
    table = [line for line in lines(capsys) if "cells/" in line]
    assert len(table) == 4 and sum(first in line for line in table) >= 2


def test_a_lost_seed_comes_last_and_says_so(folder, tmp_path, capsys):
    agent = load_agent(folder / "run")
    agent.history.failures[0] = Failure(3, "critic/loss")
    agent.save(tmp_path / "lost.npz")
    assert main(["ope", str(tmp_path / "lost.npz"), *QUICK]) == 0
    table = [line for line in lines(capsys) if "lost.npz" in line]
    assert table[0].split()[2] == "1" and "lost at step 3" in table[1] and table[1].split()[3] == "-"


def test_wrong_words_are_refused(folder, tmp_path, capsys):
    run = str(folder / "run")
    for words, said in (
        ([], "there is nothing to rank"),
        ([run, "--rollouts", "0"], "--rollouts must be at least 1, not 0"),
        ([run, "--critics", "0"], "FQE: critics must be a whole number >= 1, not 0"),
        ([run, "--discount", "1"], "undiscounted returns are infinite"),
        ([run, "--json", str(tmp_path)], "which is a folder"),
        ([run, "--rollouts", "2", "--eval-max-steps", "0"], "--eval-max-steps must be at least 1"),
        ([run, "--eval-max-steps", "5"], "goes with --rollouts"),
        ([str(tmp_path / "missing.npz")], "no such file"),
    ):
        assert main(["ope", *words, *([] if words == [] else QUICK)]) == 2
        assert said in capsys.readouterr().err


def test_data_that_has_changed_since_is_refused_unless_it_is_named(folder, tmp_path, capsys):
    file = tmp_path / "made.npz"
    save_npz(make_data(), file)
    agent = wrap(TD3BC(**SMALL))
    fit(agent, steps=2, seeds=1, dataset=load_dataset(f"npz:{file}"))
    agent.save(tmp_path / "agent.npz")
    save_npz(make_data().subset(episodes=slice(5)), file)
    assert main(["ope", str(tmp_path / "agent.npz"), *QUICK]) == 2
    said = capsys.readouterr().err
    assert "is not the data that the agent was trained on" in said and "agent.npz" in said and "--data" in said
    assert main(["ope", str(tmp_path / "agent.npz"), "--data", f"npz:{file}", *QUICK]) == 0


def test_data_without_a_reference_must_be_named(tmp_path, capsys):
    agent = wrap(TD3BC(**SMALL))
    fit(agent, steps=2, seeds=1)
    agent.save(tmp_path / "agent.npz")
    assert isinstance(make_data(), Dataset)
    assert main(["ope", str(tmp_path / "agent.npz"), *QUICK]) == 2
    assert "made up" in capsys.readouterr().err


# -- the benchmark ------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_kept_rows_say(capsys):
    benchmark.main(["--show", str(benchmark.OUT)])
    page = (Path(__file__).parents[1] / "docs" / "choosing.md").read_text(encoding="utf-8")
    shown = lines(capsys)
    assert [line for line in shown if line.startswith("|") and line not in page.splitlines()] == []
    kept = [benchmark.read(path) for path in benchmark.OUT.glob("*.jsonl")]
    assert len(kept) >= 3
    for made, rows in kept:
        assert made["commit"] and made["versions"]["torch"] and made["device"] and made["claims"] == benchmark.CLAIMS
        assert len(rows) >= 12 and all(row["data"]["fingerprint"] for row in rows)


def test_a_rank_correlation_is_of_ranks():
    assert benchmark.spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1.0)
    assert benchmark.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    draw = np.random.default_rng(0)
    a, b = draw.permutation(30), draw.permutation(30)
    by_hand = 1 - 6 * ((a - b) ** 2).sum() / (30 * (30**2 - 1))
    assert benchmark.spearman(a, b) == pytest.approx(by_hand)


def test_figures_are_of_the_policies_of_one_data_set(tmp_path, capsys):
    """Values in the right order, TD errors in the wrong one, and own critics that say something of three policies."""
    own = [1.0, 3.0, None, 2.0]
    rows = [
        {"stack": "TD3BC", "returns": [10.0 * i, 10.0 * i], "return": 10.0 * i, "fqe": i, "td": i, "own": own[i]}
        | {"data": {"reference": "made up"}}
        for i in range(4)
    ]
    benchmark.write(tmp_path / "made.jsonl", {"command": "made", "device": "cpu", "commit": None}, rows)
    figures = benchmark.figures(rows)
    assert figures["spearman"] == {"fqe": pytest.approx(1.0), "td": pytest.approx(-1.0)}
    assert figures["spearman with critics"]["own"] == pytest.approx(0.5)
    assert figures["chosen"] == {"fqe": 30.0, "td": 0.0, "own": 10.0}
    assert (figures["best"], figures["mean"], figures["rollouts as good"]) == (30.0, 15.0, 4)
    benchmark.main(["--show", str(tmp_path)])
    assert "| made up | 4 | 1.00 | -1.00 | 1.00 | 0.50 | 30 | 10 | 0 | 30 | 15 | 4 |" in lines(capsys)
