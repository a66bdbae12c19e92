"""Words that are nearly a command or an option are told what is meant; wrong lengths, before anything else."""

from __future__ import annotations

import pytest

from adaptive_constraints.cli import main

MISSPELLED = {
    "trian": "there is no command trian: did you mean train?",
    "finetun x": "there is no command finetun: did you mean finetune?",
    "train --stpes 3": "train has no option --stpes: did you mean --steps?",
    "train --learnr=TD3BC": "train has no option --learnr: did you mean --learner?",
    "train --evl_every 3": "train has no option --evl-every: did you mean --eval-every?",
    "bench smoke --wokers 2": "bench has no option --wokers: did you mean --workers?",
    "repair x --debgu": "repair has no option --debgu: did you mean --debug?",
    "--hlep": "the commands have no option --hlep: did you mean --help?",
}


@pytest.mark.parametrize("words", MISSPELLED)
def test_misspelled_words_are_told_what_is_meant(words, capsys):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {MISSPELLED[words]}\n")


@pytest.mark.parametrize("words", ["swim", "train --rhubarb 3", "--rhubarb"])
def test_words_that_are_near_to_nothing_get_the_whole_list(words, capsys):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert "did you mean" not in captured.out + captured.err
    assert words.split()[-1 if "3" not in words else 1] in captured.out + captured.err


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
