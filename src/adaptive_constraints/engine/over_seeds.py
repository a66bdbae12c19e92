"""Functions of stacked tensors, whose leading axis is over seeds: mapping, gradients, layout, clipping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from adaptive_constraints.core.types import Params


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in its parameter's memory layout, copied only where it has another.

    Fused optimizers walk memory: from other strides (a weight kept as [outputs, inputs], an expanded or sliced
    gradient) they would step other coordinates.
    """
    both_contiguous = gradient.is_contiguous() and parameter.is_contiguous()  # whatever the strides of sizes of 1
    if both_contiguous or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def leaves(params: Params) -> Params:
    """The same tensors as the start of a graph."""
    return {name: tensor.detach().requires_grad_() for name, tensor in params.items()}


class Unreached(Exception):
    """No tensor of a group has a part in what is to be differentiated by it."""


def gradient(per_seed: Tensor, start: Params, *, retain_graph: bool = False, reached: bool = False) -> Params:
    """The gradient of each seed's own scalar, from [S] by the sum over seeds; 0 where nothing leads there.

    reached: something must lead to one of the tensors at least; else raise `Unreached`.
    """
    found: tuple[Tensor | None, ...] = (None,) * len(start)
    if per_seed.requires_grad:
        inputs = list(start.values())
        found = torch.autograd.grad(per_seed.sum(), inputs, retain_graph=retain_graph, allow_unused=True)
    if reached and all(tensor is None for tensor in found):
        raise Unreached
    pairs = zip(start.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if tensor is None else tensor for (name, leaf), tensor in pairs}


def clip_factor(gradients: Sequence[Tensor], largest: float | None) -> Tensor:
    """The factor [S] that brings each seed's gradient norm down to ``largest``; 1 where it is below."""
    seeds = gradients[0].shape[0]
    if largest is None:
        return gradients[0].new_ones(seeds)
    norm = torch.stack([tensor.reshape(seeds, -1).square().sum(1) for tensor in gradients]).sum(0).sqrt()
    return (largest / (norm + 1e-6)).clamp(max=1.0)


def scale(gradients: Params, factor: Tensor | None) -> Params:
    """Each seed's gradients times its factor [S]."""
    if factor is None:
        return gradients
    return {name: tensor * factor.view(-1, *[1] * (tensor.dim() - 1)) for name, tensor in gradients.items()}


def clip(gradients: Params, largest: float | None) -> Tensor | None:
    """Clip in place, per seed; the factor [S], or None where there is no bound."""
    if largest is None:
        return None
    factor = clip_factor(list(gradients.values()), largest)
    gradients.update(scale(gradients, factor))
    return factor


SHARED = frozenset({"clock", "data"})
"""Branches of a tree that are common to all seeds and have no axis over them."""


def over_seeds(seeds: int, function: Callable[..., Any], *trees: Any) -> Any:
    """``function`` of one seed's trees, for all seeds; at one seed it is called as it is."""
    if seeds == 1:
        return pytree.tree_map(lambda t: t[None], function(*(one_seed(tree, 0) for tree in trees)))
    return vmap(function, in_dims=tuple(_in_dims(tree) for tree in trees))(*trees)


def one_seed(tree: Any, seed: int) -> Any:
    """One seed's slice of a tree of stacked tensors; what is common to all stays whole."""
    if isinstance(tree, dict) and "clock" in tree:
        return {key: value if key in SHARED else one_seed(value, seed) for key, value in tree.items()}
    return pytree.tree_map(lambda t: t[seed], tree)


def _in_dims(tree: Any) -> Any:
    return {key: None if key in SHARED else 0 for key in tree} if isinstance(tree, dict) and "clock" in tree else 0
