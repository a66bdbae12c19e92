"""Suites: every one that ships resolves, narrowing, and one clear error for everything that can be wrong."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import SuiteError
from adaptive_constraints.experiments.stacks import read_stack, subsets
from adaptive_constraints.experiments.suite import expand, list_suites, load_suite, narrow, short_name

SUITES = (
    *("smoke", "quick", "combos", "paper-aspc", "paper-ssar", "paper-anq", "paper-ilq"),
    *("ablation-aspc", "ablation-ssar", "ablation-anq", "ablation-ilq"),
    "regenerated",
    *("demo", "evidence", "robustness", "backbones", "mazes", "mujoco", "full-size"),
)
MINIMAL = 'about = "x"\nlearners = "TD3BC"\ndata = "bundled:hopper"\nseeds = 2\nsteps = 10\n'

shipped = cache(load_suite)


def written(folder, text):
    path = folder / "own.toml"
    path.write_text(text)
    return path


def test_those_that_ship_are_these():
    assert set(list_suites()) == set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_resolves(name):
    suite = shipped(name)
    assert suite.about
    assert len({cell.id for cell in suite.cells}) == len(suite.cells)
    assert Stack.from_spec(suite.cells[-1].spec).to_spec() == suite.cells[-1].spec
    for cell in suite.cells:
        assert len(cell.id) < 200
        assert "/" not in cell.id
    if name.startswith("paper"):
        ours = {(cell.data, cell.stack) for cell in suite.cells}
        assert {figure["data"] for figure in suite.published} <= {cell.data for cell in suite.cells}
        assert sum((figure["data"], figure["stack"]) in ours for figure in suite.published) >= 14
        assert all(figure["source"] for figure in suite.published)


def test_figures_are_those_of_the_papers():
    figures = {(figure["data"], figure["stack"]): figure for name in SUITES[3:7] for figure in shipped(name).published}
    hopper = "d4rl:hopper_medium-v2.hdf5"
    assert figures[hopper, "TD3BC(preset, critic=robust) + ASPC"]["score"] == 92.7
    assert figures[hopper, "IQL(preset=anq) + ANQ(preset)"]["spread"] == 0.6
    assert figures[hopper, "TD3BC(preset=ssar) + SSAR(preset)"]["score"] == 101.6
    assert figures["d4rl:walker2d_medium_replay-v2.hdf5", "CQL(preset) + ILQ(preset)"]["score"] == 95.3


def test_combos_are_all_subsets_of_four_on_five_learners():
    cells = shipped("combos").cells
    assert len({cell.stack for cell in cells}) == 80
    assert {len(cell.adapters) for cell in cells} == {0, 1, 2, 3, 4}
    assert len(subsets(["A", "B", "C"])) == 8


def test_labels_name_what_differs_and_a_preset_by_placeholder_as_one():
    label = "TD3BC(critic=robust) + ASPC(interval=5, loss=L1+L2)"
    assert read_stack("td3_bc alpha=2.5 critic=robust + ASPC interval=5 loss=L1+L2").label == label
    named: Any = read_stack("CQL preset=ilq-{data} + ILQ preset={data} eta=0.5", data="hopper-random")
    assert named.label == "CQL(preset) + ILQ(preset, eta=0.5)"
    assert named.learner_words == ("CQL", "preset=ilq-hopper-random")
    assert named.stack.adapters[0].delta == 1.0


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("d4rl:data/hopper_medium_replay-v2.hdf5", "hopper-medium-replay"),
        ("minari:D4RL/pen/human-v2", "pen-human"),
        ("bundled:hopper", "hopper"),
        ("scripted:pointmaze/umaze", "pointmaze-umaze"),
        ("npz:/some/where/own.npz", "own"),
    ],
)
def test_data_is_called_by_what_presets_are_named_after(reference, name):
    assert short_name(reference) == name


def test_braces_expand_as_in_a_shell():
    assert expand("{a,b}-{c,d}.x") == ["a-c.x", "a-d.x", "b-c.x", "b-d.x"]
    assert expand("m{,-dense}") == ["m", "m-dense"]


def test_a_grid_has_what_the_top_says_unless_it_says_otherwise(tmp_path):
    grids = "[evaluation]\nevery = 5\n[[grid]]\n[[grid]]\nlearners = 'IQL'\nseeds = [3, 7]\nevaluation.episodes = 2\n"
    one, two = load_suite(written(tmp_path, MINIMAL + grids)).cells
    assert (one.stack, one.seeds, one.eval_every, one.eval_episodes) == ("TD3BC", (0, 1), 5, 10)
    assert (two.stack, two.seeds, two.eval_every, two.eval_episodes) == ("IQL", (3, 7), 5, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about = ", r"is no readable TOML"),
        (MINIMAL + "step = 5", r"the top: unknown key 'step': did you mean 'steps'\?"),
        (MINIMAL + "[evaluation]\nevry = 5", r"the top, evaluation: unknown key 'evry'"),
        (MINIMAL.replace("TD3BC", "TD3BD"), r"the top, 'TD3BD': unknown learner 'TD3BD': did you mean TD3BC\?"),
        (MINIMAL.replace("TD3BC", "TD3BC crtic=robust"), r"TD3BC has no setting 'crtic'"),
        (MINIMAL.replace("TD3BC", "TD3BC + ASPC preset=gym"), r"ASPC has no preset 'gym'"),
        (MINIMAL + "adapters = ['ASPC', 'APSC']", r"'TD3BC \+ APSC': unknown adapter 'APSC'"),
        (MINIMAL.replace("bundled", "bundle"), r"the top, data hopper: unknown data reference 'bundle:hopper'"),
        (MINIMAL.replace("hopper", "hoper"), r"no bundled data set 'hoper'"),
        (MINIMAL.replace("bundled:hopper", "scripted:pointmaze/tiny"), r"no scripted data 'pointmaze/tiny'"),
        (MINIMAL.replace("steps = 10\n", ""), r"the top, steps: it is missing"),
        (MINIMAL.replace("seeds = 2", "seeds = [1, 1]"), r"the top, seeds: 1 stands there twice"),
        (MINIMAL.replace("seeds = 2", "seeds = true"), r"the top, seeds: a whole number from 1 is needed, not True"),
        (MINIMAL.replace('"TD3BC"', "3"), r"the top, learners: text or a list of texts is needed, not 3"),
        (MINIMAL.replace('learners = "TD3BC"\n', ""), r"the top: no stacks"),
        (MINIMAL + "grid = 3", r"grid: write \[\[grid\]\] above each"),
        (MINIMAL + "[[grid]]\n[[grid]]\nsteps = 20", r"grid 2: TD3BC on bundled:hopper stands in an earlier grid too"),
        (MINIMAL + "[[published]]\nsource = 'x'\ndata = 'walker'", r"published 1, data: 'walker' is in no grid"),
        (
            MINIMAL + "[[published]]\nsource = 'x'\ndata = 'hopper'\nscores.A = [1, 2]",
            r"published 1, scores.'A': 1 numbers are needed",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(SuiteError, match=said) as raised:
        load_suite(path)
    assert str(path) in str(raised.value)


def test_suites_that_are_not_there(tmp_path):
    with pytest.raises(SuiteError, match=r"no suite 'smok': did you mean 'smoke'\? there: .*quick"):
        load_suite("smok")
    with pytest.raises(SuiteError, match=r"no file .*own.toml"):
        load_suite(tmp_path / "own.toml")


def test_a_name_means_the_suite_that_ships_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "benchmarks" / "suites").mkdir(parents=True)
    (tmp_path / "benchmarks" / "suites" / "smoke.toml").write_text("about = 'another'")
    monkeypatch.chdir(tmp_path)
    assert load_suite("smoke") == shipped("smoke")
    with pytest.raises(SuiteError, match=r"benchmarks/suites/smoke.toml, the top, data: it is missing"):
        load_suite("benchmarks/suites/smoke.toml")


def test_narrowing():
    cells = shipped("smoke").cells
    both = narrow(cells, where=["adapter=ASPC", "learner=td3bc", "learner=IQL*"], seeds=[5], steps=7, eval_env="E-v0")
    assert [cell.stack for cell in both] == [
        "TD3BC(critic=robust, hidden=16) + ASPC(interval=2)",
        "TD3BC(critic=robust, hidden=16) + ASPC(interval=2) + ANQ(hidden=16)",
        "IQL(hidden=16) + ASPC(interval=2)",
        "IQL(hidden=16) + ASPC(interval=2) + ANQ(hidden=16)",
    ]
    assert {(cell.seeds, cell.steps, cell.eval_env) for cell in both} == {((5,), 7, "E-v0")}
    assert len(narrow(cells, where=["adapter=none"])) == 2
    assert len(narrow(cells, where=["data=hopper"], only=["*ANQ*"])) == 4
    assert narrow(cells, only=[cells[3].id]) == (cells[3],)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "learner=CQL"], "no cell has learner=CQL; there are IQL, IQL(hidden=16), TD3BC"),
        (["--where", "colour=red"], "--where colour=red: write KEY=PATTERN, KEY one of learner, adapter, data, stack"),
        (["--only", "x"], "no cell is called x within what --where leaves; --list shows the cells"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--seeds", "1", "--seed-list", "2"], "give --seeds (how many) or --seed-list (which), not both"),
    ],
)
def test_narrowing_to_nothing(words, said, capsys):
    assert main(["bench", "smoke", "--list", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_list_of_cells_runs_nothing(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, MINIMAL + "adapters = ['none', 'ASPC']")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", str(path), "--list", "--where", "adapter=ASPC"]) == 0
    said = capsys.readouterr().out
    assert "bundled-hopper-TD3BC+ASPC  TD3BC + ASPC  bundled:hopper  2      10" in said
    assert "1 cells" in said
    assert list(tmp_path.iterdir()) == [path]
