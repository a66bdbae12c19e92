"""What is wrong with a data set, counted, with rows and remedy; and the refusal of what cannot be trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints._arguments import checked
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]
Severity = Literal["error", "warning", "note"]

#: How far outside the bounds an action may lie, relative to the width of the bounds: room for rounding.
ACTION_TOLERANCE = 1e-4
#: Shortest common episode length that looks like a time limit.
_TIME_LIMIT = 100
#: How far a next observation may lie from the following row's observation, absolute and relative: room for rounding.
_JOIN_TOLERANCE = 1e-4
#: Share of repeated rows above which they are worth a warning.
_MANY_DUPLICATES = 0.01
_ROWS_SHOWN = 5


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

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which training is refused."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, in order."""
        return tuple(finding.code for finding in self.findings)

    def __str__(self) -> str:
        head = f"{self.name}: {self.rows} rows, "
        if not self.findings:
            return head + "nothing to report"
        lines = [f"  {finding.severity:<7} {finding.code:<22} {finding}" for finding in self.findings]
        return "\n".join([f"{head}{len(self.errors)} errors among {len(self.findings)} findings", *lines])


@checked(DatasetError)
def doctor(dataset: Dataset) -> Diagnosis:
    """Look for everything that commonly goes wrong with offline data; changes nothing, raises nothing."""
    findings = list(_examine(dataset, (*_ERROR_CHECKS, *_ADVICE_CHECKS)))
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Diagnosis(dataset.name, len(dataset), tuple(findings))


def advise(
    dataset: Dataset,
    *,
    reward_scale: float | str = 1.0,
    reward_shift: float | str = 0.0,
    normalize_observations: bool = False,
) -> tuple[Finding, ...]:
    """What is doubtful about data that a learner with these settings is to train on; errors are not among it."""
    return tuple(finding for finding in doctor(dataset).findings if finding.severity == "warning")


def check_trainable(dataset: Dataset) -> None:
    """Raise `DatasetError` with every error-level finding, its rows and its remedy; pass in silence otherwise."""
    errors = [finding for finding in _examine(dataset, _ERROR_CHECKS) if finding.severity == "error"]
    if errors:
        listed = "\n".join(f"  - {finding}" for finding in errors)
        raise DatasetError(f"the data set {dataset.name!r} cannot be trained on:\n{listed}")


def relabel_timeouts(dataset: Dataset) -> Dataset:
    """Turn terminals that a time limit made into timeouts: those at the greatest episode length, or already timeouts.

    A true end that falls on the very last allowed step becomes a timeout too: its value is then bootstrapped.
    """
    at_limit = np.zeros(len(dataset), bool)
    at_limit[_last_rows(dataset)[dataset.episode_lengths() == dataset.episode_lengths().max()]] = True
    cut = dataset.terminals & (at_limit | dataset.timeouts)
    return _replace(dataset, terminals=dataset.terminals & ~cut, timeouts=dataset.timeouts | cut)


def split_at_joins(dataset: Dataset) -> Dataset:
    """End an episode, by a timeout, wherever the next observation is not the one that the following row starts from."""
    joins = _joins(dataset)
    ids = np.cumsum(np.append(False, (joins | _is_last_row(dataset))[:-1]))
    return _replace(dataset, timeouts=dataset.timeouts | joins, episode_ids=ids.astype(np.int64))


def _replace(dataset: Dataset, **arrays: Any) -> Dataset:
    for array in arrays.values():
        array.flags.writeable = False
    return dataclasses.replace(dataset, **arrays)


def _examine(dataset: Dataset, checks: tuple[Check, ...]) -> Iterator[Finding]:
    if not len(dataset):
        yield Finding("error", "empty", "there are no rows", "record or load at least one episode")
        return
    for check in checks:
        yield from check(dataset)


