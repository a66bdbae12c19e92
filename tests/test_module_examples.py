"""Published algorithms written from Modules keep the laws, alone and under the adapters that they can take."""

from __future__ import annotations

import re

import pytest

from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_learner, check_stack

from .helpers import FOUR
from .test_examples import ROOT, load

FOLDER = ROOT / "examples" / "modules"
CLASSES = {"awac": "AWAC", "xql": "XQL", "edac": "EDAC", "droq": "DroQ"}
SMALL = {"edac": {"critics": 3}, "droq": {"dropout": 0.1}}
UNCONSTRAINED = {("edac", "ssar"), ("edac", "aspc")}


def learner(name, **settings):
    kind = getattr(load(FOLDER / f"{name}.py", f"example_{name}"), CLASSES[name])
    return kind(hidden=8, batch_size=16, **{**SMALL.get(name, {}), **settings})


@pytest.mark.parametrize("name", CLASSES)
def test_it_keeps_the_laws_of_a_learner(name):
    check_learner(learner(name))


@pytest.mark.parametrize("adapter", FOUR, ids=lambda adapter: adapter.name)
@pytest.mark.parametrize("name", CLASSES)
def test_it_takes_the_four_adapters_or_has_no_constraint(name, adapter):
    if (name, adapter.name) in UNCONSTRAINED:
        with pytest.raises(StackError, match="as configured has none"):
            check_stack(learner(name), adapter)
    else:
        check_stack(learner(name), adapter)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "edac"])
def test_it_takes_all_four_together(name):
    check_stack(learner(name), *FOUR)


@pytest.mark.parametrize("name", CLASSES)
def test_few_lines_are_not_the_algorithms(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    marked = re.search(r"# -- for the toolkit -+\n(.*?)\n\n\ndef main", text, re.DOTALL)
    assert marked is not None
    assert len([line for line in marked.group(1).splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name", CLASSES)
def test_it_runs(name, capsys):
    load(FOLDER / f"{name}.py", f"example_{name}").main(steps=4)
    assert len(re.findall(r"score -?\d+\.\d after 4 steps", capsys.readouterr().out)) == 2


def test_without_diversity_critics_keep_to_themselves():
    check_learner(learner("edac", eta=0.0))
