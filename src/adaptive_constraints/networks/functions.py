"""What torch's functions do inside a Module of a network: noise comes from the view, nothing is written in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from adaptive_constraints.errors import StackError
from adaptive_constraints.networks.mlp import dropout_mask, product


class Drawing(Protocol):
    """Where noise comes from: a view."""

    def normal(self, site: str, shape: Sequence[int]) -> Tensor:
        """Standard normal draws of a shape."""

    def uniform(self, site: str, shape: Sequence[int]) -> Tensor:
        """Uniform draws in [0, 1) of a shape."""


class Noise:
    """Draws of one call of a network: each has a site of its own, numbered in the order of the call."""

    def __init__(self, view: Drawing | None, network: str, site: str, members: int | None) -> None:
        """``members``: of an ensemble, each of which draws for itself; None: there is one network."""
        self._view, self._network, self._site, self._members, self._count = view, network, site, members, 0
        self.member: Tensor | None = None
        """The number [] of the member that is being computed."""

    def draw(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Draws of one member, normal or uniform."""
        if self._view is None:
            raise StackError(
                f"the network {self._network!r} draws noise: call nets.{self._network}.train(v, site)(...) where "
                f"dropout is to act, or nets.{self._network}.eval(v, site)(...), which draw from the view"
            )
        site, self._count = f"{self._site}/{self._count}", self._count + 1
        draw: Callable[..., Tensor] = getattr(self._view, kind)
        if self.member is None or self._members is None:
            return draw(site, tuple(shape))
        every = draw(site, (self._members, *shape))
        return every.index_select(0, self.member.view(1)).squeeze(0)


class ModuleFunctions(TorchFunctionMode):
    """Inside, products are the package's, noise is the view's, and what would be written in place is kept beside.

    Products follow the run's precision. A tensor that a function writes to is replaced by the result wherever it is
    used later on, so that neither the state nor a trace of it sees a write.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise
        self._written: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given: tuple[Any, dict[str, Any]] = (args, dict(kwargs or {}))
        args, keywords = self.current(given) if self._written else given
        ours = _OURS.get(func)
        if ours is not None:
            return ours(self, *args, **keywords)
        if isinstance(out := keywords.get("out"), Tensor):
            return self.write(given[1]["out"], func(*args, **{**keywords, "out": None}).to(out.dtype))
        return func(*args, **keywords)

    def write(self, place: Tensor, value: Tensor) -> Tensor:
        """Let ``value`` stand for ``place`` from now on."""
        self._written[id(place)] = place, value  # the tensor too, so that no other gets its id
        return value

    def current(self, tree: Any) -> Any:
        """A tree with what stands for its tensors now."""
        return pytree.tree_map_only(Tensor, lambda t: self._written.get(id(t), (t, t))[1], tree)


# -- products and norms -----------------------------------------------------------------------------------------------


def _linear(mode: ModuleFunctions, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dim() != 2 or input.dim() == 0:
        return functional.linear(input, weight, bias)
    rows = product(input if input.dim() > 1 else input[None], weight.mT)
    rows = rows if input.dim() > 1 else rows[0]
    return rows if bias is None else rows + bias


def _batch_norm(
    mode: ModuleFunctions,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    channels = (1, -1, *[1] * (input.dim() - 2))
    if training or running_mean is None or running_var is None:
        rows = [dim for dim in range(input.dim()) if dim != 1]
        variance, mean = torch.var_mean(input, rows, correction=0)
        if running_mean is not None and running_var is not None:
            count = input.numel() // input.shape[1]
            unbiased = variance.detach() * (count / max(1, count - 1))
            mode.write(running_mean, running_mean + momentum * (mean.detach() - running_mean))
            mode.write(running_var, running_var + momentum * (unbiased - running_var))
    else:
        mean, variance = running_mean, running_var
    normed = (input - mean.view(channels)) * (variance.view(channels) + eps).rsqrt()
    if weight is not None:
        normed = normed * weight.view(channels)
    return normed if bias is None else normed + bias.view(channels)


# -- noise ------------------------------------------------------------------------------------------------------------


def _dropout(
    mode: ModuleFunctions, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    kept = input * (dropout_mask(mode.noise.draw("uniform", input.shape), p) if p < 1 else 0.0)
    return mode.write(input, kept) if inplace else kept


def _shape(size: Sequence[Any]) -> tuple[int, ...]:
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else tuple(size)


def _of_shape(kind: str) -> Callable[..., Tensor]:
    def draw(mode: ModuleFunctions, *size: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        drawn = mode.noise.draw(kind, _shape(size or (options["size"],)))
        return drawn.to(dtype) if dtype is not None else drawn

    return draw


def _like(kind: str) -> Callable[..., Tensor]:
    def draw(mode: ModuleFunctions, input: Tensor, *, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        return mode.noise.draw(kind, input.shape).to(dtype or input.dtype)

    return draw


def _normal(mode: ModuleFunctions, mean: Any, std: Any = 1.0, size: Any = None, **_: Any) -> Tensor:
    scale = mean * 0 + std  # [...] of both
    drawn = mode.noise.draw("normal", scale.shape if isinstance(scale, Tensor) else size)
    return mean + std * drawn


def _bernoulli(mode: ModuleFunctions, input: Tensor, **_: Any) -> Tensor:
    return (mode.noise.draw("uniform", input.shape) < input).to(input.dtype)


def _clamp_(mode: ModuleFunctions, self: Tensor, *bounds: Any, **named: Any) -> Tensor:
    return _into(mode, self, self.clamp(*bounds, **named))


def _normal_(mode: ModuleFunctions, self: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return _into(mode, self, mean + std * mode.noise.draw("normal", self.shape).to(self.dtype))


def _uniform_(mode: ModuleFunctions, self: Tensor, low: float = 0.0, high: float = 1.0, **options: Any) -> Tensor:
    low, high = options.get("from", low), options.get("to", high)
    return _into(mode, self, low + (high - low) * mode.noise.draw("uniform", self.shape).to(self.dtype))


def _into(mode: ModuleFunctions, place: Tensor, value: Tensor) -> Tensor:
    """Write to a tensor; to a part of another one, in place, since that one has to see it."""
    return place.copy_(value) if place._is_view() else mode.write(place, value)


_OURS: dict[Any, Callable[..., Any]] = {
    functional.linear: _linear,
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
    torch.randn: _of_shape("normal"),
    torch.rand: _of_shape("uniform"),
    torch.randn_like: _like("normal"),
    torch.rand_like: _like("uniform"),
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    Tensor.clamp_: _clamp_,  # which vmap would take member by member
    Tensor.normal_: _normal_,
    Tensor.uniform_: _uniform_,
}

__all__ = ["Drawing", "ModuleFunctions", "Noise"]
