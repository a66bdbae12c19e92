"""PRDC against a plain loop and the released settings, the data that it reads, and the search for nearest rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, PRDC, load_agent, wrap
from adaptive_constraints.adapters import nearest as nearest_module
from adaptive_constraints.adapters import prdc
from adaptive_constraints.adapters.nearest import nearest
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.engine import batches as batches_module
from adaptive_constraints.errors import StackError, TrainingError
from adaptive_constraints.testing import check_adapter, made_data

from .emulation import EmulatedGraph
from .fine_tuning import Walk, finetune, offline
from .fine_tuning import engine as engine_of
from .helpers import apart_from_alone, build, different, learned
from .reference.common import beside
from .reference.prdc import PlainPRDC
from .test_capture import states
from .test_compiled import Interpreted

SMALL = TD3BC(hidden=8, batch_size=16)


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(nearest_module, "BLOCK", 64)


# -- the plain loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [PRDC(), PRDC(beta=7.5), PRDC(beta=0.1, neighbor=3)])
@pytest.mark.usefixtures("small_blocks")
def test_equals_a_plain_loop(adapter):
    learner = TD3BC(hidden=16, batch_size=32)
    engine, loop = beside(PlainPRDC, learner, adapter, steps=60, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10
    if adapter.beta == 0.1:
        assert loop.others > 100, "it must have found other rows for this to say anything"


def test_equals_a_plain_loop_in_float32():
    engine, loop = beside(PlainPRDC, TD3BC(hidden=32, batch_size=64), PRDC(beta=0.5), steps=60)
    assert loop.largest_deviation(engine) < 1e-5


def test_seeds_together_and_traced_are_seeds_alone():
    assert apart_from_alone(SMALL, PRDC(beta=0.1), ASPC(interval=2), traced=True, steps=6) < 1e-12


def test_it_keeps_the_laws():
    check_adapter(PRDC(beta=0.3), SMALL)


# -- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 5, 64, 65, 1000])
@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_is_the_nearest(rows, dtype):
    draw = torch.Generator().manual_seed(rows)
    parts, points = (
        [torch.randn(count, size, generator=draw, dtype=torch.float64) for size in (11, 3)] for count in (rows, 40)
    )
    key = lambda both: torch.cat([2.0 * both[0], both[1]], 1)  # noqa: E731
    distance = (key(points)[:, None] - key(parts)).square().sum(-1)
    for neighbor in (1, 2, 8):
        found = nearest([p.to(dtype) for p in points], [p.to(dtype) for p in parts], (2.0, 1.0), neighbor)
        expected = distance.sort(1).values[:, min(neighbor, rows) - 1]
        torch.testing.assert_close(distance.gather(1, found[:, None])[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_it_is_exact_where_products_are_not():
    """Far from the origin, where |x|^2 - 2xy + |y|^2 keeps no digit of a distance between neighbours."""
    rows = torch.arange(6.0)[:, None] * 1e-3 + torch.tensor([[1000.0]])
    assert (rows.square().sum(1) - 2 * rows[3:4] @ rows.mT).argmin() != 3, "as it must be for this to say anything"
    assert nearest([rows], [rows], (1.0,)).tolist() == [0, 1, 2, 3, 4, 5]


# -- the data ---------------------------------------------------------------------------------------------------------


def test_all_seeds_see_one_table_and_the_rows_of_their_minibatches():
    engine = build(SMALL, PRDC(), seeds=(0, 1))
    engine.run(1)
    packed = engine.batches.packed

    def shown(v):
        assert v.data["observation"].untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
        found = {name: v.data[name][v.row] - v.batch[name] for name in v.data}
        return {"row": v.row, **found}

    seen = engine.ask("shown", shown)
    assert seen["row"].shape == (2, 16) and not torch.equal(*seen.pop("row"))
    assert seen and all((gap == 0).all() for gap in seen.values())


def test_nothing_of_it_stands_in_the_state():
    """A checkpoint of a stack that reads the data has the arrays of one that does not."""
    with_it, without = build(SMALL, PRDC()), build(SMALL)
    assert {name: t.shape for name, t in with_it.state().items()} == {n: t.shape for n, t in without.state().items()}
    assert "row" not in without.batches.at(1), "and who does not read it does not pay for it"


def test_it_must_be_declared():
    class Sly(PRDC):
        reads_data = False

    with pytest.raises(StackError, match=r"v\.data was read, but no part of the stack says"):
        build(SMALL, Sly(name="sly")).run(2)


def test_data_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(batches_module, "room", lambda device: 100)
    with pytest.warns(batches_module.StreamingWarning), pytest.raises(StackError, match="reads all rows of the data"):
        build(SMALL, PRDC())


def test_many_rows_on_a_cpu_are_warned_of(monkeypatch):
    monkeypatch.setattr(prdc, "SMALL", 199)
    with pytest.warns(UserWarning, match="compares every minibatch with all 200 rows"):
        build(SMALL, PRDC())


# -- how steps are run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_recorded_steps_are_eager_steps_bit_for_bit(seeds):
    adapters = PRDC(beta=0.1), ASPC(interval=1)
    recorded = build(SMALL, *adapters, seeds=seeds, traced=True, graphs=EmulatedGraph)
    eager = build(SMALL, *adapters, seeds=seeds)
    recorded.run(4), eager.run(4)
    assert recorded.recorded and not different(states(eager), states(recorded))


def test_what_is_compiled_is_the_step_and_the_table_is_an_argument():
    options: dict[str, Any] = {"seeds": (0, 1), "dtype": torch.float64}
    compiled, eager = (build(SMALL, PRDC(beta=0.1), graphs=graphs, **options) for graphs in (Interpreted, None))
    compiled.run(4), eager.run(4)
    deviation = [float((one - two).abs().max()) for one, two in zip(*map(list, both(compiled, eager)), strict=True)]
    assert max(deviation) < 1e-12
    graphs: list[Any] = [recorded.graph for recorded in compiled.recorded.values()]
    inputs = [tensor for graph in graphs for tensor in graph.inputs]
    packed = compiled.batches.packed
    assert any(tensor is packed for tensor in inputs)
    copies = [t for t in inputs if t.dim() == 2 and len(t) == len(packed) and t.data_ptr() != packed.data_ptr()]
    assert not copies


def both(one, two):
    return [[tensors[name] for name in sorted(tensors)] for tensors in (learned(one), learned(two))]


@pytest.mark.parametrize("traced", [False, True])
def test_a_run_resumes_bit_for_bit(tmp_path, traced):
    whole, parted = (wrap(SMALL, PRDC(beta=0.3)) for _ in range(2))
    options: dict[str, Any] = {"steps": 8, "seeds": 2, "device": "cpu", "traced": traced, "progress": False}
    whole.fit(made_data(), **options)
    parted.fit(made_data(), stop_after=3, **options)
    parted.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz", device="cpu")
    rows = made_data().observations[:5]
    np.testing.assert_array_equal(loaded.act(rows), parted.act(rows))
    loaded.fit(made_data(), **options)
    assert not different(states(whole.run.engine), states(loaded.run.engine))


# -- online -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", ["all", "half", "part"])
def test_online_it_reads_the_rows_of_the_data_that_were_kept(buffer):
    agent = offline(PRDC(), learner=SMALL)
    finetune(agent, buffer=buffer, **({"part_episodes": 3} if buffer == "part" else {}))
    kept = 30 if buffer == "part" else 120
    engine = engine_of(agent)

    def shown(v):
        assert len(v.data["action"]) == kept
        own = v.data["action"][v.row.clamp(max=kept - 1)] == v.a
        return {"row": v.row, "same": own.all(-1), "imitated": v.behavior_action()}

    seen = engine.ask("shown", shown)
    of_data = seen["row"] < kept
    assert of_data.any() and (seen["row"][~of_data] == kept).all() and (~of_data).any()
    assert seen["same"][of_data].all()
    assert torch.isin(seen["imitated"], engine.batches.unpack(engine.batches.data)["action"]).all()


def test_online_without_the_data_is_refused():
    with pytest.raises(TrainingError, match="prdc reads the rows of the data, of which buffer='none' keeps none"):
        finetune(offline(PRDC(), learner=SMALL), buffer="none")


# -- where it belongs -------------------------------------------------------------------------------------------------


def test_where_nothing_is_imitated_it_is_refused():
    with pytest.raises(StackError, match="prdc: the learner's constraint imitates no action"):
        wrap(CQL(), PRDC())


def test_released_settings():
    assert (PRDC().beta, PRDC().neighbor, PRDC.preset("antmaze").beta) == (2.0, 1, 7.5)
    antmaze, cheetah = TD3BC.preset("prdc-antmaze"), TD3BC.preset("prdc-halfcheetah")
    assert (antmaze.alpha, antmaze.reward_scale, antmaze.reward_shift, cheetah.alpha) == (7.5, 1e4, -1.0, 40.0)
    assert "tested by its paper (arXiv 2306.06569)" in wrap(TD3BC(), PRDC()).explain()
