"""What pure functions may not do, in our words: what, where, and what to do instead."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from adaptive_constraints.engine.places import (
    Place,
    came_through,
    places_of,
    said,
    stands_in,
    where_it_changes,
    where_it_stands,
)
from adaptive_constraints.errors import StackError


class NotPureError(StackError):
    """A function does more than compute with what it is given."""


class _Refusal(NamedTuple):
    """What torch says, and what is meant."""

    words: tuple[str, ...]
    """Any of these stands in torch's message."""
    text: str


BRANCHES = (
    "branches on a tensor's value, but its operations are recorded once and repeated, for all seeds together: use "
    "torch.where, clamp or a factor of 0 or 1"
)
VALIDATES = (
    "makes a distribution that looks at its values to check them: pass validate_args=False (inside a Module of "
    "from_modules nothing needs to be passed)"
)
NOISE = (
    "draws noise elsewhere than by v.normal and v.uniform, which could be neither seeded nor resumed: write mean + std "
    "* v.normal(site, shape); a Module of from_modules draws from the view where it is called by "
    "nets.NAME.train(v, site) or nets.NAME.eval(v, site)"
)
READS = (
    "takes numbers out of a tensor (item, float, int, tolist, numpy), which would stand still in all steps to come: "
    "compute with tensors, and record scalars by v.log"
)
SHAPES = (
    "makes a tensor whose shape depends on values (a boolean mask as an index, nonzero, unique, where with one "
    "argument): use torch.where, or weights of 0 and 1"
)
WRITES = (
    "writes to a tensor in place, which changes the state or belongs to one seed only: write x = x + y for x += y, "
    "torch.where or torch.cat for x[i] = y; buffers of a Module may be written to in nets.NAME.train(v, site)"
)
BACKWARD = (
    "takes a gradient of its own: return the loss, which is differentiated by the parameters p and stepped for it; a "
    "gradient within a loss is torch.func.grad's"
)
GRADIENT = "asks for a gradient (requires_grad_): p carries gradient already, and nothing in v does"
CHANGES = (
    "gives two answers for one state, so what it did in the first step would be repeated in all: draw noise by "
    "v.normal or v.uniform only (not by random, numpy, torch.randn or dropout), and read what changes from v, not from "
    "attributes"
)
OTHER = "does what cannot be done for several seeds together or recorded"

_REFUSALS = (
    _Refusal(("random operation",), NOISE),
    _Refusal(("data-dependent control flow", "value out of a tracing tensor"), BRANCHES),
    _Refusal((".item()", "_local_scalar_dense", "access data pointer", "Can't call numpy()"), READS),
    _Refusal(("dynamic shape",), SHAPES),
    _Refusal(("inplace", "in-place operation", "in-place on"), WRITES),
    _Refusal(("backward() called inside", "backward through the graph a second time"), BACKWARD),
    _Refusal(("requires_grad_()",), GRADIENT),
    _Refusal(("vmap", "functorch"), OTHER),
)
DISTRIBUTIONS = "/torch/distributions/"
_SOMEBODY = "a function of the learner or an adapter"


def refused(text: str, places: list[Place]) -> NotPureError:
    """The error that says so, of a line of code where one is known."""
    return NotPureError(f"{said(places) or _SOMEBODY} {text}")


@contextmanager
def said_plainly() -> Iterator[None]:
    """Say in our words what torch says of functions that cannot be mapped over seeds or traced."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        for refusal in _REFUSALS:
            if any(words in text for words in refusal.words):
                meant = refusal.text
                if meant in (BRANCHES, READS) and came_through(error, DISTRIBUTIONS):
                    meant = VALIDATES
                if meant is OTHER:
                    meant = f"{OTHER}: {text.splitlines()[0]}"
                raise refused(meant, places_of(error)) from error
        raise


# -- what leaves no error ---------------------------------------------------------------------------------------------


def generators() -> list[bytes]:
    """The states of the generators that are common to a process: a pure function leaves them as they are."""
    states = [random.getstate(), np.random.get_state(legacy=False)]
    return [pickle.dumps(state) for state in states] + [torch.get_rng_state().numpy().tobytes()]


def versions(tree: Any) -> list[int]:
    """How often each tensor of a tree was written to: a pure function leaves them as they are."""
    return [leaf._version for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def drew(run: Callable[[], object]) -> NotPureError:
    """The error for a function that moves a generator, with the line that does."""
    return refused(CHANGES if not (places := where_it_changes(run, generators)) else NOISE, places)


def wrote(run: Callable[[], object], inputs: Any) -> NotPureError:
    """The error for a function that writes to what it is given, with the line that does."""
    return refused(WRITES, where_it_changes(run, lambda: versions(inputs)))


class _Watch(TorchFunctionMode):
    """While a function is traced: refuse what would freeze numbers into the trace without an error of torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        text = _FREEZING.get(func)
        if (func in (Tensor.__getitem__, Tensor.__setitem__) and _is_mask(args[1])) or (
            func is torch.where and len(args) == 1
        ):
            text = SHAPES
        if text is not None and (places := where_it_stands()):
            raise refused(VALIDATES if stands_in(DISTRIBUTIONS) else text, places)
        return func(*args, **(kwargs or {}))


_FREEZING: dict[Any, str] = {
    **dict.fromkeys((Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.item), READS),
    **dict.fromkeys((Tensor.__float__, Tensor.__int__, Tensor.__index__), READS),
    Tensor.__bool__: BRANCHES,
    **dict.fromkeys((torch.nonzero, Tensor.nonzero, torch.unique, Tensor.unique, torch.masked_select), SHAPES),
    **dict.fromkeys((Tensor.masked_select, torch.argwhere), SHAPES),
}


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under watch, to be traced."""

    def call(*arguments: Any) -> Any:
        with _Watch():
            return function(*arguments)

    return call


def _is_mask(index: Any) -> bool:
    entries = index if isinstance(index, tuple) else (index,)
    return any(isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8) for entry in entries)


__all__ = ["CHANGES", "NotPureError", "drew", "generators", "refused", "said_plainly", "versions", "watched", "wrote"]
