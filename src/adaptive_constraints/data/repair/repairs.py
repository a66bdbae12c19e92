"""Repairs of a data set, made when it is loaded or by `adaptive-constraints repair`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.derivations import ROW_COLUMNS, take_rows
from adaptive_constraints.data.repair.episodes import relabel_timeouts, split_at_joins
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """Choice of what to mend in a data set; by default nothing. The order of the fields is the order of the work."""

    action_low: float | Sequence[float] | None = None
    """Least action, one number or one per dimension; none leaves the bound of the data."""
    action_high: float | Sequence[float] | None = None
    """Greatest action, one number or one per dimension; none leaves the bound of the data."""
    renumber_episodes: bool = False
    """Number the episodes anew: they end at marked rows, as if no ids were given, and where the id changes."""
    mark_ends: bool = False
    """Mark the last row of every episode that has no mark as a timeout: recording stopped there."""
    split_at_joins: bool = False
    """End an episode, by a timeout, where the next observation is not that of the following row."""
    relabel_timeouts: bool = False
    """Turn terminals that a time limit made into timeouts; of such rows, drop those without a next observation."""
    derive_next_observations: bool = False
    """Take next observations from the following row; an episode's last row is dropped unless it is terminal."""
    drop_bad_rows: bool = False
    """Drop rows with NaN or infinity; the episode is cut there, by a timeout, and not joined across the gap."""
    clip_actions: bool = False
    """Move actions that lie outside the bounds onto them."""

    def __post_init__(self) -> None:
        for name in ("action_low", "action_high"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _bound(name, value))

    @property
    def asked(self) -> bool:
        """Tell whether there is anything to do."""
        return self != Repairs()

    def apply(self, dataset: Dataset) -> tuple[Dataset, tuple[str, ...]]:
        """The mended set, and for each repair asked for one line that says what it changed; both are kept.

        The lines stand in the set's provenance as "repairs". Raises `DatasetError` for bounds that do not fit the
        actions, and where no row would be left.
        """
        lines = []
        if self.action_low is not None or self.action_high is not None:
            dataset, line = _bounded(dataset, self.action_low, self.action_high)
            lines.append(line)
        for name, mend in _IN_ORDER.items():
            if getattr(self, name):
                dataset, line = mend(dataset)
                lines.append(line)
        if lines:
            known = [dataset.provenance["repairs"]] if "repairs" in dataset.provenance else []
            dataset = dataclasses.replace(
                dataset, provenance={**dataset.provenance, "repairs": "; ".join([*known, *lines])}
            )
        return dataset, tuple(lines)


def _bound(name: str, value: Any) -> float | tuple[float, ...]:
    """Plain numbers, so that two `Repairs` can be compared."""
    try:
        return tuple(float(number) for number in value) if np.ndim(value) else float(value)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{name} must be one number or one per dimension, not {value!r}") from error


def _bounded(dataset: Dataset, low: ArrayLike | None, high: ArrayLike | None) -> tuple[Dataset, str]:
    old = (dataset.action_low, dataset.action_high)
    # One row, so that bounds are checked and converted as everywhere without a copy of the data.
    row = Dataset.from_arrays(
        observations=dataset.observations[:1],
        next_observations=dataset.observations[:1],
        actions=dataset.actions[:1],
        rewards=dataset.rewards[:1],
        terminals=dataset.terminals[:1],
        action_low=old[0] if low is None else low,
        action_high=old[1] if high is None else high,
    )
    changed = dataclasses.replace(dataset, action_low=row.action_low, action_high=row.action_high)
    return changed, f"action bounds: {_range(*old)} became {_range(row.action_low, row.action_high)}"


def _renumbered(dataset: Dataset) -> tuple[Dataset, str]:
    last = _is_last_row(dataset)
    marked = Dataset.from_arrays(
        observations=dataset.observations,
        next_observations=dataset.next_observations,
        actions=dataset.actions,
        rewards=dataset.rewards,
        terminals=dataset.terminals,
        timeouts=dataset.timeouts | (last & ~dataset.terminals),
    )
    ends = np.append(marked.episode_ids[1:] != marked.episode_ids[:-1], True)
    changed = _in_episodes(dataset, ends | last)
    return changed, f"renumber_episodes: {dataset.episodes} episodes became {changed.episodes}"


def _marked(dataset: Dataset) -> tuple[Dataset, str]:
    open_ends = _is_last_row(dataset) & ~dataset.terminals & ~dataset.timeouts
    changed = _replace(dataset, timeouts=dataset.timeouts | open_ends)
    return changed, f"mark_ends: the last rows of {int(open_ends.sum())} episodes are timeouts now"


