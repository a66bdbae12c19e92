"""The command line: every command, right and wrong, in words and in exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from adaptive_constraints import Dataset, load_agent, load_dataset
from adaptive_constraints.cli import main
from adaptive_constraints.composition import registry
from adaptive_constraints.composition.text import parse, read_adapters
from adaptive_constraints.data import save_npz
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.metrics import Failure

from .helpers import random_data

TINY = ["--learner", "td3_bc", "hidden=8", "batch_size=16"]
SHORT = ["--steps", "40", "--seeds", "2", "--log-every", "20", "--checkpoint-every", "20", "--device", "cpu"]
STACK = [*TINY, "--adapters", "ASPC", "interval=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small data set by reference; it does not say which environment it comes from."""
    path = tmp_path_factory.mktemp("data") / "random.npz"
    random = random_data()
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    save_npz(Dataset.from_arrays(**{name: getattr(random, name) for name in names}), path)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the bundled data."""
    out = tmp_path_factory.mktemp("runs") / "run"
    evaluation = ["--eval-every", "20", "--eval-episodes", "1"]
    assert main(["train", "--data", "bundled:hopper", *STACK, *SHORT, *evaluation, "--out", str(out), "--quiet"]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, on both streams."""
    captured = capsys.readouterr()
    return captured.out + captured.err


# -- train --------------------------------------------------------------------------------------------------------


def test_train_stops_resumes_and_is_complete(data, tmp_path, capsys):
    command = ["train", "--data", data, *STACK, *SHORT, "--eval-env", "none", "--out", str(tmp_path / "run")]
    assert main([*command, "--stop-after", "20"]) == 0
    first = said(capsys)
    assert "TD3BC + aspc on Dataset('npz:" in first and "seeds 0, 1; 40 steps" in first
    assert "note: aspc: the paper reports instability" in first
    assert "TD3BC + aspc at step 20" in first and "not evaluated" in first and "checkpoint.npz" in first
    assert main(command) == 0
    assert "holds this run at step 20 of 40: going on from there" in said(capsys)
    assert main(command) == 0
    assert "holds this run at step 40 of 40: it is complete" in said(capsys)
    assert load_agent(tmp_path / "run").step == 40


def test_train_shows_a_table_of_seeds(run, capsys):
    evaluation = ["--eval-every", "20", "--eval-episodes", "1"]
    assert main(["train", "--data", "bundled:hopper", *STACK, *SHORT, *evaluation, "--out", str(run), "--quiet"]) == 0
    lines = said(capsys).splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("seed"))
    assert lines[table].split("  ")[1:3] == ["last score", "best score"]
    assert [line.split()[0] for line in lines[table + 1 : table + 4]] == ["0", "1", "mean"]
    last = json.loads((run / "result.json").read_text())["last"]
    assert [float(lines[table + 1 + i].split()[1]) for i in range(2)] == [round(score, 1) for score in last]


