"""The doctor: troubles of a data set, counted, with rows and remedy; and the refusal of what cannot be trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.checks import provenance, values
from adaptive_constraints.data.checks.actions import check_discrete, look_discrete
from adaptive_constraints.data.checks.findings import Diagnosis, Finding, Severity, at, at_rows, remedy
from adaptive_constraints.data.checks.transitions import impossible_steps, is_last_row, joins, last_rows, repeated_ends
from adaptive_constraints.data.columns import chunks
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.derivations import ROW_COLUMNS
from adaptive_constraints.data.recordings import CONTINUED, differ
from adaptive_constraints.data.repair.episodes import ends_at_limit, goal_is_held, relabel_timeouts, split_at_joins
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.outside import DISCRETE

Array = NDArray[Any]

#: How far outside the bounds an action may lie, relative to the width of the bounds: room for rounding.
ACTION_TOLERANCE = 1e-4
#: Shortest common episode length that looks like a time limit.
_TIME_LIMIT = 100

_SPLIT = remedy("split_at_joins(dataset)", "--split-at-joins")
_RENUMBER = (
    "let episodes follow the marks: leave episode_ids out (and recorded_*, which are facts of those episodes), "
    f"{remedy('load_dataset(..., ignore=[...])', '--ignore episode_ids')}; where next observations are given, "
    f"{remedy('load_dataset(..., renumber_episodes=True)', '--renumber-episodes')} does so too"
)
_MARK = remedy("load_dataset(..., mark_ends=True)", "--mark-ends")
_BOUNDS = remedy("load_dataset(..., action_low=, action_high=)", "--action-low .. --action-high ..")


@checked(DatasetError)
def doctor(dataset: Dataset) -> Diagnosis:
    """Look for everything that commonly goes wrong with offline data; changes nothing, raises nothing."""
    findings = list(_examine(dataset, (*_ERROR_CHECKS, *_ADVICE_CHECKS)))
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Diagnosis(dataset.name, len(dataset), tuple(findings), provenance.columns_text(dataset))


@checked(DatasetError)
def advise(
    dataset: Dataset,
    *,
    reward_scale: float | str = 1.0,
    reward_shift: float | str = 0.0,
    normalize_observations: bool = False,
) -> tuple[Finding, ...]:
    """Warnings of `doctor`, and what is doubtful when a learner reads the data with these settings of its own."""
    warnings = [finding for finding in doctor(dataset).findings if finding.severity == "warning"]
    if len(dataset):
        warnings += values.check_scaling(dataset, reward_scale, reward_shift)
        warnings += values.check_precision(dataset, normalize_observations, reward_shift)
    return tuple(warnings)


def check_trainable(dataset: Dataset) -> None:
    """Raise `DatasetError` with every error-level finding, its rows and its remedy; pass in silence otherwise."""
    errors = [finding for finding in _examine(dataset, _ERROR_CHECKS) if finding.severity == "error"]
    if errors:
        listed = "\n".join(f"  - {finding}" for finding in errors)
        raise DatasetError(f"the data set {dataset.name!r} cannot be trained on:\n{listed}")


def _examine(dataset: Dataset, checks: tuple[Check, ...]) -> Iterator[Finding]:
    if not len(dataset):
        yield Finding("error", "empty", "there are no rows", "record or load at least one episode")
        return
    for check in checks:
        yield from check(dataset)


def _check_finite(dataset: Dataset) -> Iterator[Finding]:
    for name in (*ROW_COLUMNS, *sorted(f"extra/{key}" for key in dataset.extra)):
        array = dataset.extra[name[6:]] if name.startswith("extra/") else getattr(dataset, name)
        if array.dtype.kind == "f":
            bad = np.zeros(len(array), bool)
            for part in chunks(len(array)):
                bad[part] = ~np.isfinite(array[part]).reshape(len(array[part]), -1).all(axis=1)
            way_out = remedy("repair or drop them: dataset.subset(rows)", "--drop-bad-rows")
            yield from at(bad, "error", "not_finite", f"{name} has NaN or infinity in {{n}} rows", way_out)


def _check_action_bounds(dataset: Dataset) -> Iterator[Finding]:
    low, high = dataset.action_low, dataset.action_high
    known = np.isfinite(low) & np.isfinite(high)
    slack = np.where(known, ACTION_TOLERANCE * (np.where(known, high, 1) - np.where(known, low, 0)), 0)
    outside = np.zeros(len(dataset), bool)
    for part in chunks(len(dataset)):
        actions = dataset.actions[part]
        outside[part] = ((actions < low - slack) | (actions > high + slack)).any(axis=1)
    if outside.any():
        message = f"actions of {{n}} rows lie outside {low.tolist()} .. {high.tolist()} ({_reach(dataset)})"
        way_out = f"clip them ({remedy('np.clip', '--clip-actions')}), or give the true bounds: {_BOUNDS}"
        if look_discrete(dataset):
            way_out = f"if they are numbers of choices, {DISCRETE}; otherwise {way_out}"
        yield from at(outside, "error", "action_bounds", message, way_out)
    if not known.all():
        message = (
            f"action bounds are infinite in dimensions {np.flatnonzero(~known).tolist()}, and policies need finite "
            f"ones ({_reach(dataset)})"
        )
        yield Finding("error", "infinite_bounds", message, f"give the true bounds: {_BOUNDS}")


def _reach(dataset: Dataset) -> str:
    """The range of each action dimension in words; NaN and infinity are reported elsewhere."""
    known = np.where(np.isfinite(dataset.actions), dataset.actions, 0)
    pairs = [f"{low:g} .. {high:g}" for low, high in zip(known.min(axis=0), known.max(axis=0), strict=True)]
    return (
        f"in the data they reach {pairs[0]}" if len(set(pairs)) == 1 else f"in the data they reach {', '.join(pairs)}"
    )


def _check_episode_ids(dataset: Dataset) -> Iterator[Finding]:
    ids = dataset.episode_ids[dataset.episode_starts]
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[first] = False
    message = "{n} episode ids come back after another episode"
    way_out = f"sort the rows by episode, or {_RENUMBER}"
    yield from at_rows(dataset.episode_starts[again], "error", "episode_ids", message, way_out)


def _check_marks_inside(dataset: Dataset) -> Iterator[Finding]:
    """Ends inside an episode: a timeout is none, a terminal row must lead to the following one."""
    inner = ~is_last_row(dataset)
    goals = np.flatnonzero(dataset.terminals & ~dataset.timeouts & inner)
    apart = differ(dataset.next_observations, dataset.observations, goals, goals + 1)
    wrong = dataset.timeouts & inner
    wrong[goals[apart]] = True
    message = "{n} rows are marked terminal or timeout though their episode goes on"
    way_out = f"clear the marks, or {_RENUMBER}"
    yield from at(wrong, "error", "mark_inside_episode", message, way_out)
    message = "recording goes on after {n} terminal rows, which stay inside their episodes"
    way_out = "nothing to do: nothing is read across them, and returns are those of whole recordings"
    yield from at_rows(goals[~apart], "note", "terminal_inside_episode", message, way_out)


def _check_joins(dataset: Dataset) -> Iterator[Finding]:
    message = "{n} next observations are not the observation of the following row in the same episode"
    way_out = f"different recordings were joined, or rows are missing: mark these rows as timeouts, or use {_SPLIT}"
    yield from at(joins(dataset), "error", "segment_join", message, way_out)


def _check_cut_into_next(dataset: Dataset) -> Iterator[Finding]:
    """Next observations made by shifting the whole column: at a timeout a value is read from them."""
    if CONTINUED in dataset.provenance:
        return
    message = "{n} episodes are cut where the next observation is the first of the following episode"
    derived = remedy("load_dataset(..., derive_next_observations=True)", "--derive-next-observations")
    way_out = f"fine if the environment was not reset there; otherwise use {derived}"
    yield from at_rows(_cut_into_next(dataset), "warning", "next_episode", message, way_out)


def _cut_into_next(dataset: Dataset) -> Array:
    """Numbers of the rows that end an episode without a true end and lead to the first row of the following one."""
    last = last_rows(dataset)[:-1]
    last = last[~dataset.terminals[last]]
    return last[(dataset.next_observations[last] == dataset.observations[last + 1]).all(axis=1)]


def _check_steps(dataset: Dataset) -> Iterator[Finding]:
    """Transitions that never happened, though next observations are what the following row says."""
    rows = np.setdiff1d(impossible_steps(dataset), _cut_into_next(dataset))
    message = "{n} next observations lie farther away than any other step leads: other recordings begin there, unmarked"
    way_out = f"mark the rows before them as ends, or use {_SPLIT}, which takes these rows out"
    yield from at_rows(rows, "warning", "outlying_step", message, way_out)
    message = "{n} rows that end an episode without a true end have their own observation as next observation"
    way_out = (
        "where they led was not recorded: leave next_observations out, so that they are derived and these rows "
        f"dropped, or use {_SPLIT}, which takes these rows out"
    )
    yield from at_rows(repeated_ends(dataset), "warning", "repeated_observation", message, way_out)


def _check_pieces(dataset: Dataset) -> Iterator[Finding]:
    if dataset.pieces:
        message = (
            f"{dataset.pieces} of {dataset.episodes} episodes are pieces of recordings, whose returns are not known"
        )
        way_out = (
            "settings that read returns are refused; use whole recordings (Dataset.subset keeps their returns; on the "
            "command line, give the complete file)"
        )
        yield Finding("warning", "pieces", message, way_out)


def _check_time_limit(dataset: Dataset) -> Iterator[Finding]:
    """Terminals that are a time limit in truth: every bootstrap at them would be wrong."""
    terminals, both, alone = _kinds(dataset)
    at_limit = ends_at_limit(dataset)
    longest = int(dataset.recorded.lengths.max())
    ended = terminals & at_limit
    others = bool((terminals & ~ended).any())
    way_out = f"use {remedy('relabel_timeouts(dataset)', '--relabel-timeouts')}, so that learners bootstrap there"
    if both.any():
        fall = not (both & ~at_limit).any() and (alone.any() or (both.sum() == 1 and others))
        severity: Severity = "note" if fall else "warning" if alone.any() else "error"
        message = "{n} rows are marked both terminal and timeout" + (
            "" if alone.any() or fall else ", as every timeout is"
        )
        as_end = "they count as true ends, as falls on the last allowed step do; if they are none, "
        yield from at(both, severity, "terminal_and_timeout", message, f"{as_end if fall else ''}{way_out}")
        if severity == "error":
            return
    if longest < _TIME_LIMIT or ended.sum() < 2 or (alone & at_limit).any():
        return
    if not others:
        message = f"timeout-only set marked terminal: all {{n}} terminals come after exactly {longest} steps"
        yield from at(ended, "error", "timeouts_as_terminals", message, way_out)
    else:
        message = f"{{n}} episodes end terminal at the greatest length, {longest} steps: a time limit?"
        yield from at(ended, "warning", "terminals_at_limit", message, f"if so, {way_out}")


def _kinds(dataset: Dataset) -> tuple[Array, Array, Array]:
    """[N] bool each: terminal, where no goal is held; terminal and timeout; timeout alone."""
    terminals = dataset.terminals & ~goal_is_held(dataset)
    both = terminals & dataset.timeouts
    return terminals, both, dataset.timeouts & ~dataset.terminals


def _check_marks(dataset: Dataset) -> Iterator[Finding]:
    if dataset.terminals.any() or dataset.timeouts.any():
        return
    message = "no row is marked terminal or timeout"
    if dataset.episodes == 1:
        way_out = f"mark where episodes end, or use {_MARK} if it is one recording: its last row becomes a timeout"
        yield Finding("error", "no_marks", message + " and all rows are one episode", way_out)
    else:
        way_out = (
            f"fine if no episode ever ended by itself ({_MARK} then says that recording stopped at each last row); "
            "otherwise mark the terminal rows"
        )
        yield Finding("warning", "no_marks", message, way_out)


def _check_repeated_ends(dataset: Dataset) -> Iterator[Finding]:
    """Most episodes are nothing but an end after an end: a flag that stayed on while recording, or lone rows."""
    starts = dataset.episode_starts
    alone = starts[(last_rows(dataset) == starts) & dataset.terminals[starts] & (starts > 0)]
    alone = alone[dataset.terminals[alone - 1]]
    if 2 * len(alone) > dataset.episodes:
        message = f"{{n}} of {dataset.episodes} episodes are one terminal row after another terminal row"
        way_out = (
            "if the flag stayed on while recording went on, give next observations, and episode_ids or timeouts where "
            "recordings end; if rows stand alone, their returns are single rewards"
        )
        yield from at_rows(alone, "warning", "repeated_end", message, way_out)


def _check_single_episode(dataset: Dataset) -> Iterator[Finding]:
    if dataset.episodes == 1:
        way_out = "returns cannot be compared; use more episodes if a method needs to"
        yield Finding("note", "single_episode", "there is only one episode", way_out)


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
_ADVICE_CHECKS: tuple[Check, ...] = (
    _check_cut_into_next,
    _check_steps,
    _check_pieces,
    _check_repeated_ends,
    *provenance.CHECKS,
    check_discrete,
    *values.CHECKS,
    _check_single_episode,
)

__all__ = ["Diagnosis", "Finding", "advise", "check_trainable", "doctor", "relabel_timeouts", "split_at_joins"]
