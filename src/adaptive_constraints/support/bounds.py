"""Bounds of numbers, stated in annotations: ``polyak: Annotated[float, Between(0, 1, "(]")]``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

Ends = Literal["[]", "[)", "(]", "()"]
"""Which ends of an interval belong to it, as mathematics writes it: a square bracket includes, a round one excludes."""


class Bound(ABC):
    """Base class of bounds; ``str()`` says which numbers are allowed, such as "> 0"."""

    @abstractmethod
    def allows(self, value: float) -> bool:
        """Tell whether a number lies within the bound; NaN never does."""


@dataclass(frozen=True)
class Above(Bound):
    """Numbers larger than ``low``."""

    low: float

    def allows(self, value: float) -> bool:
        return value > self.low

    def __str__(self) -> str:
        return f"> {self.low:g}"


@dataclass(frozen=True)
class AtLeast(Bound):
    """Numbers not smaller than ``low``."""

    low: float

    def allows(self, value: float) -> bool:
        return value >= self.low

    def __str__(self) -> str:
        return f">= {self.low:g}"


@dataclass(frozen=True)
class Between(Bound):
    """Numbers from ``low`` to ``high``; ``ends`` says which of the two are allowed themselves."""

    low: float
    high: float
    ends: Ends = "[]"

    def allows(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        return f"in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


__all__ = ["Above", "AtLeast", "Between", "Bound", "Ends"]
