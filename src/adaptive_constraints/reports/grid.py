"""Results folders as one grid: which stacks there are, on which data sets, with which seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.references import ReferenceScore, own_level
from adaptive_constraints.data.sources.scripted import undrawn
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.experiments.rows import (
    CELLS,
    Published,
    ResultRow,
    SuiteRecord,
    read_failure,
    read_rows,
    read_suite,
)
from adaptive_constraints.reports.names import Names, kind
from adaptive_constraints.runs.plots import Curves

Score: TypeAlias = Literal["last_ten", "last", "best"]
"""Which number of a seed counts."""
SCORES: dict[Score, str] = {
    "last_ten": "mean of the last ten evaluations",
    "last": "last evaluation",
    "best": "best evaluation",
}
LOST_SCORE = 0.0
"""A lost seed counts as the reference's random policy: that is all one has without it."""


@dataclass(frozen=True)
class StackName:
    """A row of the grid."""

    label: str
    learner: str
    adapters: tuple[str, ...]

    @property
    def length(self) -> str:
        """The run's length as the label says it: nothing, unless the grid holds several."""
        return self.label.removeprefix(" + ".join([self.learner, *self.adapters]))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Class names of the adapters, without their settings."""
        return tuple(kind(adapter) for adapter in self.adapters)


@dataclass(frozen=True)
class DataName:
    """A column of the grid."""

    label: str
    reference: str
    regenerated: bool
    scored: bool
    """Normalised scores are known; mean returns otherwise."""

    @property
    def unit(self) -> str:
        """The unit of the numbers of this data set."""
        return "normalised score" if self.scored else "mean return"


@dataclass(frozen=True)
class GridCell:
    """One stack on one data set, all its seeds, in their order."""

    stack: StackName
    data: DataName
    rows: tuple[ResultRow, ...]

    def values(self, score: Score) -> NDArray[np.float64]:
        """[N] the number of each seed that counts; lost seeds count as `LOST_SCORE`, and not at all in returns."""
        values = np.array([seed_value(row, score) for row in self.rows])
        kept: NDArray[np.float64] = values[~np.isnan(values)]
        return kept

    def draws(self, score: Score) -> NDArray[np.int64]:
        """[N] the draw of the data of each of these, numbered from 0."""
        kept = [row for row in self.rows if not math.isnan(seed_value(row, score))]
        return draw_numbers(kept)

    @property
    def lost(self) -> int:
        """How many seeds are lost."""
        return sum(is_lost(row) for row in self.rows)

    @property
    def behaviour(self) -> float | None:
        """The data's own score, or mean return: the mean over its draws; None where it is not known of one."""
        draws = {row["data"]["fingerprint"]: behaviour(row) for row in self.rows}
        known = [value for value in draws.values() if value is not None]
        return sum(known) / len(known) if len(known) == len(draws) else None

    def curves(self) -> Curves:
        """Evaluations and adaptive quantities over steps; NaN from where a seed is lost."""
        evaluations = [
            ([point["step"] for point in row["evaluations"]], [point["value"] for point in row["evaluations"]])
            for row in self.rows
        ]
        names = list(dict.fromkeys(name for row in self.rows for name in row["series"]))
        series = {name: _aligned([tuple(row["series"].get(name, ((), ()))) for row in self.rows]) for name in names}
        return Curves(*_aligned(evaluations), series)


class Missing(NamedTuple):
    """A planned cell without rows: its stack, its data reference, and why it failed, if it did."""

    stack: str
    data: str
    reason: str | None


@dataclass(frozen=True)
class Grid:
    """Contents of some results folders together.

    stacks, data: rows and columns of the grid, as the suites list them.
    names: short names of the stacks, and what they leave out.
    cells: by (stack label, data label); what has no finished cell is not there.
    missing: planned cells without rows.
    """

    suites: tuple[SuiteRecord, ...]
    rows: tuple[ResultRow, ...]
    names: Names
    stacks: tuple[StackName, ...]
    data: tuple[DataName, ...]
    cells: dict[tuple[str, str], GridCell]
    missing: tuple[Missing, ...]

    @property
    def all_scored(self) -> bool:
        """Tell whether every data set has normalised scores, so that numbers may be put together."""
        return all(data.scored for data in self.data)

    def across(self, stack: StackName) -> list[GridCell] | None:
        """The cells of a stack on every data set; None unless all are there, are scored, and are more than one."""
        cells = [self.cells.get((stack.label, data.label)) for data in self.data]
        present = [cell for cell in cells if cell is not None]
        return present if self.all_scored and len(present) == len(self.data) > 1 else None

    def named(self, stack: str) -> str:
        """The short name of a stack that a suite names in full; as it stands if it is not here."""
        row = next((row for row in self.rows if row["stack"] == stack), None)
        return stack if row is None else self.names.stack(row)

    def published(self) -> list[Published]:
        """Every published figure that the suites name for data sets that are here, once."""
        here = {data.reference for data in self.data}
        figures: list[Published] = []
        for figure in (figure for suite in self.suites for figure in suite["published"]):
            if figure["data"] in here and figure not in figures:
                figures.append(figure)
        return figures


