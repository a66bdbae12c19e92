"""A results folder: what it was planned to hold, how far each cell is, and the rows of those that are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from adaptive_constraints.errors import SuiteError
from adaptive_constraints.experiments.cell import SESSION, Cell
from adaptive_constraints.experiments.rows import (
    CELLS,
    ROWS,
    SUITE,
    Claim,
    PlannedCell,
    Published,
    ResultRow,
    read_failure,
    read_rows,
    read_suite,
    write_rows,
    write_suite,
)
from adaptive_constraints.experiments.suite import Suite
from adaptive_constraints.support.records import commit, metrics_backwards, plain, versions


class Status(NamedTuple):
    """How far a cell is."""

    state: Literal["waiting", "begun", "finished", "failed"]
    step: int = 0
    measure: str = ""
    values: tuple[float, ...] = ()
    """Latest score or return of each seed that is not lost."""
    reason: str = ""
    """The reason of a failure."""


class ResultsFolder:
    """The folder of one suite. Make one inside ``with locked(folder)`` of `_files`."""

    def __init__(self, folder: Path, suite: Suite, cells: Sequence[Cell], command: str) -> None:
        """Plan these cells of a suite, beside those that the folder has already.

        Raises `SuiteError` if the folder holds one of them with other settings.
        """
        self.folder, self.cells = folder, tuple(cells)
        differing = [text for cell in cells if (text := self._difference(cell))]
        if differing:
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise SuiteError(f"{folder} holds other cells: {differing[0]}{more}. Use another --out, or remove it")
        for cell in cells:
            cell.write(self.of(cell))
        before = read_suite(folder) if (folder / SUITE).is_file() else None
        planned = {entry["cell"]: entry for entry in before["cells"]} if before else {}
        planned |= {cell.id: _planned(cell) for cell in cells}
        figures = (
            [*suite.published, *(figure for figure in before["published"] if figure not in suite.published)]
            if before
            else suite.published
        )
        write_suite(
            folder,
            {
                "suite": suite.name,
                "about": suite.about,
                "command": command,
                "commit": commit(),
                "versions": versions(),
                "published": _relevant(figures, planned.values()),
                "claims": _complete(suite.claims, planned.values()),
                "cells": list(planned.values()),
            },
        )
        self._planned = list(planned)
        self.collect()

    def of(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.folder / CELLS / cell.id

    def collect(self) -> list[ResultRow]:
        """Write the rows of all finished cells anew, and return them."""
        finished = [self.folder / CELLS / cell_id for cell_id in self._planned]
        rows = [row for folder in finished if (folder / ROWS).is_file() for row in read_rows(folder)]
        write_rows(self.folder, rows)
        return rows

    def status(self, cell: Cell) -> Status:
        """How far it is, read from its run folder."""
        folder = self.of(cell)
        if (folder / ROWS).is_file():
            return _finished(read_rows(folder))
        if (reason := read_failure(folder)) is not None:
            return _begun(folder)._replace(state="failed", reason=reason)
        return _begun(folder) if (folder / SESSION).is_file() else Status("waiting")

    def _difference(self, cell: Cell) -> str:
        """In words, what the folder's cell of this name has otherwise."""
        folder = self.of(cell)
        if not folder.is_dir():
            return ""
        there, here = asdict(Cell.read(folder)), asdict(cell)
        names = [name for name in here if name != "suite" and plain(there[name]) != plain(here[name])]
        changes = (f"{name} {_short(there[name])} there, {_short(here[name])} here" for name in names)
        return f"{cell.id} ({'; '.join(changes)})" if names else ""


def _planned(cell: Cell) -> PlannedCell:
    return {
        "cell": cell.id,
        "stack": cell.stack,
        "learner": cell.learner,
        "adapters": list(cell.adapters),
        "data": cell.data,
        "seeds": list(cell.seeds),
        "steps": cell.steps,
    }


def _relevant(published: Sequence[Published], planned: Any) -> list[Published]:
    """Figures on the data that is planned."""
    data = {cell["data"] for cell in planned}
    return [figure for figure in published if figure["data"] in data]


def _complete(claims: Sequence[Claim], planned: Any) -> list[Claim]:
    """Claims of which every cell is planned."""
    cells = {(cell["stack"], cell["data"]) for cell in planned}
    return [
        claim
        for claim in claims
        if all((stack, data) in cells for stack in (claim["stack"], *claim["against"]) for data in claim["data"])
    ]


def _short(value: Any) -> str:
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _finished(rows: Sequence[ResultRow]) -> Status:
    values = tuple(row["last"] for row in rows if row["last"] is not None)
    return Status("finished", rows[0]["step"], rows[0]["measure"], values)


def _begun(folder: Path) -> Status:
    """How far a run folder is: its last row, and its last evaluation, read from the end."""
    rows = metrics_backwards(folder / "metrics.jsonl")
    if (last := next(rows, None)) is None:
        return Status("begun")
    status = Status("begun", last["step"])
    for row in chain([last], rows):
        for measure in ("score", "return"):
            if (values := row.get(f"eval/{measure}")) is not None:
                known = tuple(value for value in values if value is not None and np.isfinite(value))
                status = status._replace(measure=measure, values=known)
        if status.measure:
            break
    return status


__all__ = ["CELLS", "ResultsFolder", "Status"]
