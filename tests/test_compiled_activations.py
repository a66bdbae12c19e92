"""Activations of compiled steps are torch's own, to the last digits, and are really taken."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import gelu, mish

from adaptive_constraints.engine.compiled_step import recorded

CHEAP = {"mish": mish, "gelu": partial(gelu, approximate="tanh")}
X = [-300.0, -88.0, -30.0, -5.0, -1.2, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 0.7, 5.0, 19.9, 20.1, 50.0, 300.0, 1e6]


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", CHEAP)
def test_values_and_gradients_are_those_of_torch(name, dtype, digits):
    x = torch.cat([torch.tensor(X), torch.linspace(-12, 12, 997)]).to(dtype)
    values, slopes = torch.zeros_like(x), torch.zeros_like(x)

    def run():
        slope, value = torch.func.vjp(CHEAP[name], x)[1](torch.full_like(x, 3.0))[0], CHEAP[name](x)
        values.copy_(value)
        slopes.copy_(slope)

    graph, inputs = recorded(run)
    names = {node.target for node in graph.graph.nodes}
    assert not names & {torch.ops.aten.mish.default, torch.ops.aten.gelu.default, torch.ops.aten.tanh.default}
    assert not names & {torch.ops.aten.mish_backward.default, torch.ops.aten.gelu_backward.default}
    values.zero_(), slopes.zero_()
    graph(*inputs)
    exact = x.double().requires_grad_()
    expected = CHEAP[name](exact)
    (slope,) = torch.autograd.grad(expected, exact, torch.full_like(exact, 3.0))
    torch.testing.assert_close(values.double(), expected.detach(), rtol=digits, atol=digits)
    torch.testing.assert_close(slopes.double(), slope, rtol=digits, atol=3 * digits)


@pytest.mark.parametrize(("activation", "dtype"), [(gelu, torch.float32), (mish, torch.bfloat16)])
def test_others_are_left_as_they_are(activation, dtype):
    x, out = torch.randn(5).to(dtype), torch.zeros(5, dtype=dtype)
    graph, inputs = recorded(lambda: out.copy_(activation(x)))
    expected = activation(x)
    graph(*inputs)
    assert torch.equal(out, expected)
