"""Findings about a data set: one kind of trouble each, counted, with rows and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Severity = Literal["error", "warning", "note"]

_ROWS_SHOWN = 5
#: How the command line mends a file.
REPAIR = "adaptive-constraints repair IN OUT"


@dataclass(frozen=True)
class Finding:
    """One kind of trouble. An error makes training wrong or impossible, a warning makes it doubtful."""

    severity: Severity
    code: str
    message: str
    remedy: str
    count: int = 0  # rows concerned; 0: the set as a whole
    rows: tuple[int, ...] = ()  # the first of them

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.rows) else ""
        where = f" (rows {', '.join(map(str, self.rows))}{more})" if self.rows else ""
        return f"{self.message}{where}: {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """Everything `doctor` found, errors first."""

    name: str
    rows: int
    findings: tuple[Finding, ...]
    columns: str = ""
    """What the columns of a table are for, in words."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which training is refused."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, in order."""
        return tuple(finding.code for finding in self.findings)

    def __str__(self) -> str:
        found = (
            f"{len(self.errors)} errors among {len(self.findings)} findings" if self.findings else "nothing to report"
        )
        columns = [f"  {self.columns}"] if self.columns else []
        lines = [f"  {finding.severity:<7} {finding.code:<22} {finding}" for finding in self.findings]
        return "\n".join([f"{self.name}: {self.rows} rows, {found}", *columns, *lines])


def at(mask: Array, severity: Severity, code: str, message: str, remedy: str) -> Iterator[Finding]:
    """One finding if any row of the mask [N] is set; "{n}" in the message becomes their number."""
    yield from at_rows(np.flatnonzero(mask), severity, code, message, remedy)


def at_rows(rows: Array, severity: Severity, code: str, message: str, remedy: str) -> Iterator[Finding]:
    """One finding if there are any rows, given by number; "{n}" in the message becomes how many."""
    if len(rows):
        first = tuple(int(row) for row in rows[:_ROWS_SHOWN])
        yield Finding(severity, code, message.replace("{n}", str(len(rows))), remedy, len(rows), first)


def remedy(python: str, command: str, otherwise: str = "") -> str:
    """A way out in Python, the same on the command line, and perhaps another."""
    return f"{python}, on the command line {REPAIR} {command}{otherwise}"
