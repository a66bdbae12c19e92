"""What a saved file may not hold though all its sums are right: arrays, shapes, types and numbers that no run has."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.core.types import Facts, Spec
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import CheckpointError, StackError, SuiteError
from adaptive_constraints.experiments.suite import expand, load_suite
from adaptive_constraints.pretraining.preparation import BoundPreparation
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.typed import check, parse_json

from .fault_kinds import ONLINE, SMALL, Drift, data, stack
from .helpers import build

RUN: dict[str, Any] = {"steps": 12, "seeds": 2, "log_every": 2, "progress": False, "traced": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An agent that is online, whose file has arrays of every sort."""
    folder = tmp_path_factory.mktemp("agent")
    agent = stack()
    agent.fit(data(), stop_after=4, **RUN)
    agent.finetune(Drift, stop_after=6, **ONLINE)
    agent.save(folder / "agent.npz")
    return folder / "agent.npz"


@pytest.fixture
def changed(saved, tmp_path):
    """``changed(function)`` writes a file whose header and arrays the function changed, and tries to load it."""

    def write(change, header_too=True):
        header, tensors = checkpoint.read(saved)
        change(header, tensors)
        if header_too:
            header.pop("arrays")
        file = tmp_path / "agent.npz"
        checkpoint.write(file, header, tensors)
        with pytest.raises(CheckpointError, match=str(file)) as refused:
            load_agent(file, "cpu")
        return str(refused.value)

    return write


ARRAYS = (
    "params/actor/weight0", "params/aspc.rho/rho", "targets/critic/weight0", "adam/actor/weight0/step",
    "adam/critic/bias0/exp_avg", "buffers/aspc/", "metrics/", "replay/reward", "replay/count",
    "preprocessor/observation_mean", "collector/observation/0", "collector/actions/1",
)  # fmt: skip


@pytest.mark.parametrize("start", ARRAYS)
def test_arrays_that_are_missing_or_of_another_shape_or_type(saved, changed, start):
    names = [name for name in checkpoint.read(saved)[1] if name.startswith(start)]
    if not names and start not in ("buffers/aspc/", "params/aspc.rho/rho"):
        raise AssertionError(f"no array {start}")
    for name in names[:3]:
        for change in (
            lambda _, t, name=name: (
                t.pop(name) if not name.startswith("collector/actions") else t.update(x=t.pop(name))
            ),
            lambda _, t, name=name: t.update({f"{name}x": t.pop(name)}),
            lambda _, t, name=name: t.update({name: t[name][None]}),
            lambda _, t, name=name: t.update({name: t[name].reshape(-1)[:1][:, None]}),
            lambda _, t, name=name: t.update({name: t[name].to(torch.complex64)}),
            lambda _, t, name=name: t.update({name: t[name].to(torch.uint8)}),
        ):
            assert changed(change)


