"""What can be mended in a data set when it is loaded, or by `adaptive-constraints repair`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.doctor import relabel_timeouts, split_at_joins
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What to mend in a data set; by default nothing. The order of the fields is the order of the work."""

    action_low: float | Sequence[float] | None = None
    """Least action, one number or one per dimension; none leaves the bound of the data."""
    action_high: float | Sequence[float] | None = None
    """Greatest action, one number or one per dimension; none leaves the bound of the data."""
    renumber_episodes: bool = False
    """Begin an episode after every row marked terminal or timeout, and wherever the episode id changes."""
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
            if value is not None and np.ndim(value):
                object.__setattr__(self, name, tuple(float(each) for each in value))

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
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
    ends = dataset.episode_ends
    changed = _replace(dataset, episode_ids=_numbered(ends))
    return changed, f"renumber_episodes: {dataset.episodes} episodes became {changed.episodes}"


def _marked(dataset: Dataset) -> tuple[Dataset, str]:
    last = np.zeros(len(dataset), bool)
    last[_last_rows(dataset)] = True
    open_ends = last & ~dataset.terminals & ~dataset.timeouts
    changed = _replace(dataset, timeouts=dataset.timeouts | open_ends)
    return changed, f"mark_ends: the last rows of {int(open_ends.sum())} episodes are timeouts now"


def _split(dataset: Dataset) -> tuple[Dataset, str]:
    changed = split_at_joins(dataset)
    return changed, f"split_at_joins: {dataset.episodes} episodes became {changed.episodes}"


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
    arrays: dict[str, Any] = {key: array for key, array in dataset.arrays().items() if "/" not in key}
    fresh = Dataset.from_arrays(**arrays | {"next_observations": None}, extra=dataset.extra)
    changed = dataclasses.replace(
        fresh, env_id=dataset.env_id, task=dataset.task, name=dataset.name, provenance=dataset.provenance
    )
    dropped = len(dataset) - len(changed)
    return changed, f"derive_next_observations: {dropped} rows that nothing follows were dropped"


def _cleaned(dataset: Dataset) -> tuple[Dataset, str]:
    bad = np.zeros(len(dataset), bool)
    for name, array in dataset.arrays().items():
        if array.dtype.kind == "f" and len(array) == len(bad) and not name.startswith("action_"):
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
    last = np.zeros(len(dataset), bool)
    last[_last_rows(dataset)] = True
    cut = np.append(dropped[1:], False) & ~last & ~dropped
    timeouts = dataset.timeouts | (cut & ~dataset.terminals)
    marked = _replace(dataset, timeouts=timeouts, episode_ids=_numbered(last | cut | dropped))
    return marked.subset(~dropped, name=dataset.name)


def _numbered(ends: Array) -> Array:
    """[N] int64 ids 0, 1, ...: a new episode begins after each row of the mask."""
    return np.concatenate([[0], np.cumsum(ends[:-1])]).astype(np.int64)


def _last_rows(dataset: Dataset) -> Array:
    """[E] last row of each episode."""
    return np.append(dataset.episode_starts[1:], len(dataset)) - 1


def _replace(dataset: Dataset, **arrays: Any) -> Dataset:
    for array in arrays.values():
        array.flags.writeable = False
    return dataclasses.replace(dataset, **arrays)


def _range(low: Array, high: Array) -> str:
    return f"{low.tolist()} .. {high.tolist()}"