def test_the_default_folder_names_data_stack_and_length(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--steps", "2", "--eval-env", "none", "--seed-list", "5", "--device", "cpu"]
    adapters = ["--adapters", "FixedTradeoff", "value=3"]
    assert main(["train", "--data", data, *TINY, *adapters, *small, "--threads", "1"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("random-TD3BC,batch_size=16,hidden=8+FixedTradeoff,value=3.0-2")
    assert load_agent(folder).seeds == (5,)
    assert "seeds 5;" in said(capsys)


def test_ctrl_c_says_from_where_the_run_goes_on(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    command = ["train", "--data", data, *STACK, *SHORT, "--eval-env", "none", "--out", str(out), "--quiet"]
    real, at = Engine.run, [0]

    def interrupted(engine: Engine, steps: int) -> None:
        if engine.step == at[0]:
            raise KeyboardInterrupt
        real(engine, steps)

    monkeypatch.setattr(Engine, "run", interrupted)
    at[0] = 0
    assert main(command) == 130
    assert "before the first checkpoint" in said(capsys)
    at[0] = 20
    assert main(command) == 130
    assert f"the same command goes on from step 20, the last checkpoint in {out}" in said(capsys)
    monkeypatch.undo()
    assert main(command) == 0
    assert load_agent(out).step == 40


def test_lost_seeds_are_named_and_do_not_count(run, capsys):
    from adaptive_constraints.cli.show import show_summary

    agent = load_agent(run)
    agent.history.failures[1] = Failure(7, "critic/loss")
    show_summary(agent, agent.history)
    _, first, second, mean = said(capsys).splitlines()
    assert second.endswith("lost at step 7: critic/loss was not finite")
    assert mean.split()[1] == first.split()[1]


def test_a_run_that_loses_every_seed_fails(data, tmp_path, capsys):
    wild = ["--learner", "TD3BC", "hidden=8", "critic_learning_rate=1e30"]
    assert main(["train", "--data", data, *wild, *SHORT, "--eval-env", "none", "--out", str(tmp_path / "run")]) == 2
    assert "error: all seeds of TD3BC are lost" in said(capsys)


WRONG: dict[str, Any] = {
    "unknown learner": (["--learner", "TD3"], "unknown learner 'TD3': did you mean TD3BC?"),
    "no learner": (["--learner"], "name a learner, such as --learner TD3BC"),
    "two learners": (["--learner", "TD3BC", "ASPC"], "one learner is needed, not TD3BC, ASPC"),
    "unknown setting": (["--learner", "TD3BC", "critc=robust"], "TD3BC has no setting 'critc': did you mean 'critic'?"),
    "quoted": (["--learner", "TD3BC critic=robust"], "as words of their own, without quotes"),
    "wrong choice": (
        ["--learner", "TD3BC", "critic=fast"],
        "critic must be 'plain', 'layernorm' or 'robust', not 'fast'",
    ),
    "wrong number": (["--learner", "TD3BC", "hidden=2.5"], "hidden must be a whole number >= 1, not '2.5'"),
    "setting first": (["--learner", "hidden=8"], "'hidden=8' stands before any learner"),
    "spaces": (["--learner", "TD3BC", "=8"], "write setting=value without spaces"),
    "setting twice": (["--learner", "TD3BC", "hidden=8", "hidden=9"], "hidden is given twice"),
    "unknown adapter": ([*TINY, "--adapters", "ASPCC"], "unknown adapter 'ASPCC': did you mean ASPC?"),
    "adapter's setting": (
        [*TINY, "--adapters", "ASPC", "initial=-1"],
        "initial must be a number > 0 or none, not -1.0",
    ),
    "two that decide": ([*TINY, "--adapters", "ASPC", "FixedTradeoff"], "both decide 'tradeoff'"),
    "one name twice": ([*TINY, "--adapters", "ASPC", "ASPC"], "share one name"),
    "option twice": ([*TINY, "--adapters", "ASPC", "--adapters", "FixedTradeoff"], "--adapters is given twice"),
    "both kinds of seeds": ([*TINY, "--seeds", "2", "--seed-list", "1"], "not both"),
    "one seed twice": ([*TINY, "--seed-list", "1", "1"], "a list of different numbers"),
    "no threads": ([*TINY, "--threads", "0"], "--threads must be at least 1, not 0"),
    "seeds below 1": ([*TINY, "--seeds", "-1"], "--seeds must be at least 1, not -1"),
    "stop too late": ([*TINY, "--stop-after", "9"], "stop_after must lie between 1 and steps = 2"),
    "unknown device": ([*TINY, "--device", "abacus"], "device 'abacus' cannot be used here"),
    "no environment": (TINY, "the data does not say which environment it comes from"),
    "unknown environment": ([*TINY, "--eval-env", "Nope-v0"], "Nope-v0 cannot be made"),
    "other environment": (
        [*TINY, "--eval-env", "Pendulum-v1"],
        "Pendulum-v1 has 3 observation and 1 action dimensions",
    ),
    "unknown module": ([*TINY, "--imports", "no_such_module"], "--imports no_such_module"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_end_in_one_line(case, data, tmp_path, capsys):
    words, message = WRONG[case]
    assert main(["train", "--data", data, "--steps", "2", "--out", str(tmp_path / "run"), *words]) == 2
    last = said(capsys).splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hopper", "unknown data reference 'hopper'; use one of: bundled:NAME"),
        ("bundled:hoper", "no bundled data set 'hoper'; did you mean 'hopper'?"),
        ("npz:missing.npz", "no file missing.npz"),
        ("minari:none/such-v0", "--download"),
    ],
)
@pytest.mark.parametrize("command", [["train", *TINY, "--steps", "2", "--data"], ["doctor"]])
def test_wrong_data_references(command, reference, message, capsys):
    assert main([*command, reference]) == 2
    assert message in said(capsys)


def test_a_folder_of_another_run_is_refused(run, data, capsys):
    before = (run / "checkpoint.npz").read_bytes()
    assert main(["train", "--data", data, *TINY, *SHORT, "--eval-env", "none", "--out", str(run)]) == 2
    error = said(capsys).splitlines()[-1]
    assert "holds another training" in error and "use another folder" in error
    assert (run / "checkpoint.npz").read_bytes() == before


def test_a_file_where_the_folder_should_be(data, tmp_path, capsys):
    (tmp_path / "run").write_text("something else")
    command = ["train", "--data", data, *TINY, "--steps", "2", "--eval-env", "none", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert said(capsys).splitlines()[-1].startswith("error: ")


# -- finetune -----------------------------------------------------------------------------------------------------


def test_finetune_stops_goes_on_and_is_complete(run, tmp_path, capsys):
    out, often = tmp_path / "online", ["--log-every", "10", "--checkpoint-every", "10", "--device", "cpu"]
    command = ["finetune", str(run), "--steps", "60", "--buffer", "half", *often, "--out", str(out)]
    assert main([*command, "--eval-env", "none", "--stop-after", "35"]) == 0
    shown = said(capsys)
    assert f"TD3BC + aspc from {run}, step 40, seeds 0, 1" in shown
    assert f"60 environment steps per seed, buffer half; run folder {out}" in shown
    assert "TD3BC + aspc at step 67" in shown, "of a batch of 16, half is collected first"
    assert "not evaluated online" in shown and "last score" not in shown
    assert "last" not in json.loads((out / "result.json").read_text())
    assert main([*command, "--eval-episodes", "1"]) == 0
    shown = said(capsys)
    assert "at step 92" in shown and "last score" in shown and "result.json" in shown
    config, result = (json.loads((out / f"{name}.json").read_text()) for name in ("config", "result"))
    assert config["online"]["start"] == 40
    assert config["online"]["settings"].items() >= {"env": "Hopper-v5", "buffer": "half", "warm_up": 8}.items()
    assert result["online_from"] == 40 and [evaluation["step"] for evaluation in result["evaluations"]] == [20, 40, 92]
    assert load_agent(out).step == 92 and load_agent(run).step == 40
    assert main(["finetune", str(out), *command[2:], "--eval-env", "none"]) == 0
    assert "it was complete at step 92: there was nothing to train" in said(capsys)
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0
    assert main([*command[:4], *command[6:]]) == 2
    assert "online buffer half there, all here" in said(capsys)


def test_finetune_names_its_folder(run, tmp_path, capsys):
    load_agent(run, "cpu").save(tmp_path / "agent.npz")
    words = ["--steps", "18", "--buffer", "none", "--eval-env", "none", "--device", "cpu", "--quiet"]
    assert main(["finetune", str(tmp_path / "agent.npz"), *words]) == 0
    assert load_agent(tmp_path / "agent-online-none-18").step == 42


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--buffer", "most"], "most"),
        (["--steps", "many"], "many"),
        (["--steps", "0"], "error: steps must be at least 1, not 0"),
        (["--steps", "40", "--warm-up", "40"], "error: steps must be more than warm_up"),
        (["--env", "Nope-v0"], "error: Nope-v0 cannot be made"),
        (["--env", "Pendulum-v1"], "error: Pendulum-v1 has 3 observation and 1 action dimensions"),
        (["--data", "bundled:hoper"], "error: no bundled data set 'hoper'"),
        (["--threads", "0"], "error: --threads must be at least 1"),
    ],
)
def test_finetune_refuses_what_makes_no_sense(words, message, run, tmp_path, capsys):
    assert main(["finetune", str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in said(capsys)
    assert not (tmp_path / "out" / "checkpoint.npz").exists()


def test_finetune_refuses_other_data_and_what_is_no_agent(run, data, tmp_path, capsys):
    assert main(["finetune", str(run), "--data", data, "--out", str(tmp_path / "out")]) == 2
    assert "is not the data that the agent was trained on (bundled:hopper)" in said(capsys)
    assert main(["finetune", str(tmp_path / "missing")]) == 2
    assert "no such file" in said(capsys)
    assert main(["finetune"]) == 2


# -- the other commands -------------------------------------------------------------------------------------------


def test_evaluate(run, tmp_path, capsys):
    written = tmp_path / "found.json"
    assert main(["evaluate", str(run), "--episodes", "2", "--json", str(written)]) == 0
    shown = said(capsys)
    evaluation = json.loads(written.read_text())
    assert np.shape(evaluation["returns"]) == (2, 2) and evaluation["seeds"] == [0, 1] and evaluation["step"] == 40
    assert evaluation["env"] == "Hopper-v5"
    assert "TD3BC + aspc at step 40" in shown and "score: 0 is a return of -20.2723" in shown
    for seed, (mean, score) in enumerate(zip(evaluation["mean_return"], evaluation["score"], strict=True)):
        assert any(
            line.startswith(f"{seed}     {mean:.1f} +- ") and f"{score:.1f}" in line for line in shown.splitlines()
        )


def test_evaluate_says_at_once_where_it_cannot_write(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--json", str(tmp_path)]) == 2
    assert said(capsys).endswith(f"error: cannot write {tmp_path}, which is a folder: name a file in it\n")


def test_evaluate_needs_an_episode(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "0"]) == 2
    assert said(capsys).endswith("error: --episodes must be at least 1, not 0\n")


def test_more_than_fits_is_said_in_one_line(data, capsys, tmp_path):
    huge = ["--learner", "TD3BC", "hidden=100000000", "--steps", "2", "--eval-env", "none"]
    assert main(["train", "--data", data, *huge, "--out", str(tmp_path / "run")]) == 2
    last = said(capsys).splitlines()[-1]
    assert last.startswith("error: out of memory (") and last.endswith("a smaller width or a smaller batch")


def test_a_reader_that_has_read_enough_is_no_error():
    words = [sys.executable, "-m", "adaptive_constraints", "list", "TD3BC"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_evaluate_without_reference_returns(run, capsys):
    agent = load_agent(run)
    agent.run.data = agent.run.data.__class__(**{**vars(agent.run.data), "reference": None})
    agent.save(run.parent / "plain.npz")
    assert main(["evaluate", str(run.parent / "plain.npz"), "--episodes", "1"]) == 0
    assert "there is no score" in said(capsys)


def test_files_that_are_no_agents(run, tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes((run / "checkpoint.npz").read_bytes()[:3000])
    for command in ("evaluate", "explain"):
        assert main([command, str(tmp_path / "cut.npz")]) == 2
        assert "cut.npz: not a whole saved agent" in said(capsys)
        assert main([command, str(tmp_path / "missing.npz")]) == 2
        assert "missing.npz: no such file" in said(capsys)


def test_a_cut_checkpoint_does_not_resume(data, tmp_path, capsys):
    command = ["train", "--data", data, *TINY, "--steps", "2", "--eval-env", "none", "--out", str(tmp_path)]
    assert main(command) == 0
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:-500])
    assert main(command) == 2
    assert "not a whole saved agent" in said(capsys)


def test_explain_takes_words_or_files(run, capsys):
    assert main(["explain", *STACK]) == 0
    words = said(capsys)
    assert main(["explain", str(run), str(run / "checkpoint.npz")]) == 0
    assert said(capsys) == f"{words}\n{words}"
    assert "tradeoff           aspc" in words
    assert main(["explain", str(run), *STACK]) == 2
    assert "not both" in said(capsys)
    assert main(["explain"]) == 2


def test_list(capsys):
    assert main(["list"]) == 0
    shown = said(capsys)
    for name in ("TD3BC", "arXiv 2106.06860", "ASPC", "arXiv 2508.19900", "LinearTradeoff", "bundled:hopper"):
        assert name in shown
    assert main(["list", "td3bc", "aspc"]) == 0
    shown = said(capsys)
    assert (
        "'plain', 'layernorm' or 'robust'" in shown
        and "Width of every hidden layer." in shown
        and "closed_form" in shown
    )
    assert main(["list", "TD3"]) == 2
    assert "unknown learner or adapter 'TD3': did you mean TD3BC?" in said(capsys)


def test_doctor(data, tmp_path, capsys):
    assert main(["doctor", "bundled:hopper"]) == 0
    assert "nothing to report" in said(capsys)
    sick = load_dataset(data).arrays()
    sick["rewards"] = np.where(np.arange(len(sick["rewards"])) == 3, np.nan, sick["rewards"])
    np.savez(tmp_path / "sick.npz", **sick)
    assert main(["doctor", f"npz:{tmp_path / 'sick.npz'}"]) == 1
    assert "not_finite" in said(capsys)


def test_collect_what_doctor_and_train_take(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "random:Hopper-v5", "--steps", "300", "--keep", "200"]) == 0
    shown = said(capsys)
    assert "random-Hopper-v5.npz" in shown and (tmp_path / "random-Hopper-v5.json").is_file()
    assert main(["doctor", "npz:random-Hopper-v5.npz"]) == 0
    assert main(["train", "--data", "npz:random-Hopper-v5.npz", *TINY, "--steps", "2", "--eval-env", "none"]) == 0
    assert "env_id='Hopper-v5'" in said(capsys)
    for source, message in (("sarsa:Hopper-v5", "unknown source"), ("random:Nope-v0", "cannot make the environment")):
        assert main(["collect", source, "--out", "a.npz"]) == 2
        assert message in said(capsys)


# -- around the commands ------------------------------------------------------------------------------------------


def test_words_that_are_no_command(capsys):
    for words in ([], ["trian"], ["train"], ["train", "--stepz", "3"], ["evaluate"]):
        assert main(words) == 2
        assert said(capsys)


@pytest.mark.parametrize(
    "command", [[], ["train"], ["finetune"], ["evaluate"], ["ope"], ["explain"], ["list"], ["doctor"], ["collect"]]
)
def test_help_explains_every_option(command, capsys):
    assert main([*command, "--help"]) == 0
    shown = said(capsys)
    assert "usage: adaptive-constraints" in shown
    if command == ["train"]:
        for option in (
            "--data",
            "--learner",
            "--adapters",
            "--steps",
            "--seed-list",
            "--eval-env",
            "--out",
            "--imports",
        ):
            assert option in shown
        assert "(required)" in shown and "TD3BC critic=robust" in shown


def test_debug_shows_where_an_error_came_from(capsys):
    assert main(["doctor", "nothing"]) == 2
    assert "Traceback" not in said(capsys)
    assert main(["doctor", "nothing", "--debug"]) == 2
    assert "Traceback" in said(capsys)


def test_without_tyro_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["list"]) == 2
    assert "pip install 'adaptive-constraints[cli]'" in said(capsys)


def test_learners_and_adapters_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_adapters.py").write_text(
        "from dataclasses import dataclass\n"
        "from adaptive_constraints import FixedTradeoff\n"
        "@dataclass(frozen=True)\n"
        "class HalfScale(FixedTradeoff):\n"
        "    '''Half of it.'''\n"
        "    share: float = 0.5\n"
        "    '''Of the whole.'''\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["--adapters", "half_scale", "share=0.25", "--imports", "my_adapters"]
    assert main(["explain", "--learner", "TD3BC", *words]) == 0
    assert "TD3BC + halfscale" in said(capsys)
    assert main(["list", "HalfScale", "--imports", "my_adapters"]) == 0
    assert "Of the whole." in said(capsys)


# -- settings as text ---------------------------------------------------------------------------------------------


def test_every_default_can_be_typed():
    known = (*registry.learners().values(), *registry.adapters().values())
    ours = [cls for cls in known if cls.__module__.startswith("adaptive_constraints.")]  # not those of other tests
    assert len(ours) >= 4
    for cls in ours:
        hints = get_type_hints(cls, include_extras=True)
        for field in fields(cls):
            if field.default not in ("", MISSING):
                assert parse(str(field.default), hints[field.name]) == field.default


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("none", float | None, None),
        ("3", float | None, 3.0),
        ("3", int | float, 3),
        ("True", bool, True),
        ("return_range", float | str, "return_range"),
        ("2", float | str, 2.0),
    ],
)
def test_text_becomes_the_narrowest_type(text, annotation, value):
    assert parse(text, annotation) == value
    assert type(parse(text, annotation)) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "allowed"),
    [
        ("1", bool, "true or false"),
        ("nan", float, "a number"),
        ("x", int | None, "a whole number or none"),
        ("x", tuple[int, ...], "set in Python"),
    ],
)
def test_text_that_does_not_fit_is_told_what_does(text, annotation, allowed):
    with pytest.raises(ValueError, match=f"^{allowed}$"):
        parse(text, annotation)


def test_settings_belong_to_the_name_before_them():
    first, second = map(vars, read_adapters(["aspc", "interval=5", "FixedTradeoff", "name=other", "value=none"]))
    assert (first["interval"], second["name"], second["value"]) == (5, "other", None)
