"""The work of one training step as the engine runs it: stages, and functions of one seed's view.

The view is what `Program.view` makes; functions that take it are typed `Any`, since programs differ in its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from adaptive_constraints.core.types import MetaLoss, MetaStep, Params, Stage, Terms
from adaptive_constraints.core.view import DrawNoise, Inputs, StateView


class OuterStep(NamedTuple):
    """The outer step that learns the trade-off, and who takes it."""

    owner: str
    """The adapter's name, under which its buffers and logged scalars stand."""
    step: MetaStep
    terms: Callable[[Params, Any], Terms]
    """The learner's terms at parameters of the constrained group."""
    loss: Callable[[Any, Tensor, Terms, Terms], MetaLoss]
    """(view, trade-off [], terms before and after the constrained step) -> the outer loss."""


class Advance(NamedTuple):
    """The update of one adapter's buffers."""

    every: int
    """Steps between two calls."""
    advance: Callable[[Any], Mapping[str, Tensor]]
    """New values of the buffers at the end of a step."""


@dataclass(frozen=True)
class Program:
    """The work of a step, for one seed; the engine maps it over all of them."""

    stages: tuple[Stage, ...]
    batch_size: int
    view: Callable[[Inputs, DrawNoise], StateView]
    """Makes the view of one seed's state, which every function of the program receives."""
    reads_data: bool = False
    """Its views show all rows of the data, and the numbers of those in the minibatch."""
    constrained: str | None = None
    """The group whose update weighs the trade-off and returns its terms beside its loss; None: no update does."""
    outer: OuterStep | None = None
    """The step that learns the trade-off; None: none does."""
    tradeoff: Callable[[Any], Tensor] | None = None
    """The trade-off [] that the constrained update receives."""
    advancing: Mapping[str, Advance] = field(default_factory=dict)
    """Updates of buffers at the end of steps, by adapter name."""
    diagnostics: Mapping[str, Callable[[Any], Mapping[str, Tensor]]] = field(default_factory=dict)
    """Scalars to log, by adapter name."""
    policies: Mapping[str, Callable[[Any, Tensor], Tensor]] = field(default_factory=dict)
    """Actions [N, A] at observations [N, D], by way of acting ("act", "explore")."""


__all__ = ["Advance", "OuterStep", "Program"]