def _at(mask: Array, severity: Severity, code: str, message: str, remedy: str) -> Iterator[Finding]:
    """One finding if any row of the mask [N] is set; "{n}" in the message becomes their number."""
    rows = np.flatnonzero(mask)
    if len(rows):
        first = tuple(int(row) for row in rows[:_ROWS_SHOWN])
        yield Finding(severity, code, message.replace("{n}", str(len(rows))), remedy, len(rows), first)


def _check_finite(dataset: Dataset) -> Iterator[Finding]:
    for name, array in dataset.arrays().items():
        if array.dtype.kind == "f" and not name.startswith("action_"):
            bad = np.any(~np.isfinite(array).reshape(len(array), -1), axis=1)
            yield from _at(
                bad, "error", "not_finite", f"{name} has NaN or infinity in {{n}} rows", "repair or drop them"
            )


def _check_action_bounds(dataset: Dataset) -> Iterator[Finding]:
    slack = ACTION_TOLERANCE * (dataset.action_high - dataset.action_low)
    outside = (dataset.actions < dataset.action_low - slack) | (dataset.actions > dataset.action_high + slack)
    if outside.any():
        low, high = float(np.nanmin(dataset.actions)), float(np.nanmax(dataset.actions))
        message = (
            f"actions of {{n}} rows lie outside {dataset.action_low.tolist()} .. {dataset.action_high.tolist()} "
            f"(they reach {low:g} .. {high:g})"
        )
        remedy = "clip them, or give the true bounds as action_low and action_high"
        yield from _at(np.any(outside, axis=1), "error", "action_bounds", message, remedy)


def _check_episode_ids(dataset: Dataset) -> Iterator[Finding]:
    ids = dataset.episode_ids[dataset.episode_starts]
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[first] = False
    mask = np.zeros(len(dataset), bool)
    mask[dataset.episode_starts[again]] = True
    message = "{n} episode ids come back after another episode"
    yield from _at(mask, "error", "episode_ids", message, "sort the rows by episode, or renumber the episodes")


def _check_marks_inside(dataset: Dataset) -> Iterator[Finding]:
    inside = (dataset.terminals | dataset.timeouts) & ~_is_last_row(dataset)
    message = "{n} rows are marked terminal or timeout though their episode goes on"
    remedy = "leave out episode_ids (they then follow the marks), or clear the marks"
    yield from _at(inside, "error", "mark_inside_episode", message, remedy)


def _check_joins(dataset: Dataset) -> Iterator[Finding]:
    message = "{n} next observations are not the observation of the following row in the same episode"
    remedy = "different recordings were joined: mark these rows as timeouts, or use split_at_joins(dataset)"
    yield from _at(_joins(dataset), "error", "segment_join", message, remedy)


def _check_cut_into_next(dataset: Dataset) -> Iterator[Finding]:
    """Next observations made by shifting the whole column: at a timeout a value is read from them."""
    here, start = dataset.next_observations[:-1], dataset.observations[1:]
    cut = np.append((here == start).all(axis=1), False) & _is_last_row(dataset) & ~dataset.terminals
    message = "{n} episodes are cut where the next observation is the first of the following episode"
    remedy = "fine if the environment was not reset there; otherwise leave next_observations out: they are derived"
    yield from _at(cut, "warning", "next_episode", message, remedy)


def _check_time_limit(dataset: Dataset) -> Iterator[Finding]:
    """Terminals that are a time limit in truth: every bootstrap at them would be wrong."""
    lengths = dataset.episode_lengths()
    longest = int(lengths.max())
    last = _last_rows(dataset)
    at_limit = np.zeros(len(dataset), bool)
    at_limit[last[lengths == longest]] = True
    ended = dataset.terminals & at_limit
    both = dataset.terminals & dataset.timeouts
    remedy = "use relabel_timeouts(dataset), so that learners bootstrap there"
    if both.any():
        every = bool((both == dataset.timeouts).all())
        message = "{n} rows are marked both terminal and timeout" + (", as every timeout is" if every else "")
        yield from _at(both, "error" if every else "warning", "terminal_and_timeout", message, remedy)
    if longest < _TIME_LIMIT or ended.sum() < 2 or (dataset.timeouts & at_limit).any():
        return
    if (ended == dataset.terminals).all():
        message = f"timeout-only set marked terminal: all {{n}} terminals come after exactly {longest} steps"
        yield from _at(ended, "error", "timeouts_as_terminals", message, remedy)
    else:
        message = f"{{n}} episodes end terminal at the greatest length, {longest} steps: a time limit?"
        yield from _at(ended, "warning", "terminals_at_limit", message, f"if so, {remedy}")