def read_grid(folders: Sequence[str | Path]) -> Grid:
    """The grid that these results folders hold together.

    Raises `EvaluationError` where nothing has finished, or where two folders hold the same seed of the same run.
    """
    suites = tuple(read_suite(folder) for folder in folders)
    rows = [row for folder in folders for row in read_rows(folder)]
    if not rows:
        read = ", ".join(map(str, folders))
        raise EvaluationError(f"no cell of {read} has finished: there is nothing to report yet; go on with `bench`")
    _refuse_repeated(rows)
    order = [cell["stack"] for suite in suites for cell in suite["cells"]]
    names = Names.of(rows)
    labels = _stack_labels(rows, names)
    data_labels = _data_labels(rows)
    stacks: dict[str, StackName] = {}
    data: dict[str, DataName] = {}
    cells: dict[tuple[str, str], list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: (_position(order, row["stack"]), row["seed"])):
        stack = StackName(labels[_run(row)], names.part(row["learner"]), tuple(map(names.part, row["adapters"])))
        column = _data_name(row, data_labels)
        stacks[stack.label], data[column.label] = stack, column
        cells.setdefault((stack.label, column.label), []).append(row)
    columns = {label: data[label] for label in sorted(data)}
    return Grid(
        suites,
        tuple(rows),
        names,
        tuple(stacks.values()),
        tuple(columns.values()),
        {key: GridCell(stacks[key[0]], columns[key[1]], tuple(seed_rows)) for key, seed_rows in cells.items()},
        _missing(folders, suites, rows),
    )


def draw_numbers(rows: Sequence[ResultRow]) -> NDArray[np.int64]:
    """[N] which data set each row is of, numbered from 0."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row["data"]["fingerprint"], len(numbers)) for row in rows], np.int64)


def is_lost(row: ResultRow) -> bool:
    """Tell whether a seed has no number at its end: its losses, or its policy's returns, ceased to be finite."""
    return row["lost"] is not None or (row["last"] is None and bool(row["evaluations"]))


def behaviour(row: ResultRow) -> float | None:
    """The mean return of the data's own episodes, as a score where the row's numbers are scores; None if not known."""
    value, given = row["data"].get("mean_return"), row["reference"]
    if row["measure"] == "return":
        return value
    return None if given is None else own_level(value, ReferenceScore(row["data"]["name"], **given))


def seed_value(row: ResultRow, score: Score) -> float:
    """The number of a seed that counts; NaN for a lost seed in returns, which have no zero, and without evaluations."""
    if is_lost(row):
        return LOST_SCORE if row["measure"] == "score" else math.nan
    value = row[score]
    return math.nan if value is None else value


def _run(row: ResultRow) -> tuple[str, int]:
    return row["stack"], row["steps"]


def _refuse_repeated(rows: Sequence[ResultRow]) -> None:
    counts = Counter((row["stack"], row["data"]["fingerprint"], row["steps"], row["seed"]) for row in rows)
    ((stack, _, steps, seed), most) = counts.most_common(1)[0]
    if most > 1:
        raise EvaluationError(
            f"seed {seed} of {stack} for {steps} steps is there {most} times on the same data: "
            "name only one of the folders that hold it"
        )


def _stack_labels(rows: Sequence[ResultRow], names: Names) -> dict[tuple[str, int], str]:
    """The label of (stack, steps): with its steps where some stack was run for several lengths on one data set."""
    lengths: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        lengths.setdefault((row["stack"], row["data"]["fingerprint"]), set()).add(row["steps"])
    several = any(len(steps) > 1 for steps in lengths.values())
    return {_run(row): names.stack(row) + (f", {row['steps']:,} steps" if several else "") for row in rows}


def _data_labels(rows: Sequence[ResultRow]) -> dict[str, str]:
    """The label of a fingerprint: the reference without its draw; with the fingerprint where two share a reference."""
    references = {row["data"]["fingerprint"]: row["data"]["reference"] for row in rows}
    counts = Counter(references.values())
    return {
        fingerprint: undrawn(reference) if counts[reference] == 1 else f"{reference} ({fingerprint[:8]})"
        for fingerprint, reference in references.items()
    }


def _data_name(row: ResultRow, labels: dict[str, str]) -> DataName:
    data = row["data"]
    label = labels[data["fingerprint"]]
    return DataName(label, undrawn(data["reference"]), data["regenerated"], row["measure"] == "score")


def _position(order: Sequence[str], label: str) -> int:
    return order.index(label) if label in order else len(order)


def _missing(
    folders: Sequence[str | Path], suites: Sequence[SuiteRecord], rows: Sequence[ResultRow]
) -> tuple[Missing, ...]:
    done = {(row["stack"], row["data"]["reference"], row["steps"]) for row in rows}
    return tuple(
        Missing(cell["stack"], cell["data"], read_failure(Path(folder) / CELLS / cell["cell"]))
        for folder, suite in zip(folders, suites, strict=True)
        for cell in suite["cells"]
        if (cell["stack"], cell["data"], cell["steps"]) not in done
    )


def _aligned(
    seeds: Sequence[tuple[Sequence[float | None], ...]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(steps, values) of each seed -> all steps [T] and values [T, S], NaN where a seed has none."""
    steps = sorted({step for at, _ in seeds for step in at if step is not None})
    values = np.full((len(steps), len(seeds)), np.nan)
    place = {step: i for i, step in enumerate(steps)}
    for column, (at, numbers) in enumerate(seeds):
        for step, value in zip(at, numbers, strict=True):
            if step is not None and value is not None:
                values[place[step], column] = value
    return np.array(steps, np.float64), values


__all__ = [
    "SCORES",
    "DataName",
    "Grid",
    "GridCell",
    "Score",
    "StackName",
    "draw_numbers",
    "is_lost",
    "read_grid",
    "seed_value",
]
