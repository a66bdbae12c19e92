"""Results that the repository keeps: rows are whole and consistent, and docs/results.md is made from them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import ASPC, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import reference_of
from adaptive_constraints.experiments.rows import ResultRow, read_rows, read_suite
from adaptive_constraints.experiments.suite import list_suites, load_suite
from benchmarks import results_page, rows, tried  # noqa: F401  (its adapter is named by a suite)

from . import synthetic_rows

FOLDERS = sorted(path.parent.name for path in results_page.RESULTS.glob("*/rows.jsonl"))


@pytest.mark.slow
def test_the_page_is_what_the_rows_say():
    made = results_page.page()
    assert "{{" not in made
    assert results_page.PAGE.read_text(encoding="utf-8") == made, "python -m benchmarks.results_page writes it anew"


@pytest.mark.parametrize("folder", FOLDERS)
def test_kept_rows_are_whole(folder):
    kept = read_rows(results_page.RESULTS / folder)
    planned = {
        (cell["cell"], seed) for cell in read_suite(results_page.RESULTS / folder)["cells"] for seed in cell["seeds"]
    }
    assert {(row["cell"], row["seed"]) for row in kept} == planned
    assert len(kept) == len(planned)
    for row in kept:
        assert ResultRow.__required_keys__ <= set(row)
        assert row["commit"] and row["command"] and row["versions"]["torch"]
        assert all(len(steps) == len(values) <= rows.POINTS for steps, values in row["series"].values())


SHIPPED = [folder for folder in FOLDERS if folder in list_suites()]


@pytest.mark.parametrize("folder", [*SHIPPED, "tried"])
def test_kept_claims_are_those_of_the_whole_suite(folder):
    """Also where a part of the suite was run last, whose record has fewer."""
    kept = read_suite(results_page.RESULTS / folder)
    here = folder not in SHIPPED  # not in the wheel: its adapter stands in benchmarks/tried.py
    suite = load_suite(results_page.HERE / f"{folder}.toml" if here else folder, ["benchmarks.tried"] if here else [])
    assert (kept["about"], kept.get("claims", [])) == (suite.about, list(suite.claims))


@pytest.mark.parametrize("folder", FOLDERS)
def test_scores_of_kept_rows_are_those_of_their_returns(folder):
    for row in read_rows(results_page.RESULTS / folder):
        low, high = row["reference"]["random"], row["reference"]["expert"]
        assert row["evaluations"][-1]["returns"]
        for evaluation in (evaluation for evaluation in row["evaluations"] if evaluation["returns"]):
            assert evaluation["value"] == pytest.approx(
                100 * (np.mean(evaluation["returns"]) - low) / (high - low), abs=1e-3
            )
        online = row.get("online")
        values = [
            evaluation["value"]
            for evaluation in row["evaluations"]
            if not online or evaluation["step"] > online["after step"]
        ]
        expected = {"last": values[-1], "best": max(values), "last_ten": np.mean(values[-10:])}
        assert {name: dict(row)[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_the_data_score_what_is_said():
    lines = (results_page.RESULTS / "data.jsonl").read_text(encoding="utf-8").splitlines()
    said = {line["reference"]: line for line in map(json.loads, lines)}
    data, bundled = load_dataset("bundled:hopper"), said["bundled:hopper"]
    assert (data.fingerprint, len(data)) == (bundled["fingerprint"], bundled["rows"])
    assert reference_of(data).score(data.episode_returns().mean()) == pytest.approx(bundled["score"], abs=0.01)
    used = {
        row["data"]["reference"]: row["data"]["fingerprint"]
        for folder in FOLDERS
        for row in read_rows(results_page.RESULTS / folder)
    }
    rolled = {reference for reference in used if reference.startswith("scripted:pendulum/")}
    assert {reference: load_dataset(reference).fingerprint for reference in rolled} == {n: used[n] for n in rolled}
    assert {used[name] for name in used if name not in rolled} == {line["fingerprint"] for line in said.values()}


# -- keeping rows -------------------------------------------------------------------------------------------------


def test_rows_of_bench_are_kept_thinner_and_once(tmp_path):
    made = synthetic_rows.row("TD3BC", ["ASPC"], "bundled:hopper", 0)
    made["series"]["aspc/scale"] = [list(range(1_000)), np.linspace(0, 1 / 3, 1_000).tolist()]
    bench = synthetic_rows.folder(tmp_path / "bench", [made])
    for _ in range(2):
        rows.main([str(bench), "--into", str(tmp_path / "kept")])
    (kept,) = read_rows(tmp_path / "kept")
    steps, values = kept["series"]["aspc/scale"]
    assert len(steps) == rows.POINTS and (steps[0], steps[-1]) == (0, 999)
    assert values[-1] == 0.3333
    assert kept["last"] == pytest.approx(made["last"], rel=1e-5)
    assert read_suite(tmp_path / "kept") == read_suite(bench)
    other = synthetic_rows.folder(tmp_path / "other", [made | {"seed": 1}])
    rows.main([str(other), "--into", str(tmp_path / "kept")])
    assert [row["seed"] for row in read_rows(tmp_path / "kept")] == [0, 1]
    (cell,) = read_suite(tmp_path / "kept")["cells"]
    assert cell["seeds"] == [0, 1]


def test_rows_of_many_small_cells_are_kept_without_curves(tmp_path):
    made = synthetic_rows.row("TD3BC", ["ASPC"], "bundled:hopper", 0)
    bench = synthetic_rows.folder(tmp_path / "bench", [made])
    rows.main([str(bench), "--into", str(tmp_path / "kept"), "--last-only"])
    (kept,) = read_rows(tmp_path / "kept")
    steps, values = made["series"]["aspc/scale"]
    assert kept["series"]["aspc/scale"] == [steps[-1:], pytest.approx(values[-1:], rel=1e-3)]
    assert len(kept["evaluations"]) == len(made["evaluations"])
    assert [len(evaluation["returns"]) for evaluation in kept["evaluations"]] == [0] * 19 + [2]
    assert kept["last_ten"] == pytest.approx(made["last_ten"], rel=1e-5)


def test_a_run_folder_becomes_rows_before_and_after_fine_tuning(tmp_path):
    agent = wrap(TD3BC(hidden=8, batch_size=16), ASPC(interval=1))
    watched: dict[str, Any] = {"eval_every": 2, "eval_episodes": 1, "log_every": 1, "traced": False}
    agent.fit("bundled:hopper", steps=4, seeds=2, eval_env="auto", out=tmp_path / "first", **watched)
    agent.finetune("auto", steps=20, warm_up=16, buffer="half", out=tmp_path / "online", **watched)
    for name in ("first", "online"):
        rows.main([str(tmp_path / name), "--into", str(tmp_path / "kept"), "--command", f"made {name}"])
    kept = read_rows(tmp_path / "kept")
    assert len(kept) == 4
    offline, online = kept[0], kept[2]
    assert (offline["stack"], offline["seed"]) == ("TD3BC(batch_size=16, hidden=8) + ASPC(interval=1)", 0)
    assert online["stack"] == offline["stack"] + ", online from buffer half"
    assert (offline["step"], offline["steps"], online["step"], online["steps"]) == (4, 4, 8, 8)
    assert offline["series"].keys() >= {"aspc/scale", "actor/value", "actor/constraint"}
    assert [evaluation["step"] for evaluation in online["evaluations"]] == [2, 4, 6, 8]
    assert online["last"] == pytest.approx(online["evaluations"][-1]["value"])
    assert online["command"] == "made online" and online["threads"] == 1
    with pytest.raises(ValueError, match="stack is not TD3BC"):
        rows.of_run(tmp_path / "first", "kept", "", "TD3BC")
