"""The board of a bench run: a live table of scores on a terminal (extra ``cli``), else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from adaptive_constraints.experiments.cell import Cell
from adaptive_constraints.experiments.results import ResultsFolder
from adaptive_constraints.experiments.rows import ResultRow

_LINE_EVERY, _LOOK_EVERY = 60.0, 1.0
"""Seconds between two lines where there is no terminal, and between two looks at what runs."""
_AROUND_TABLE = 8
"""Lines of a terminal that the table does not get."""


class Board:
    """Cells done, running and left, the time left, and the latest scores; silent where ``shown`` is False."""

    def __init__(self, results: ResultsFolder, shown: bool) -> None:
        self._cells, self._results, self._shown = results.cells, results, shown
        self._status = {cell.id: results.status(cell) for cell in results.cells}
        self._running: dict[str, Cell] = {}
        self._recent: list[str] = []
        """Stacks in the order in which something happened to them."""
        self._began = self._last_line = time.monotonic()
        self._last_look = 0.0
        self._steps_before = self._steps_done()
        self._live: Any = live_table() if shown else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, cell: Cell) -> None:
        """A worker has this cell now."""
        self._running[cell.id] = cell
        self._recent.append(cell.stack)
        if (step := self._status[cell.id].step) > 0:
            self._say(f"{cell.id}: going on, it was at step {step} of {cell.steps}")

    def ended(self, cell: Cell) -> None:
        """The cell has its rows, or has failed."""
        self._running.pop(cell.id)
        self._recent.append(cell.stack)
        status = self._status[cell.id] = self._results.status(cell)
        said = f"FAILED: {status.reason}" if status.state == "failed" else f"{status.measure} {_spread(status.values)}"
        self._say(f"{cell.id}: {said}  ({self.summary()})")

    def update(self) -> None:
        """Look again, unless that was only just done."""
        now = time.monotonic()
        if now - self._last_look < _LOOK_EVERY:
            return
        self._last_look = now
        for name, cell in self._running.items():
            self._status[name] = self._results.status(cell)
        if self._live is not None:
            self._live.update(self._picture())
        elif self._shown and self._running and now - self._last_line > _LINE_EVERY:
            self._last_line = now
            at = ", ".join(f"{name} at {self._share(cell)}" for name, cell in self._running.items())
            print(f"{self.summary()}; {at}", flush=True)

    def summary(self) -> str:
        """Such as ``7 of 24 cells done, 2 running, 15 left, about 12 min left``."""
        states = [status.state for status in self._status.values()]
        done, failed = states.count("finished"), states.count("failed")
        running = sum(self._status[name].state == "begun" for name in self._running)  # Ray lets the others wait
        left = len(states) - done - failed - running
        numbers = [f"{done} of {len(states)} cells done", f"{running} running", f"{left} left"]
        numbers += [f"{failed} failed"] if failed else []
        return ", ".join([*numbers, *([f"about {words} left"] if (words := self._time_left()) else [])])

    def _time_left(self) -> str:
        """At the rate of steps so far."""
        done = self._steps_done()
        rate = (done - self._steps_before) / (time.monotonic() - self._began)
        total = sum(cell.steps for cell in self._cells if self._status[cell.id].state != "failed")
        if rate <= 0 or total == done:
            return ""
        seconds = (total - done) / rate
        return (
            f"{seconds:.0f} s"
            if seconds < 100
            else f"{seconds / 60:.0f} min"
            if seconds < 6000
            else f"{seconds / 3600:.1f} h"
        )

    def _steps_done(self) -> int:
        return sum(status.step for status in self._status.values() if status.state != "failed")

    def _share(self, cell: Cell) -> str:
        return f"{100 * self._status[cell.id].step // cell.steps} %"

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        elif self._shown:
            print(text, flush=True)

    def _picture(self) -> Any:
        """The summary above a table of stacks x data sets, what happened last first, as much as fits."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        room = max(3, self._live.console.height - _AROUND_TABLE)
        stacks = list(dict.fromkeys([*reversed(self._recent), *(cell.stack for cell in self._cells)]))
        data = list(dict.fromkeys(cell.data for cell in self._cells))
        table = Table("", *map(escape, data), box=box.SIMPLE_HEAD, pad_edge=False)
        at = {(cell.stack, cell.data): cell for cell in self._cells}
        for stack in stacks[:room]:
            table.add_row(Text(stack), *(self._entry(at.get((stack, name))) for name in data))
        return Group(Text(self.summary(), style="bold"), table)

    def _entry(self, cell: Cell | None) -> Any:
        from rich.text import Text

        if cell is None:
            return Text("")
        status = self._status[cell.id]
        if cell.id in self._running and status.state == "begun":
            return Text(f"{_spread(status.values)} at {self._share(cell)}", style="yellow")
        if status.state == "failed":
            return Text("failed", style="red")
        return Text(_spread(status.values)) if status.state == "finished" else Text(".", style="dim")


def score_table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of a table of stacks x data sets: the last score of the seeds that are not lost."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        kept = values.setdefault((row["stack"], row["data"]["reference"]), [])
        kept += [] if row["last"] is None else [row["last"]]
    stacks, data = (list(dict.fromkeys(pair[i] for pair in values)) for i in (0, 1))
    lines = [[s, *(_spread(values[s, d]) if (s, d) in values else "" for d in data)] for s in sorted(stacks)]
    return ["stack", *data], lines


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds."""
    if not values:
        return "-"
    return f"{np.mean(values):.1f}" + (f" +- {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def live_table() -> Any:
    """A display that is redrawn, on a terminal with rich; else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return None
    return Live(console=Console(stderr=True), refresh_per_second=2)
