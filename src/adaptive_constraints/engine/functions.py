"""Pure functions of the state that run again and again: their noise is found once, and they are traced once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from adaptive_constraints.core.types import Draw
from adaptive_constraints.engine.tracing import trace

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")
WithNoise: TypeAlias = Callable[[Mapping[Draw, None]], Arguments]
"""Makes the arguments of a pure function, with these draws of noise."""


class MissingDraw(Exception):
    """A function asked for noise that it had not asked for before: it is run again with it."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.draw = draw


def with_draws(
    draws: dict[Draw, None], function: Callable[[Arguments], Result], inputs: WithNoise[Arguments]
) -> Result:
    """Run a pure function until every draw that it asks for is there; ``draws`` remembers them."""
    while True:
        try:
            return function(inputs(draws))
        except MissingDraw as missing:
            draws[missing.draw] = None


class Repeated(Generic[Arguments, Result]):
    """A pure function that runs as it is written the first time, and from then on as the trace of it."""

    def __init__(self, function: Callable[[Arguments], Result], *, traced: bool, compiled: bool = False) -> None:
        """``traced=False``: always as it is written. ``compiled``: compile the trace, from the first run on."""
        self._function, self._trace, self._compiled = function, traced, compiled
        self.draws: dict[Draw, None] = {}
        """The noise that it was found to draw."""
        self._graph: Callable[[Any], Any] | None = None
        self.met = False
        """It has run."""

    @property
    def traced(self) -> bool:
        """Whether it runs as its trace from now on."""
        return self._graph is not None

    def __call__(self, inputs: WithNoise[Arguments]) -> Result:
        """Its result at the arguments that ``inputs`` makes."""
        if self._graph is None:
            if not (self._trace and self.met):
                self.met = True
                found = with_draws(self.draws, self._function, inputs)
                if not self._compiled:  # compiled operations round differently, so all runs are compiled ones
                    return found
            graph = trace(self._function, inputs(self.draws))
            self._graph = torch.compile(graph, fullgraph=True, dynamic=False) if self._compiled else graph
        with torch.no_grad():
            result: Result = self._graph(inputs(self.draws))
        return result
