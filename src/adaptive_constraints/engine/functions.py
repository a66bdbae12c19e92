"""Pure functions of the state that run again and again: their noise is found once, and they are traced once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch.utils import _pytree as pytree

from adaptive_constraints.core.types import Draw
from adaptive_constraints.engine.places import places_of
from adaptive_constraints.engine.refusals import CHANGES, drew, generators, refused, said_plainly, versions, wrote
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
    draws: dict[Draw, None],
    function: Callable[[Arguments], Result],
    inputs: WithNoise[Arguments],
    *,
    first: bool = False,
) -> Result:
    """Run a pure function until every draw that it asks for is there; ``draws`` remembers them.

    first: run it twice, to see whether it is pure; `NotPureError` where it is not.
    """
    with said_plainly():
        while True:
            given = inputs(draws)
            before = (generators(), versions(given)) if first else None
            try:
                result = function(given)
            except MissingDraw as missing:
                draws[missing.draw] = None
                continue
            except RuntimeError as error:
                if before is not None and before[1] != versions(given) and not places_of(error):
                    raise wrote(lambda: function(given), given) from error  # noqa: B023
                raise
            if before is not None:
                _check_pure(function, given, before, result)
            return result


def _check_pure(
    function: Callable[[Arguments], Result], given: Arguments, before: tuple[list[bytes], list[int]], result: Result
) -> None:
    """Raise `NotPureError` where a function did more than to give a result, or gives another one when run again."""
    if before[1] != versions(given):
        raise wrote(lambda: function(given), given)
    if before[0] != generators():
        raise drew(lambda: function(given))
    if not _same(result, function(given)):
        raise refused(CHANGES, [])


def _same(one: Any, two: Any) -> bool:
    """Whether two trees hold the same numbers; on CUDA, where sums may be taken in any order, nearly the same."""
    (mine, shape), (theirs, other) = pytree.tree_flatten(one), pytree.tree_flatten(two)
    return shape == other and all(
        _equal(*pair) for pair in zip(mine, theirs, strict=True) if isinstance(pair[0], torch.Tensor)
    )


def _equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    if (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    size = one.detach().abs().nan_to_num(0.0, 0.0, 0.0).max().item() if one.is_cuda and one.numel() else 0.0
    return torch.allclose(one, two, rtol=0.0, atol=1e-3 * size, equal_nan=True)


class Repeated(Generic[Arguments, Result]):
    """A pure function that runs as it is written the first time, and from then on as the trace of it.

    The first time it runs twice, to see whether it is pure: a trace repeats the numbers that were drawn elsewhere.
    """

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
                answer = with_draws(self.draws, self._function, inputs, first=not self.met)
                self.met = True
                if not self._compiled:  # compiled operations round differently, so all runs are compiled ones
                    return answer
            with said_plainly():
                graph = trace(self._function, inputs(self.draws))
            with torch.no_grad():
                if not _same(graph(inputs(self.draws)), self._function(inputs(self.draws))):
                    raise refused(CHANGES, [])
            self._graph = torch.compile(graph, fullgraph=True, dynamic=False) if self._compiled else graph
        with torch.no_grad():
            result: Result = self._graph(inputs(self.draws))
        return result