def _check_marks(dataset: Dataset) -> Iterator[Finding]:
    if dataset.terminals.any() or dataset.timeouts.any():
        return
    message = "no row is marked terminal or timeout"
    if dataset.episodes == 1:
        remedy = "mark where episodes end (if it is one recording: its last row as a timeout)"
        yield Finding("error", "no_marks", message + " and all rows are one episode", remedy)
    else:
        remedy = "fine if no episode ever ended by itself; otherwise mark the terminal rows"
        yield Finding("warning", "no_marks", message, remedy)


def _check_duplicates(dataset: Dataset) -> Iterator[Finding]:
    columns = (dataset.observations, dataset.actions, dataset.rewards[:, None], dataset.next_observations)
    packed = np.ascontiguousarray(np.concatenate(columns, axis=1))
    rows = packed.view(np.dtype((np.void, packed.itemsize * packed.shape[1]))).ravel()
    _, first = np.unique(rows, return_index=True)
    repeated = np.ones(len(dataset), bool)
    repeated[first] = False
    severity: Severity = "warning" if repeated.mean() > _MANY_DUPLICATES else "note"
    remedy = "harmless if the task repeats itself; otherwise drop the copies"
    yield from _at(repeated, severity, "duplicates", "{n} rows repeat an earlier transition exactly", remedy)


def _check_constants(dataset: Dataset) -> Iterator[Finding]:
    constant = np.flatnonzero((dataset.observations == dataset.observations[0]).all(axis=0))
    if len(constant):
        message = f"observation dimensions {constant.tolist()} never change"
        yield Finding("warning", "constant_dimensions", message, "drop them if evaluation does not change them either")
    if (dataset.rewards == dataset.rewards[0]).all():
        message = f"every reward is {dataset.rewards[0]:g}"
        yield Finding("warning", "constant_rewards", message, "there is little to learn from; check the reward column")


def _check_single_episode(dataset: Dataset) -> Iterator[Finding]:
    if dataset.episodes == 1:
        remedy = "returns cannot be compared; use more episodes if a method needs to"
        yield Finding("note", "single_episode", "there is only one episode", remedy)


def _last_rows(dataset: Dataset) -> Array:
    """[E] last row of each episode."""
    return np.append(dataset.episode_starts[1:], len(dataset)) - 1


def _is_last_row(dataset: Dataset) -> Array:
    """[N] bool."""
    mask = np.zeros(len(dataset), bool)
    mask[_last_rows(dataset)] = True
    return mask


def _joins(dataset: Dataset) -> Array:
    """[N] bool: an unmarked row whose next observation is not where the following row of its episode starts."""
    following, here = dataset.observations[1:], dataset.next_observations[:-1]
    with np.errstate(invalid="ignore"):  # infinite minus infinite: reported by _check_finite
        apart = np.abs(following - here) > _JOIN_TOLERANCE * (1 + np.abs(here))
    return np.append(apart.any(axis=1), False) & ~dataset.episode_ends


Check = Callable[[Dataset], Iterator[Finding]]
_ERROR_CHECKS: tuple[Check, ...] = (
    _check_finite,
    _check_action_bounds,
    _check_episode_ids,
    _check_marks_inside,
    _check_joins,
    _check_time_limit,
    _check_marks,
)
_ADVICE_CHECKS: tuple[Check, ...] = (_check_cut_into_next, _check_duplicates, _check_constants, _check_single_episode)
