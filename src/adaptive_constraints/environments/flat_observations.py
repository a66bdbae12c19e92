"""Observations with several parts as one vector: chosen parts in a stated order, in data and in environments alike.

Needs Gymnasium: import this only where an environment or a set of Minari is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.outside import PIXELS

Array = NDArray[Any]


class Part(NamedTuple):
    """A part of an observation that is an array."""

    path: tuple[str, ...]
    """Keys that lead to it."""
    space: Box

    @property
    def name(self) -> str:
        """Such as ``desired_goal/kettle``."""
        return "/".join(self.path)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return int(np.prod(self.space.shape))


def parts_of(space: gymnasium.Space[Any], keys: Sequence[str] = ()) -> list[Part]:
    """Arrays of a Dict space, in the order in which they become one vector.

    keys: parts by name in the order that is wanted, ``desired_goal/kettle`` being one within another; a part that has
        parts stands for all of them. None: all, in the order of the space, which Gymnasium sorts by name.

    Raises `DatasetError` for a key that there is not, or that comes twice, and for parts that are no vectors.
    """
    every = list(_arrays(space))
    names = [path for path, _ in every]
    chosen: list[Part] = []
    for key in keys or [""]:
        wanted = tuple(key.split("/")) if key else ()
        found = [(path, inner) for path, inner in every if path[: len(wanted)] == wanted]
        if not found:
            there = ", ".join("/".join(path) for path in names)
            raise DatasetError(f"observations have no part {key!r}; there: {there}")
        for path, inner in found:
            if not isinstance(inner, Box) or len(inner.shape) > 1:
                others = [
                    f"{'/'.join(other)}" for other, kind in every if isinstance(kind, Box) and len(kind.shape) < 2
                ]
                why = PIXELS if isinstance(inner, Box) else "only vectors can be learned from"
                raise DatasetError(
                    f"the part {'/'.join(path)!r} of the observations is {inner}, but {why}; "
                    f"choose parts by #obs={'+'.join(others) or '...'}"
                )
            chosen.append(Part(path, inner))
    doubled = {part.name for part in chosen if [other.path for other in chosen].count(part.path) > 1}
    if doubled:
        raise DatasetError(f"parts of the observations are named twice: {', '.join(sorted(doubled))}")
    return chosen


def _arrays(space: gymnasium.Space[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(space, Dict):
        for key, inner in space.spaces.items():
            yield from _arrays(inner, (*path, key))
    else:
        yield path, space


def joined(parts: Sequence[Part], observation: Mapping[str, Any], lead: tuple[int, ...] = ()) -> Array:
    """[*lead, D] of an observation whose arrays have the shapes of their spaces behind ``lead``."""
    vectors = []
    for part in parts:
        value: Any = observation
        for key in part.path:
            value = value[key]
        vectors.append(np.asarray(value).reshape(*lead, part.size))
    return np.concatenate(vectors, axis=-1)


def order_text(parts: Sequence[Part]) -> str:
    """What stands where in the vector: "achieved_goal 0:2, observation 2:29"."""
    ends = np.cumsum([part.size for part in parts]).tolist()
    return ", ".join(f"{part.name} {end - part.size}:{end}" for part, end in zip(parts, ends, strict=True))


class FlattenKeys(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment whose observations are chosen parts of a dictionary, joined to one vector in a stated order.

    keys: as `parts_of` takes them. The environment's specification names the wrapper, so that data that is recorded in
        it, or read with the same map, is evaluated in it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keys: Sequence[str] = ()) -> None:
        RecordConstructorArgs.__init__(self, keys=list(keys))
        gymnasium.ObservationWrapper.__init__(self, env)
        self.parts = parts_of(env.observation_space, keys)
        """Arrays that an observation consists of, in this order."""
        kind: Any = np.result_type(np.float32, *(part.space.dtype for part in self.parts if part.space.dtype))
        low, high = (
            np.concatenate([np.asarray(getattr(part.space, end), kind).reshape(-1) for part in self.parts])
            for end in ("low", "high")
        )
        self.observation_space = Box(low, high, dtype=kind)

    def observation(self, observation: Any) -> Array:
        return joined(self.parts, observation).astype(self.observation_space.dtype)


__all__ = ["FlattenKeys", "Part", "joined", "order_text", "parts_of"]
