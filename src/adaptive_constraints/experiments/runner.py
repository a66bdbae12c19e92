"""Run the cells of a suite: which are due, on which workers, and what is said meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from adaptive_constraints.errors import TrainingError
from adaptive_constraints.experiments.board import Board
from adaptive_constraints.experiments.cell import FAILED_EXIT, FINISHED_EXIT, LOG, Cell
from adaptive_constraints.experiments.results import ResultsFolder
from adaptive_constraints.experiments.rows import FAILED, ResultRow, write_failure
from adaptive_constraints.experiments.suite import Suite
from adaptive_constraints.support.files import locked

RETRIES = 2
"""How often a cell whose worker was lost is begun again, from its checkpoint."""
GRACE = 30.0
"""Seconds in which a worker that is to end may save what it has."""
_POLL = 0.05


@dataclass(frozen=True)
class Outcome:
    """The result of a bench run."""

    folder: Path
    rows: list[ResultRow]
    """The rows of every finished cell of the folder."""
    failed: dict[str, str]
    """The reason by cell."""


class Workers(Protocol):
    """Whoever runs cells: local processes, or Ray."""

    @property
    def room(self) -> bool:
        """Tell whether one more may be started now."""

    @property
    def busy(self) -> bool:
        """Tell whether anything runs."""

    def start(self, cell: Cell, folder: Path) -> None:
        """Begin a cell, or go on with it."""

    def ended(self, seconds: float) -> Sequence[tuple[Cell, str]]:
        """Cells that ended meanwhile, each with how its worker was lost ("" if it was not); waits at most so long."""

    def close(self) -> None:
        """End everything that runs; it can go on later."""


def bench(
    suite: Suite,
    cells: Sequence[Cell],
    folder: str | Path,
    workers: Workers,
    *,
    command: str = "",
    progress: bool = True,
) -> Outcome:
    """Run those cells of a suite that are not finished yet, and go on with those that are half so.

    A cell that fails is recorded with its reason and stops no other; it is tried again the next time. Interrupted
    (Ctrl-C, SIGTERM, or killed at any point), the same call goes on. Raises `FileError` where another bench is at work
    in the folder.
    """
    folder = Path(folder)
    with locked(folder), closing(workers):
        results = ResultsFolder(folder, suite, cells, command)
        try:
            _run(results, workers, Board(results, progress))
        finally:  # what a cell finished just before an interruption counts too
            results.collect()
        statuses = {cell.id: results.status(cell) for cell in results.cells}
        failed = {name: status.reason for name, status in statuses.items() if status.state == "failed"}
        return Outcome(folder, results.collect(), failed)


def _run(results: ResultsFolder, workers: Workers, board: Board) -> None:
    waiting = deque(cell for cell in results.cells if results.status(cell).state != "finished")
    for cell in waiting:
        (results.of(cell) / FAILED).unlink(missing_ok=True)
    with board:
        while waiting or workers.busy:
            while waiting and workers.room:
                cell = waiting.popleft()
                workers.start(cell, results.of(cell))
                board.started(cell)
            for cell, lost in workers.ended(0.5):
                if lost:
                    write_failure(results.of(cell), cell.id, lost, cell.command())
                results.collect()
                board.ended(cell)
            board.update()


@dataclass
class LocalWorkers:
    """Processes on this machine, one per cell; they end when this process does, however it ends."""

    count: int = 1
    """At work at one time."""
    threads: int = 1
    """CPU threads of each."""
    device: str | None = None
    """Such as "cpu" or "cuda"; None takes CUDA where there is one."""
    _running: list[_Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, number in (("workers", self.count), ("threads", self.threads)):
            if number < 1:
                raise TrainingError(f"{name} must be at least 1, not {number}")

    @property
    def room(self) -> bool:
        """Tell whether one more may be started now."""
        return len(self._running) < self.count

    @property
    def busy(self) -> bool:
        """Tell whether anything runs."""
        return bool(self._running)

    def start(self, cell: Cell, folder: Path) -> None:
        """Begin a cell, or go on with it."""
        self._running.append(_Worker(cell, folder, self.start_process(folder)))

    def ended(self, seconds: float) -> list[tuple[Cell, str]]:
        """Cells that ended; a lost one is begun again before it counts as such."""
        until = time.monotonic() + seconds
        ended: list[tuple[Cell, str]] = []
        while not ended and self._running and time.monotonic() < until:
            time.sleep(_POLL)
            ended = [
                (worker.cell, lost) for worker in list(self._running) if (lost := self._end_of(worker)) is not None
            ]
        return ended

    def close(self) -> None:
        """End everything that runs: each saves a checkpoint first, for which it has `GRACE` seconds."""
        try:
            for worker in self._running:
                worker.process.terminate()
            until = time.monotonic() + GRACE
            for worker in self._running:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, until - time.monotonic()))
        finally:  # a second Ctrl-C does not wait
            for worker in self._running:
                worker.process.kill()
                worker.process.communicate()
            self._running.clear()

    def _end_of(self, worker: _Worker) -> str | None:
        """None while it runs; then "" or how it was lost."""
        code = worker.process.poll()
        if code is None:
            return None
        worker.process.communicate()
        if code not in (FINISHED_EXIT, FAILED_EXIT) and worker.retries < RETRIES:
            worker.retries += 1
            worker.process = self.start_process(worker.folder)
            return None
        self._running.remove(worker)
        if code in (FINISHED_EXIT, FAILED_EXIT):
            return ""
        how = f"by signal {-code} (9: killed, perhaps for lack of memory)" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}, {RETRIES + 1} times; {worker.folder / LOG} holds what it said"

    def start_process(self, folder: Path) -> subprocess.Popen[bytes]:
        """A process that runs the cell. Its standard input closes with us; a terminal's Ctrl-C is for us alone."""
        command = [sys.executable, "-m", "adaptive_constraints.experiments.cell"]
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with (folder / LOG).open("ab") as log:
            return subprocess.Popen(
                [*command, str(folder), self.device or "", str(self.threads)],
                env={**os.environ, **threads, "PYTHONPATH": import_path()},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def import_path() -> str:
    """PYTHONPATH for a process on this machine that is to import what this one can."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


@dataclass
class _Worker:
    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    retries: int = 0


__all__ = ["RETRIES", "LocalWorkers", "Outcome", "Workers", "bench", "import_path"]
