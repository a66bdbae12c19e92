"""Saved tensors, compared with those that they are to be copied into: `copy_` would broadcast and cast in silence."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_like(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless every wanted tensor is there, with its shape and dtype."""
    for name, tensor in wanted.items():
        if name not in given:
            raise ValueError(f"the array {name!r} is missing")
        check_array(name, given[name], tensor)


def check_array(name: str, given: Tensor, wanted: Tensor) -> None:
    """Raise `ValueError` unless an array has the shape and dtype that is wanted."""
    if given.shape != wanted.shape:
        raise ValueError(f"the array {name!r} has the shape {list(given.shape)}, not {list(wanted.shape)}")
    if given.dtype != wanted.dtype:
        raise ValueError(f"the array {name!r} holds {_short(given)}, not {_short(wanted)}")


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


__all__ = ["check_array", "check_like"]
