"""Products of bfloat16: what they change, and what they must not."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch

from adaptive_constraints import ASPC, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import CheckpointError, DependencyError, TrainingError
from adaptive_constraints.networks import init_mlp, mlp, product_precision
from adaptive_constraints.support import cpu
from adaptive_constraints.support.cpu import PrecisionWarning, warn_if_slower
from adaptive_constraints.testing import made_data

from .helpers import build, different, learned

CPU = torch.device("cpu")
MKLDNN: Any = torch.backends.mkldnn
LEARNER = TD3BC(hidden=16, batch_size=32)
UNIT = 2.0**-8
"""The largest relative error of rounding to bfloat16."""


@pytest.fixture(autouse=True)
def _measured_anew():
    """What is measured under a faked clock must not stay with other tests."""
    cpu.fastest_products.cache_clear()
    yield
    cpu.fastest_products.cache_clear()


def relative(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).norm() / two.norm())


def test_values_and_gradients_are_within_some_roundings():
    draw = torch.Generator().manual_seed(0)
    p = init_mlp((23, 64, 64, 6), draw)
    x = torch.randn(256, 23, generator=draw)
    by_precision = {}
    for precision in ("float32", "bf16"):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in p.items()}
        with product_precision(precision):
            out = mlp(leaves, x)
            by_precision[precision] = [out.detach(), *torch.autograd.grad(out.square().sum(), list(leaves.values()))]
    errors = [
        relative(rounded, exact) for rounded, exact in zip(by_precision["bf16"], by_precision["float32"], strict=True)
    ]
    assert min(errors) > 0, "it is another precision"
    assert max(errors) < 8 * UNIT, "some roundings on the way there and back, and units near 0 that change sides"


def test_a_run_stays_near_the_exact_one():
    exact, rounded = (build(LEARNER, ASPC(interval=1), precision=precision) for precision in ("float32", "bf16"))
    start = learned(exact)
    exact.run(50), rounded.run(50)
    for group in ("params/actor/weight1", "params/critic/weight1"):
        moved = learned(exact)[group] - start[group]
        assert 0 < relative(learned(rounded)[group] - start[group], moved) < 0.25, "of what 50 steps have moved"


def test_traced_is_eager_and_resuming_is_exact():
    eager, traced, first, second = (
        build(LEARNER, precision="bf16", traced=is_traced) for is_traced in (False, True, True, True)
    )
    eager.run(6), traced.run(6), first.run(3)
    second.load({name: tensor.clone() for name, tensor in first.state().items()}, 3)
    second.run(3)
    assert not different(learned(eager), learned(traced))
    assert not different(learned(traced), learned(second))


def test_precision_is_part_of_what_a_run_is(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "product_seconds", lambda x, weight: 1.0)
    agent, options = wrap(LEARNER), {"steps": 4, "progress": False, "out": tmp_path}
    agent.fit(made_data(), precision="bf16", stop_after=2, **options)
    loaded = load_agent(tmp_path)
    with pytest.raises(CheckpointError, match="precision bf16 there, float32 here"):
        loaded.fit(made_data(), **options)
    loaded.fit(made_data(), precision="bf16", **options)
    assert loaded.step == 4
    observation = made_data().observations[:5]
    agent.fit(made_data(), precision="bf16", **options)
    assert (loaded.act(observation) == agent.act(observation)).all()


def test_it_is_said_where_it_does_not_pay(monkeypatch):
    monkeypatch.setattr(cpu, "product_seconds", lambda x, weight: 3.0 if x.dtype == torch.bfloat16 else 1.0)
    with pytest.warns(PrecisionWarning, match="takes 3.0 times as long as one of float32"):
        warn_if_slower("bf16", CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_slower("float32", CPU)
        monkeypatch.setattr(cpu, "product_seconds", lambda x, weight: 1.0 if x.dtype == torch.bfloat16 else 3.0)
        warn_if_slower("bf16", CPU)


def test_compiling_without_a_compiler_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DependencyError, match=r"compiled=True needs a C\+\+ compiler .*: install it, or leave"):
        wrap(LEARNER).fit(made_data(), steps=2, compiled=True, device="cpu")
    with pytest.raises(TrainingError, match="leave traced at True"):
        wrap(LEARNER).fit(made_data(), steps=2, compiled=True, traced=False)


@pytest.fixture
def _onednn(monkeypatch):
    """A CPU on which oneDNN's products are twice as fast, whatever this one is."""

    def seconds(x, weight):
        return 1.0 if MKLDNN.matmul.fp32_precision == "bf16" else 2.0

    monkeypatch.setattr(cpu, "product_seconds", seconds)


@pytest.mark.usefixtures("_onednn")
def test_products_are_taken_by_onednn_only_where_exact_and_only_while_training(monkeypatch):
    assert cpu.fastest_products(CPU) == ("oneDNN" if cpu.onednn_is_exact() else "default")
    monkeypatch.setattr(cpu, "onednn_is_exact", lambda: False)
    cpu.fastest_products.cache_clear()
    assert cpu.fastest_products(CPU) == "default"
    before = MKLDNN.matmul.fp32_precision
    for exact, inside in ((True, "bf16"), (False, before)):
        monkeypatch.setattr(cpu, "onednn_is_exact", lambda exact=exact: exact)
        with cpu.tuned(CPU, "oneDNN"):
            assert MKLDNN.matmul.fp32_precision == inside
        assert MKLDNN.matmul.fp32_precision == before


def test_rounded_products_do_not_pass_for_exact(monkeypatch):
    monkeypatch.setattr(cpu, "factors", lambda: (torch.full((4, 4), 1 + 2.0**-9), torch.eye(4)))
    assert cpu.onednn_is_exact.__wrapped__()
    product = torch.Tensor.__matmul__

    def rounding(x, weight):
        return product(x.bfloat16(), weight.bfloat16()).float() if x.dtype == torch.float32 else product(x, weight)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert not cpu.onednn_is_exact.__wrapped__()


@pytest.mark.usefixtures("_onednn")
def test_a_run_keeps_to_the_products_it_began_with(tmp_path, monkeypatch):
    """Bit for bit, though the measurement comes out otherwise in the process that goes on."""
    options: dict[str, Any] = {"steps": 40, "progress": False, "device": "cpu"}
    whole = wrap(LEARNER)
    whole.fit(made_data(), **options)
    wrap(LEARNER).fit(made_data(), stop_after=20, out=tmp_path, **options)
    cpu.fastest_products.cache_clear()
    monkeypatch.setattr(cpu, "product_seconds", lambda x, weight: 1.0)
    assert cpu.fastest_products(CPU) == "default"
    resumed = load_agent(tmp_path)
    resumed.fit(made_data(), **options)
    assert resumed.run.products == whole.run.products
    assert not different(learned(whole.run.engine), learned(resumed.run.engine))
