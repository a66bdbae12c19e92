"""Multilayer perceptrons as pure functions of a flat dict of tensors, with any leading ensemble dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Params = dict[str, Tensor]
Activation = Callable[[Tensor], Tensor]
Initializer = Callable[[tuple[int, ...], torch.Generator], tuple[Tensor, Tensor]]
Norm = Literal["none", "before", "after"]
Precision = Literal["float32", "bf16"]
"""Precision of matrix products. bf16: factors are rounded to bfloat16 (8 bits of mantissa), sums are float32 inside a
product and rounded once; parameters, optimizer and everything else stay as they are."""

_precision: ContextVar[Precision] = ContextVar("precision", default="float32")


@contextmanager
def product_precision(precision: Precision) -> Iterator[None]:
    """Inside, matrix products of all networks, forward and backward, are taken in this precision."""
    before = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(before)


def torch_default(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """torch.nn.Linear's initial weight [..., I, O] and bias [..., O]: uniform in +-1/sqrt(I)."""
    return uniform(shape[-2] ** -0.5)(shape, generator)


def uniform(bound: float, bias: float | None = None) -> Initializer:
    """Weights uniform in +-``bound``; biases likewise, or all equal to ``bias``."""

    def initialize(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weight = torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)
        size = (*shape[:-2], shape[-1])
        if bias is not None:
            return weight, torch.full(size, bias)
        return weight, torch.rand(size, generator=generator).mul_(2 * bound).sub_(bound)

    return initialize


def xavier(gain: float = 1.0) -> Initializer:
    """Weights uniform in +-gain * sqrt(6 / (I + O)), after Xavier Glorot; biases 0."""

    def initialize(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return uniform(gain * (6 / (shape[-2] + shape[-1])) ** 0.5, bias=0.0)(shape, generator)

    return initialize


def orthogonal(gain: float = 1.0) -> Initializer:
    """Weights ``gain`` times a random matrix of orthonormal rows or columns; biases 0."""

    def initialize(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weight = torch.empty(shape)
        for member in weight.view(-1, *shape[-2:]):
            torch.nn.init.orthogonal_(member, gain, generator=generator)
        return weight, torch.zeros(*shape[:-2], shape[-1])

    return initialize


def small_output(sizes: Sequence[int], bound: float) -> list[Initializer]:
    """For each layer of these sizes: hidden ones at torch's scale with biases 0.1, the last uniform in +-``bound``."""
    return [*(uniform(inputs**-0.5, bias=0.1) for inputs in sizes[:-2]), uniform(bound)]


def init_mlp(
    sizes: Sequence[int],
    generator: torch.Generator,
    *,
    ensemble: tuple[int, ...] = (),
    initializers: Sequence[Initializer] | Initializer = torch_default,
    norm: Norm = "none",
) -> Params:
    """Parameters of a perceptron of these layer sizes, ``weight0`` [*ensemble, sizes[0], sizes[1]] and so on.

    ``norm`` gives each hidden layer a LayerNorm with learned gain and shift.
    """
    layers = len(sizes) - 1
    per_layer = [initializers] * layers if callable(initializers) else list(initializers)
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight, bias = per_layer[layer]((*ensemble, inputs, outputs), generator)
        params[f"weight{layer}"], params[f"bias{layer}"] = weight, bias
        if norm != "none" and layer < layers - 1:
            params[f"gain{layer}"] = torch.ones(*ensemble, outputs)
            params[f"shift{layer}"] = torch.zeros(*ensemble, outputs)
    return params


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., B, I] times weight [..., I, O] plus bias [..., O]; leading dimensions broadcast."""
    return product(x, weight) + bias.unsqueeze(-2)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., B, I] times weight [..., I, O], in the precision that is asked for; leading dimensions broadcast.

    Every product of every network goes through here. A single output is a weighted sum over the inputs: matrix
    kernels are several times slower at a width of one.
    """
    if weight.shape[-1] == 1:
        return (x * weight.mT).sum(-1, keepdim=True)
    if _precision.get() == "float32":
        return x @ weight
    return (x.to(torch.bfloat16) @ weight.to(torch.bfloat16)).to(x.dtype)


def mlp(
    p: Params,
    x: Tensor,
    activation: Activation = torch.relu,
    norm: Norm = "none",
    masks: Sequence[Tensor] = (),
    epsilon: float = 1e-5,
) -> Tensor:
    """The perceptron's output [..., B, O] at x [..., B, I]; ``norm`` says on which side of the activation it acts.

    ``masks``, if any, multiply the outputs of the hidden layers, one [..., B, H] per layer (see `dropout_mask`).
    ``epsilon`` is what LayerNorm adds to variances.
    """
    last = sum(name.startswith("weight") for name in p) - 1
    for layer in range(last):
        x = linear(x, p[f"weight{layer}"], p[f"bias{layer}"])
        if norm == "before":
            x = _layer_norm(p, layer, x, epsilon)
        x = activation(x)
        if norm == "after":
            x = _layer_norm(p, layer, x, epsilon)
        if masks:
            x = x * masks[layer]
    return linear(x, p[f"weight{last}"], p[f"bias{last}"])


def dropout_mask(draw: Tensor, rate: float) -> Tensor:
    """Dropout's factor per unit from uniform draws in [0, 1): 0 with probability ``rate``, otherwise 1 / (1 - rate)."""
    return (draw >= rate).to(draw.dtype) / (1 - rate)


def _layer_norm(p: Params, layer: int, x: Tensor, epsilon: float) -> Tensor:
    normed = functional.layer_norm(x, x.shape[-1:], eps=epsilon)
    return torch.addcmul(p[f"shift{layer}"].unsqueeze(-2), normed, p[f"gain{layer}"].unsqueeze(-2))
