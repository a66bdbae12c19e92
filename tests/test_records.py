"""Run folders: metrics that survive a crash and a resumed run, honest provenance, and pictures that can be drawn."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.runs.plots import Curves, drawn, save_figure
from adaptive_constraints.support.records import (
    MetricsLog,
    commit,
    device_name,
    metrics_backwards,
    read_metrics,
    versions,
    write_json,
)


def strict(text: str) -> object:
    """Parse JSON as the standard has it: no NaN, no infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_write_json_takes_arrays_tensors_paths_and_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.json"
    write_json(path, {"a": np.float32(0.5), "b": torch.tensor([1, 2]), "c": (Path("x"), float("nan"), np.inf), 3: True})
    assert strict(path.read_text()) == {"a": 0.5, "b": [1, 2], "c": ["x", None, None], "3": True}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_json(path, {"kept": 1})
    with pytest.raises(TypeError):
        write_json(path, {"lost": object()})
    assert strict(path.read_text()) == {"kept": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_are_on_disk_at_once_and_in_the_csv_on_close(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.append(1, {"loss": torch.tensor([0.5, float("nan")]), "note": "warm"})
        assert read_metrics(log.path) == [{"step": 1, "loss": [0.5, None], "note": "warm"}]
        log.append(2, {"score": np.float64(3.0), "loss": [0.25, 0.125]})
    log.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "1", "loss/0": "0.5", "loss/1": "", "note": "warm", "score": ""},
        {"step": "2", "loss/0": "0.25", "loss/1": "0.125", "note": "", "score": "3.0"},
    ]


def test_a_resumed_run_doubles_nothing_and_drops_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.append(step, {"loss": step})
    with log.path.open("a") as file:  # a crash in the middle of a line
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3]
    with MetricsLog(tmp_path, before=read_metrics(log.path)[:2], resumed_step=2) as resumed:
        for step in (3, 4):
            resumed.append(step, {"loss": 10 * step})
    assert [(row["step"], row["loss"]) for row in read_metrics(log.path)] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    with MetricsLog(tmp_path):
        assert read_metrics(log.path) == []


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl, line 2 is not a row"):
        read_metrics(path)


def test_the_end_of_a_long_file_is_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("no row\n" + "".join(f'{{"step": {step}}}\n' for step in range(1, 100)) + '{"step": 10')
    rows = metrics_backwards(path)
    assert [next(rows)["step"] for _ in range(99)] == list(range(99, 0, -1))
    with pytest.raises(TrainingError, match=r"metrics\.jsonl, line 1 is not a row"):
        next(rows)
    assert list(metrics_backwards(tmp_path / "missing")) == []


def test_a_killed_process_leaves_valid_lines(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from adaptive_constraints.support.records import MetricsLog\n"
        "log = MetricsLog(sys.argv[1])\n"
        "log.append(1, {'loss': 0.5})\n"
        "os._exit(9)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=environment)
    assert done.returncode == 9
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, tensorboard=True) as log:
        log.append(5, {"loss": [0.5, 0.25], "note": "text", "lost": float("nan")})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss/0", "loss/1"]
    assert [(event.step, event.value) for event in events.Scalars("loss/1")] == [(5, 0.25)]


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"adaptive-constraints\[logging\]"):
        MetricsLog(tmp_path, tensorboard=True)
    with pytest.raises(DependencyError, match=r"adaptive-constraints\[plots\]"):
        drawn(curves(1))


def test_versions_name_what_numbers_depend_on() -> None:
    named = versions()
    assert named["torch"] == str(torch.__version__) and named["numpy"] == np.__version__
    assert named["adaptive_constraints"][0].isdigit() and named["python"].startswith("3.")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_reads_the_tree_that_tracks_the_folder_and_no_other(tmp_path: Path) -> None:
    inner = tmp_path / "site-packages"
    inner.mkdir()
    (inner / "a.py").write_text("a")
    assert commit(inner) is None, "no work tree"
    git(tmp_path, "init", "--quiet")
    (tmp_path / "b.py").write_text("b")
    git(tmp_path, "add", "b.py")
    git(tmp_path, "commit", "--quiet", "-m", "b")
    assert commit(inner) is None, "a work tree that does not track the folder"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    assert commit(inner) == {"hash": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "run.log").write_text("beside the code")
    assert (commit(inner) or {})["dirty"] is False
    (tmp_path / "new.py").write_text("not committed")
    assert (commit(inner) or {})["dirty"] is True
    (tmp_path / "new.py").unlink()
    (inner / "a.py").write_text("changed")
    assert (commit(inner) or {})["dirty"] is True


def test_device_name_tells_the_processor() -> None:
    assert device_name("cpu").startswith("cpu (") and len(device_name(torch.device("cpu"))) > len("cpu ()")
    assert device_name("meta") == "meta"


def curves(seeds: int) -> Curves:
    """Scores with a seed lost on the way, a quantity to be drawn linearly, and one over many decades."""
    steps, often = np.arange(0, 10_001, 1000), np.arange(0, 10_001, 100)
    scores = np.linspace(0, 50, len(steps))[:, None] + np.arange(seeds)
    scores[6:, 0] = np.nan
    decay = np.exp(-often / 1000)[:, None] * np.ones(seeds)
    return Curves(steps, scores, {"aspc/scale": (often, 1 + decay), "ssar/beta": (often, decay)})


@pytest.mark.parametrize("seeds", [1, 3])
def test_learning_curves_have_labelled_panels_and_are_written_as_a_picture(tmp_path: Path, seeds: int) -> None:
    figure = drawn(curves(seeds), title="Hopper")
    assert save_figure(figure, tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    panels = figure.axes
    assert [panel.get_ylabel() for panel in panels] == ["normalised score", "aspc/scale", "ssar/beta"]
    assert [panel.get_yscale() for panel in panels] == ["linear", "linear", "log"]
    assert all("steps" in panel.get_xlabel() for panel in panels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean of the seeds"]
    assert figure.get_suptitle() == "Hopper"


def test_a_level_quantity_is_written_long_titles_are_broken_and_the_datas_own_score_is_a_line() -> None:
    steps = np.arange(3)
    level = Curves(steps, np.arange(3.0)[:, None], {"aspc/scale": (steps, np.full((3, 2), 2.5))})
    name = "TD3BC + " + "SSAR(frozen=true, sigma=0.25) + " * 6
    figure = drawn(level, title=name, own=22.5)
    scores, scale = figure.axes
    assert [text.get_text() for text in scale.texts] == ["all equal: 2.5"] and not scale.get_lines()
    assert {22.5} == set(np.asarray(scores.get_lines()[-1].get_ydata()).tolist())
    assert figure.get_suptitle().replace("\n", " ") == name.strip()
    figure.canvas.draw()
    width = figure.get_window_extent().width
    for box in (figure.legends[0].get_window_extent(), *(text.get_window_extent() for text in figure.texts)):
        assert box.x0 >= 0 and box.x1 <= width


def test_the_mean_curve_leaves_lost_seeds_out() -> None:
    three = curves(3)
    mean = np.asarray(drawn(three).axes[0].get_lines()[-1].get_ydata())
    np.testing.assert_allclose(mean[:6], three.scores[:6].mean(1))
    np.testing.assert_allclose(mean[6:], three.scores[6:, 1:].mean(1))