@pytest.mark.parametrize("name", ["params/actor/weight0", "targets/critic/bias0", "preprocessor/observation_std"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_no_numbers(changed, name, value):
    def put(_, tensors):
        tensors[name].view(-1)[-1] = value

    assert name.partition("/")[2].partition("/")[0] in changed(put)


def test_a_seed_that_is_lost_may_have_any(tmp_path, saved):
    header, tensors = checkpoint.read(saved)
    tensors["params/actor/weight0"][1] = np.nan
    header["history"]["failures"] = {"1": [5, "actor/loss"]}
    checkpoint.write(tmp_path / "agent.npz", header, tensors)
    assert load_agent(tmp_path / "agent.npz", "cpu").history.failures[1].step == 5


def test_an_array_less_or_more_than_the_header_says(changed):
    assert "its arrays are not those" in changed(lambda _, t: t.update(x=torch.ones(1)), header_too=False)


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (("steps",), ["x", 0, -1, 3, 1.5, None, 10**30, [], True]),
        (("seeds",), [[], [0], [0, 0], [0, 1, 2], ["0", "1"], {}, None, [0, 1.5]]),
        (("step",), [-1, 3, 99, None, "6", 6.5]),
        (("spec", "observation_dim"), [0, -3, 4, 10**12, "3", None]),
        (("spec",), [None, [], {"observation_dim": 3}]),
        (("precision",), ["float16", None, 1]),
        (("products",), ["mkl", None]),
        (("compiled",), [None, "yes", 1]),
        (("data",), [None, {}, []]),
        (("data", "reference"), [{}, 1, {"task": "hopper"}]),
        (("columns",), [[{}], None, {"x": 1}]),
        (("choices",), [None, [], {"nobody": {"rule": "a"}}, {"nobody": 1}, {"nobody": {"rule": 2}}]),
        (("online", "start"), [-1, 7, None]),
        (("online", "settings", "capacity"), [0, -1, "x", 10**25]),
        (("online", "settings", "warm_up"), [-1, 9, None]),
        (("collector", "steps"), [-1, 0, 5, "6", None]),
        (("collector", "episodes"), [[], [0], [0, -1], None]),
        (("collector", "ended"), [[0], ["0", "0"]]),
        (("history",), [None, [], {}]),
        (
            ("history", "metrics"),
            [[{}], [{"step": 99}], [{"step": "2"}], [[]], [{"step": 2, "a": [1.0]}], [{"step": 2}]],
        ),
        (("history", "evaluations"), [[{}], [{"step": 2, "returns": [[0.0]], "reference": None}], [1]]),
        (("history", "failures"), [{"7": [1, "a"]}, {"0": []}, {"x": [1, "a"]}, {"0": ["a", 1]}, []]),
        (("history", "seconds"), ["x", None]),
        (("stack", "learner"), [None, {}, {"type": "TD3BC"}]),
        (("stack",), [None, [], {}]),
    ],
)
def test_headers_that_no_run_writes(changed, keys, values):
    for value in values:

        def put(header, _, value=value):
            for key in keys[:-1]:
                header = header[key]
            header[keys[-1]] = value

        assert changed(put)


def test_an_unknown_learner_names_the_file(tmp_path, saved):
    header, tensors = checkpoint.read(saved)
    header["stack"]["learner"]["type"] = "Unheard"
    checkpoint.write(tmp_path / "agent.npz", header, tensors)
    with pytest.raises(StackError, match=r"agent\.npz: .*Unheard"):
        load_agent(tmp_path / "agent.npz", "cpu")


def test_an_engine_takes_all_or_nothing(tmp_path):
    engine = build(TD3BC(**SMALL), seeds=(0, 1))
    engine.run(2)
    before = {name: tensor.clone() for name, tensor in engine.state().items()}
    for name in before:
        for wrong in (before[name][None], before[name].to(torch.float16)):
            with pytest.raises(ValueError, match="the array"):
                engine.load(before | {name: wrong}, 1)
        with pytest.raises(ValueError, match=r"is missing|of unknown meaning"):
            engine.load({other: tensor for other, tensor in before.items() if other != name}, 1)
    assert engine.step == 2 and all(torch.equal(tensor, before[name]) for name, tensor in engine.state().items())


# -- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def preparation(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / "cache"))
    space = Preprocessor.fit(data())
    return BoundPreparation(data(), space, Facts("actor", frozenset(), None), Spec(3, 2), (0, 1), discount=0.99)


def made(preparation, counts, wait=lambda: None):
    def train(seeds, _):
        counts.append(tuple(seeds))
        wait()
        return {"weight": torch.ones(len(seeds), 3), "bias": torch.zeros(len(seeds))}

    return preparation.trained("test.model", {"width": 3}, train, steps=1)


