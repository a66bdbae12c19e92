"""Gradients reach the optimizer in their parameter's layout, however a learner writes its products.

`vmap` returns the gradient of a weight [O, I] with the strides of [I, O], of a summed bias with strides of 0, and of
joined weights as views of one larger tensor. torch's fused Adam walks memory, so that it would step other coordinates.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.functional import linear, mse_loss

from adaptive_constraints import ASPC, SSAR, Average, Spec, Stage, Update
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.engine import optimizers
from adaptive_constraints.networks import torch_default
from adaptive_constraints.pretraining.model_fit import EngineFit
from adaptive_constraints.testing import check_learner, check_stack

from .emulation import EmulatedGraph
from .helpers import build, largest_difference, learned

DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12}
"""How far seeds together may be from seeds alone."""

PRODUCTS = {
    "linear": lambda x, w, b: linear(x, w, b),
    "transposed": lambda x, w, b: x @ w.T + b,
    "einsum": lambda x, w, b: torch.einsum("bi,oi->bo", x, w) + b,
    "outputs first": lambda x, w, b: (w @ x.T).T + b,
    "joined": lambda x, w, b: torch.cat([x, torch.ones_like(x[:, :1])], 1) @ torch.cat([w, b[:, None]], 1).T,
    "flipped": lambda x, w, b: x @ w.flip(1).T + b,
    "inputs first": lambda x, w, b: x @ w.T.contiguous() + b,
}
"""x [B, I], w [O, I], b [O] -> [B, O]."""


# -- a model that is only fitted ----------------------------------------------------------------------------------


def regression(product, seeds, sizes):
    """A perceptron after 60 steps of Adam on sines of projections, by minibatches of each seed's own."""
    inputs, outputs = sizes
    x = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0))
    target = torch.sin(x @ torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(1)))

    def init(generator):
        def layer(rows, columns):
            return torch.randn(columns, rows, generator=generator) * rows**-0.5

        return {
            "net": {
                "first": layer(inputs, 24),
                "bias": torch.zeros(24),
                "last": layer(24, outputs),
                "shift": torch.zeros(outputs),
            }
        }

    def loss(p, v):
        hidden = torch.tanh(product(v.batch["x"], p["first"], p["bias"]))
        error = mse_loss(product(hidden, p["last"], p["shift"]), v.batch["y"])
        return error + 1e-3 * (p["first"].sum() + p["bias"].sum())  # whose gradients have strides of 0

    stage = Stage("fit", (Update("net", loss, 1e-2),), averages=(Average("net", 0.1),))
    fit = EngineFit(
        "regression",
        init,
        (stage,),
        seeds=seeds,
        spec=Spec(inputs, outputs),
        table={"x": x, "y": target},
        seed_columns={},
        steps=60,
        batch_size=16,
        device=torch.device("cpu"),
    )
    fit.run(60)
    return fit


@pytest.mark.parametrize("sizes", [(3, 5), (1, 4)], ids=str)
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_regression_learns_beside_other_seeds_what_it_learns_alone(product, sizes):
    together = regression(PRODUCTS[product], (0, 3, 9), sizes)
    for position, seed in enumerate((0, 3, 9)):
        alone = regression(PRODUCTS[product], (seed,), sizes)
        for kind in ("params", "targets"):
            for name, tensor in getattr(alone, kind)["net"].items():
                assert torch.allclose(getattr(together, kind)["net"][name][position], tensor[0], atol=1e-4), name


# -- a learner ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutputsByInputs(TD3BC):
    """TD3+BC whose weights are kept as [O, I]."""

    product: str = "linear"

    def init(self, spec, generator):
        inputs = spec.observation_dim + spec.action_dim
        sizes = {
            "actor": (spec.observation_dim, self.hidden, spec.action_dim),
            "critic": (inputs, self.hidden, 1),
        }

        def layers(sizes, lead=()):
            pairs = list(itertools.pairwise(sizes))
            made = [torch_default((*lead, i, o), generator) for i, o in pairs]
            weights = {f"w{n}": weight.mT.contiguous() for n, (weight, _) in enumerate(made)}
            return weights | {f"b{n}": bias for n, (_, bias) in enumerate(made)}

        return {"actor": layers(sizes["actor"]), "critic": layers(sizes["critic"], (2,))}

    def network(self, p, x):
        product = PRODUCTS[self.product]
        return product(torch.relu(product(x, p["w0"], p["b0"])), p["w1"], p["b1"])

    def policy(self, p, observation):
        return torch.tanh(self.network(p, observation))

    def q(self, p, observation, action):
        inputs = torch.cat([observation, action], -1)
        members = [{name: tensor[i] for name, tensor in p.items()} for i in range(len(p["w0"]))]
        return torch.stack([self.network(member, inputs)[:, 0] for member in members])


def learner(product="linear"):
    return OutputsByInputs(hidden=8, batch_size=16, product=product)


def apart(*stack, steps=8, **options):
    """How far three seeds together are from each of them alone."""
    together = build(*stack, seeds=(0, 4, 7), **options)
    together.run(steps)
    worst = 0.0
    for position, seed in enumerate((0, 4, 7)):
        alone = build(*stack, seeds=(seed,), **options)
        alone.run(steps)
        worst = max(worst, largest_difference(learned(together, position), learned(alone, 0)))
    return worst


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("product", PRODUCTS)
def test_seeds_together_are_seeds_alone(product, dtype):
    assert apart(learner(product), dtype=dtype) < DTYPES[dtype]


PATHS: dict[str, Any] = {"traced": {"traced": True}, "captured": {"graphs": EmulatedGraph}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("product", ["linear", "einsum", "joined"])
def test_so_are_they_however_steps_are_executed(path, product):
    assert apart(learner(product), dtype=torch.float64, **PATHS[path]) < 1e-12


@pytest.mark.parametrize("backend", ["closed_form", "autograd"])
def test_so_are_they_through_the_meta_step(backend):
    aspc, ssar = ASPC(interval=1, meta_step=backend), SSAR(hidden=8, select="all", growth_every=2)
    assert apart(learner(), aspc, ssar, dtype=torch.float64) < 1e-9


def test_every_optimizer_gets_gradients_in_its_parameters_layout(monkeypatch):
    """On every path: what `Adam.step` finds, the meta step's group included."""
    seen = []
    step = torch.optim.Adam.step

    def watched(self, *args):
        for parameter in self.param_groups[0]["params"]:
            dense = parameter.is_contiguous() and parameter.grad.is_contiguous()
            same = dense or parameter.stride() == parameter.grad.stride()
            seen.append(same and parameter.grad.dtype == parameter.dtype)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    for options in ({}, *PATHS.values()):
        build(learner(), ASPC(interval=1), seeds=(0, 1), **options).run(6)
    assert len(seen) > 100 and all(seen)


# -- who would notice ---------------------------------------------------------------------------------------------


def test_such_a_learner_keeps_the_laws():
    check_learner(learner())


def test_check_stack_notices_an_optimizer_that_is_given_another_layout(monkeypatch):
    monkeypatch.setattr(optimizers, "laid_out", lambda gradient, parameter: gradient)
    with pytest.raises(AssertionError, match="beside another seed, a seed learns otherwise"):
        check_stack(learner())
