"""Progress of a run: a bar on a terminal (with the extra ``cli``), else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

_LINE_EVERY = 15.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Steps done, steps per second, time left, and the latest scores; silent where ``shown`` is False."""

    def __init__(self, title: str, total: int, done: int, shown: bool) -> None:
        self._title, self._total, self._first, self._shown = title, total, done, shown
        self._started = self._last_line = time.monotonic()
        self._step: int | None = None
        self._note = ""
        self._bar: Any = None
        self._task: Any = None
        if shown:
            self._bar, self._task = _bar(title, total, done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown and self._step is not None:
            self._line(self._step)

    def update(self, step: int) -> None:
        """The run has reached this step."""
        self._step = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self._rate(step):.0f} steps/s", note=self._note)
        elif self._shown and time.monotonic() - self._last_line > _LINE_EVERY:
            self._line(step)

    def _rate(self, step: int) -> float:
        return (step - self._first) / max(time.monotonic() - self._started, 1e-9)

    def _line(self, step: int) -> None:
        self._last_line = time.monotonic()
        rate = self._rate(step)
        left = "" if step == self._total else f", {(self._total - step) / max(rate, 1e-9):.0f} s left"
        print(f"{self._title}: step {step}/{self._total}, {rate:.0f} steps/s{left}{self._note}", flush=True)

    def note(self, text: str) -> None:
        """Show this beside the bar from now on."""
        self._note = f"  {text}" if text else ""
        if self._bar is not None:
            self._bar.update(self._task, note=self._note)

    def say(self, text: str) -> None:
        """A line of its own on standard error, for what must not be missed."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)


def _bar(title: str, total: int, done: int) -> tuple[Any, Any]:
    if not sys.stderr.isatty():
        return None, None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None, None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = Bar(*columns, console=Console(stderr=True))
    return bar, bar.add_task(title, total=total, completed=done, rate="", note="")