@pytest.mark.parametrize("wrong", ["shape", "name", "type", "nan", "kept", "other seed"])
def test_a_kept_model_that_is_another_is_made_anew(tmp_path, preparation, wrong):
    counts = []
    right = made(preparation, counts)
    file = next(iter((tmp_path / "cache").glob("*.npz")))
    header, tensors = checkpoint.read(file)
    weight = tensors["weight"]
    tensors |= {
        "shape": {"weight": torch.ones(1)},
        "name": {"w": weight},
        "type": {"weight": weight.double()},
        "nan": {"weight": weight * np.nan},
        "kept": {"weight": torch.ones(4)},
        "other seed": {},
    }[wrong]
    if wrong == "kept":  # the header goes on to say what was there
        tensors["weight"] = torch.ones(4)
    else:
        header.pop("arrays")
    header["seed"] += wrong == "other seed"
    checkpoint.write(file, header, tensors)
    again = made(preparation, counts)
    assert len(counts) == 2 and {name: t.tolist() for name, t in again.items()} == {
        n: t.tolist() for n, t in right.items()
    }
    made(preparation, counts)
    assert len(counts) == 2


def test_of_two_that_need_a_model_the_second_waits(preparation):
    counts, began, go_on = [], threading.Event(), threading.Event()
    first = threading.Thread(target=made, args=(preparation, counts, lambda: (began.set(), go_on.wait(60))))
    second = threading.Thread(target=made, args=(preparation, counts))
    first.start()
    assert began.wait(60)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    go_on.set()
    first.join(), second.join()
    assert counts == [(0, 1)]


# -- plain data -------------------------------------------------------------------------------------------------------


def test_plain_data_of_a_type():
    check({"a": [1, 2.5, None]}, dict[str, list[float | None]])
    for value, kind, message in [
        ("1", int, "it must be a whole number, not '1'"),
        (True, int, "a whole number, not True"),
        (1 << 63, int, "a whole number"),
        (float("inf"), float, "a finite number"),
        (1e300, float, "a finite number"),
        ([1, "x"], list[float], r"it\[1\] must be a finite number, not 'x'"),
        ({"a": {}}, dict[str, list[int] | None], "it.a must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(value, kind)
    for text in ('{"a": NaN}', '{"a": Infinity}', '{"a": 1, "a": 2}'):
        with pytest.raises(ValueError, match=r"is not JSON|stands twice"):
            parse_json(text)


SUITE = 'about = "a"\nlearners = "TD3BC"\ndata = "bundled:hopper"\nseeds = 1\nsteps = 1\n'


@pytest.mark.parametrize(
    "text",
    [
        SUITE + "evaluation = 1",
        SUITE + "evaluation = { every = 'x' }",
        SUITE.replace("seeds = 1", "seeds = 1000000000000"),
        SUITE + f"every_subset_of = {[f'A{n}' for n in range(40)]}",
        SUITE.replace("bundled:hopper", "npz:" + "{a,b}" * 60),
        SUITE + "[[published]]\nsource = 's'\ndata = 'hopper'\nscores = 1",
        SUITE + "[[published]]\nsource = 's'\ndata = 'hopper'\nscores = { a = ['x'] }",
        SUITE + "[[published]]\nsource = 's'\ndata = 'hopper'\nscores = { a = [1] }\nspreads = []",
        SUITE + "x = " + "[" * 5_000 + "]" * 5_000,
        SUITE + "\x00",
        SUITE + "grid = [1]",
    ],
)
def test_suites_that_make_no_sense_are_named(tmp_path, text):
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(SuiteError, match=r"odd\.toml"):
        load_suite(tmp_path / "odd.toml")
    with pytest.raises(SuiteError, match="more than 10000 texts"):
        expand("{a,b,c}" * 9)


def test_a_file_that_is_no_utf8(tmp_path):
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SuiteError, match=r"odd\.toml is no readable TOML"):
        load_suite(tmp_path / "odd.toml")


def test_a_bare_stack_has_no_array_of_an_adapter(tmp_path):
    agent = wrap(TD3BC(**SMALL))
    agent.fit(data(), stop_after=2, **RUN)
    agent.save(tmp_path / "a.npz")
    header, tensors = checkpoint.read(tmp_path / "a.npz")
    header.pop("arrays")
    for name in ("frozen/ssar/weight", "buffers/aspc/x", "replay/count", "collector/x"):
        checkpoint.write(tmp_path / "b.npz", header, tensors | {name: torch.ones(2)})
        with pytest.raises(CheckpointError, match=r"b\.npz"):
            load_agent(tmp_path / "b.npz", "cpu")
