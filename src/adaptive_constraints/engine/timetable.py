"""Which work is due at a step: stages, averages, the outer step, buffers that advance."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Stage

RARE = 100
"""Steps with something that runs less often than once in this many are not recorded: a graph holds memory, and they
hardly count."""
AHEAD = 4096
"""Steps that are looked at for the kinds of steps to come; longer periods are not looked up either."""


class Due(NamedTuple):
    """The work due at a step; key of the recorded steps."""

    stages: tuple[int, ...]
    """Places of the stages in the step."""
    averages: tuple[tuple[int, int], ...]
    """(place of the stage, number of the average)."""
    outer: bool
    """The trade-off steps."""
    advancing: tuple[str, ...]
    """Adapters whose buffers advance."""
    rare: bool
    """Something in it runs too seldom for the step to be recorded."""


class Timetable:
    """The intervals of a program, step by step."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._stages = list(enumerate(program.stages, start=1))
        self._known: dict[int, Due] = {}

    @cached_property
    def outer_period(self) -> int | None:
        """Training steps between two outer steps, if there are any."""
        if self._program.outer is None:
            return None
        constrained = next(stage for _, stage in self._stages if self.is_constrained(stage))
        return constrained.every * self._program.outer.step.interval

    def is_constrained(self, stage: Stage) -> bool:
        """Whether it updates the constrained group."""
        return any(update.group == self._program.constrained for update in stage.updates)

    def at(self, step: int) -> Due:
        """The work due at a step, counted from 1; what repeats itself is looked up."""
        period, begins = self._repetition
        if period > AHEAD or step < begins:
            return self._work(step)
        if (due := self._known.get(step % period)) is None:
            due = self._known[step % period] = self._work(step)
        return due

    def ahead(self, step: int, horizon: int) -> list[Due]:
        """The kinds of steps after this one that are recorded, in an order of their own."""
        last = min(step + AHEAD, horizon)
        return sorted({due for number in range(step + 1, last + 1) if not (due := self.at(number)).rare})

    @cached_property
    def _repetition(self) -> tuple[int, int]:
        """The period with which the work repeats itself, and the step from which on it does."""
        averages = [average for _, stage in self._stages for average in stage.averages]
        intervals = [stage.every for _, stage in self._stages] + [average.every for average in averages]
        intervals += [advancing.every for advancing in self._program.advancing.values()]
        return math.lcm(*intervals, self.outer_period or 1), max((average.start for average in averages), default=0)

    def _work(self, step: int) -> Due:
        stages = [(number, stage) for number, stage in self._stages if step % stage.every == 0]
        averages = [
            (number, place, average)
            for number, stage in stages
            for place, average in enumerate(stage.averages)
            if step % average.every == 0 and step >= average.start
        ]
        advancing = {name: a.every for name, a in self._program.advancing.items() if step % a.every == 0}
        outer = self.outer_period is not None and step % self.outer_period == 0
        intervals = [*(stage.every for _, stage in stages), *(a.every for *_, a in averages), *advancing.values()]
        return Due(
            stages=tuple(number for number, _ in stages),
            averages=tuple((number, place) for number, place, _ in averages),
            outer=outer,
            advancing=tuple(advancing),
            rare=max([*intervals, self.outer_period if outer and self.outer_period else 1]) > RARE,
        )


__all__ = ["AHEAD", "RARE", "Due", "Timetable"]