def _split(dataset: Dataset) -> tuple[Dataset, str]:
    changed = split_at_joins(dataset)
    dropped = len(dataset) - len(changed)
    line = f"split_at_joins: {dataset.episodes} episodes became {changed.episodes}"
    return changed, f"{line}, and {dropped} rows that lead elsewhere were dropped" if dropped else line


def _relabelled(dataset: Dataset) -> tuple[Dataset, str]:
    changed = relabel_timeouts(dataset)
    cut = dataset.terminals & ~changed.terminals
    # Where an observation is its own next one, it stood in for one that was never recorded: no use at a timeout.
    unknown = cut & (changed.next_observations == changed.observations).all(axis=1)
    line = f"relabel_timeouts: {int(cut.sum())} terminals are timeouts now"
    if unknown.any():
        line += f", {int(unknown.sum())} of which had no next observation and were dropped"
    return _without(changed, unknown), line


def _derived(dataset: Dataset) -> tuple[Dataset, str]:
    last = _is_last_row(dataset)
    following = np.concatenate([dataset.observations[1:], dataset.observations[:1]])
    following[last] = dataset.observations[last]
    changed = _without(_replace(dataset, next_observations=following), last & ~dataset.terminals)
    dropped = len(dataset) - len(changed)
    return changed, f"derive_next_observations: {dropped} rows that nothing follows were dropped"


def _cleaned(dataset: Dataset) -> tuple[Dataset, str]:
    bad = np.zeros(len(dataset), bool)
    columns = [*(getattr(dataset, name) for name in ROW_COLUMNS), *dataset.extra.values()]
    for array in columns:
        if array.dtype.kind == "f":
            bad |= ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    changed = _without(dataset, bad)
    pieces = f"{dataset.episodes} episodes became {changed.episodes}"
    return changed, f"drop_bad_rows: {int(bad.sum())} rows with NaN or infinity were dropped; {pieces}"


def _clipped(dataset: Dataset) -> tuple[Dataset, str]:
    actions = np.clip(dataset.actions, dataset.action_low, dataset.action_high)
    moved = np.abs(actions - dataset.actions)
    rows, most = int((moved > 0).any(axis=1).sum()), float(np.max(moved, initial=0.0))
    return _replace(dataset, actions=actions), f"clip_actions: actions of {rows} rows moved, by up to {most:g}"


_IN_ORDER: dict[str, Callable[[Dataset], tuple[Dataset, str]]] = {
    "renumber_episodes": _renumbered,
    "mark_ends": _marked,
    "split_at_joins": _split,
    "relabel_timeouts": _relabelled,
    "derive_next_observations": _derived,
    "drop_bad_rows": _cleaned,
    "clip_actions": _clipped,
}


def _without(dataset: Dataset, dropped: Array) -> Dataset:
    """The rows that are not in a mask [N]; an episode ends, by a timeout, before each row that is."""
    if not dropped.any():
        return dataset
    if dropped.all():
        raise DatasetError(f"no row of {dataset.name!r} would be left: every one has NaN or infinity, or lacks an end")
    last = _is_last_row(dataset)
    cut = np.append(dropped[1:], False) & ~last & ~dropped
    marked = _replace(dataset, timeouts=dataset.timeouts | (cut & ~dataset.terminals))
    kept = take_rows(marked, ~dropped, dataset.name)
    episode = np.cumsum(np.append(False, last[:-1]))[~dropped]  # ids may come back: they do not tell episodes apart
    ends = cut[~dropped] | np.append(episode[1:] != episode[:-1], True)
    pieces = _in_episodes(kept, ends)
    return pieces.with_recorded(dataset.recorded.of(episode[pieces.episode_starts]))


def _in_episodes(dataset: Dataset, ends: Array) -> Dataset:
    """The same rows in other episodes, which end at the rows of a mask [N].

    What is known of whole recordings, beyond their rows, is not known of the new episodes.
    """
    ids = np.concatenate([[0], np.cumsum(ends[:-1])]).astype(np.int64)
    unknown: dict[str, Any] = {f.name: None for f in dataclasses.fields(dataset) if f.name.startswith("recorded_")}
    return dataclasses.replace(_replace(dataset, episode_ids=ids), **unknown)


def _is_last_row(dataset: Dataset) -> Array:
    """[N] bool."""
    last = np.zeros(len(dataset), bool)
    last[np.append(dataset.episode_starts[1:], len(dataset)) - 1] = True
    return last


def _replace(dataset: Dataset, **arrays: Any) -> Dataset:
    for array in arrays.values():
        array.flags.writeable = False
    return dataclasses.replace(dataset, **arrays)


def _range(low: Array, high: Array) -> str:
    return f"{low.tolist()} .. {high.tolist()}"
