"""Words that are nearly a command or an option are told what is meant; wrong lengths, before anything else."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from adaptive_constraints import Phase, __version__
from adaptive_constraints.cli import main
from adaptive_constraints.cli.entry import parse
from adaptive_constraints.cli.explain import Explain
from adaptive_constraints.cli.runs import Train
from adaptive_constraints.networks import Precision

MISSPELLED = {
    "trian": "there is no command trian: did you mean train?",
    "finetun x": "there is no command finetun: did you mean finetune?",
    "train --stpes 3": "train has no option --stpes: did you mean --steps?",
    "train --learnr=TD3BC": "train has no option --learnr: did you mean --learner?",
    "train --evl_every 3": "train has no option --evl-every: did you mean --eval-every?",
    "bench smoke --wokers 2": "bench has no option --wokers: did you mean --workers?",
    "repair x --debgu": "repair has no option --debgu: did you mean --debug?",
    "--vresion": "the commands have no option --vresion: did you mean --version?",
    "--hlep": "the commands have no option --hlep: did you mean --help?",
}
WRONG = {
    "train": "train needs --data, --learner and --steps: adaptive-constraints train --help says what they are",
    "train --data=x --steps 3": "train needs --learner: adaptive-constraints train --help says what they are",
    "train --data x --learner TD3BC --steps abc": "--steps: it must be a whole number, not 'abc'",
    "train --data x --learner TD3BC --steps 1.5e0": "--steps: it must be a whole number, not '1.5e0'",
    "evaluate x --episodes nan": "--episodes: it must be a whole number, not 'nan'",
    "evaluate x --episodes 1e9999999999": "--episodes: it must be a whole number, not '1e9999999999'",
    "explain --phase noon": "invalid choice 'noon' for argument '--phase'. Expected one of ('offline', 'online').",
    "evaluate x --max-steps 3": "evaluate has no option --max-steps: did you mean --eval-max-steps?",
}


@pytest.mark.parametrize("words", [*MISSPELLED, *WRONG])
def test_what_cannot_be_read_is_told_in_one_line(words, capsys):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {(MISSPELLED | WRONG)[words]}\n")


@pytest.mark.parametrize(("word", "number"), [("1e3", 1000), ("2_000", 2000), ("-7", -7), ("1.5E2", 150), ("3.0", 3)])
def test_whole_numbers_in_other_forms(word, number):
    command: Any = parse(["train", "--data", "x", "--learner", "TD3BC", "--steps", word, "--eval-max-steps", word])
    assert (command.steps, command.running.eval_max_steps) == (number, number)


def test_a_missing_word_is_named(capsys):
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err.startswith("error: evaluate needs PATH Saved agent, or run folder")


def test_presets_are_listed(capsys):
    assert main(["list", "antmaze"]) == 0
    shown = capsys.readouterr().out
    assert "IQL preset=antmaze" not in shown and "IQL" in shown and "expectile=0.9" in shown
    assert main(["list", "ANTMAZE", "TD3BC"]) == 0
    assert "policy_noise" in capsys.readouterr().out
    assert main(["list", "antmase"]) == 2


@pytest.mark.parametrize(
    "data", ["bundled:hopper | ", "bundled:hopper | top(0.3) |", "| top(0.3)", "bundled:hopper | | top(0.3)"]
)
def test_an_empty_operation(data, capsys):
    assert main(["doctor", data]) == 2
    assert "no operation stands at a |; write one after each" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["swim", "train --rhubarb 3", "--rhubarb"])
def test_words_that_are_near_to_nothing_get_the_whole_list(words, capsys):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert "did you mean" not in captured.out + captured.err
    assert words.split()[-1 if "3" not in words else 1] in captured.out + captured.err


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"adaptive-constraints {__version__}\n"


def test_choices_that_are_written_out_are_those_of_the_library():
    """They are written out because the library's own are defined beside torch, without which --help starts."""
    assert get_type_hints(Explain)["phase"] == Phase
    assert get_type_hints(Train)["precision"] == Precision


@pytest.mark.parametrize("words", ["explain --learner TD3BC", "list", "list --help", "train --eval_every 3 --help"])
def test_right_words_pass(words, capsys):
    assert main(words.split()) == 0
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["0", "-5"])
@pytest.mark.parametrize("command", ["train --data bundled:hopper --learner TD3BC", "finetune somewhere.npz"])
def test_lengths_below_1_are_refused_before_anything_is_printed(command, steps, capsys):
    assert main([*command.split(), "--steps", steps]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: steps must be at least 1, not {steps}\n")
