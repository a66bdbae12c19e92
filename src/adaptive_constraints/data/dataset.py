"""The one container of offline data: whole episodes of transitions, with terminal and timeout kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints._arguments import checked
from adaptive_constraints.data.environments import plain_env_spec
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

#: Columns that every data set can compute, beside its own extras.
DERIVED_COLUMNS = ("next_action", "next_action_mask", "return", "success")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N transitions in E episodes; the rows of an episode lie together and in order of time.

    A *terminal* row is a true end (the value of what follows is 0); a *timeout* row is where recording stopped (the
    episode would have gone on, so a learner bootstraps from `next_observations`). All arrays are read-only. Make one
    with `Dataset.from_arrays` or `load_dataset`; the bare constructor checks nothing.
    """

    observations: Array  # [N, D] float32
    actions: Array  # [N, A] float32
    rewards: Array  # [N] float32
    next_observations: Array  # [N, D] float32
    terminals: Array  # [N] bool
    timeouts: Array  # [N] bool
    episode_ids: Array  # [N] int64
    action_low: Array  # [A] float32
    action_high: Array  # [A] float32
    env_id: str | None = None  # the environment that evaluation uses by default, such as "Hopper-v5"
    task: str | None = None  # key in the table of reference returns, such as "hopper"
    name: str = "arrays"  # the reference it came from
    extra: Mapping[str, Array] = field(default_factory=dict)  # further columns, each [N, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    env_spec: Mapping[str, Any] | None = None  # how env_id is made (`plain_env_spec`); None: as it is registered

    @classmethod
    @checked(DatasetError)
    def from_arrays(
        cls,
        *,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminals: ArrayLike,
        next_observations: ArrayLike | None = None,
        timeouts: ArrayLike | None = None,
        episode_ids: ArrayLike | None = None,
        action_low: ArrayLike = -1.0,
        action_high: ArrayLike = 1.0,
        env_id: str | None = None,
        task: str | None = None,
        name: str = "arrays",
        extra: Mapping[str, ArrayLike] | None = None,
        provenance: Mapping[str, str] | None = None,
        env_spec: Any = None,
    ) -> Dataset:
        """Copy, convert and check arrays with N rows each; see the class for shapes and dtypes.

        What is absent is derived:

        - `timeouts`: none.
        - `episode_ids`: an episode ends at every terminal or timeout row.
        - `next_observations`: the following row's observation. The last row of an episode has no following row: if it
          is terminal its next observation is never used and its own observation stands in; otherwise the row is
          dropped rather than invented, and its timeout mark moves to the row before it.

        Scalar action bounds hold for every dimension. `env_spec` is Gymnasium's EnvSpec (`env.spec`), or its fields as
        plain values: what `env_id` is made with, its time limit included. Raises `DatasetError` for wrong shapes,
        values that are not numbers, bounds that are not finite or not ordered, and an empty set.
        """
        columns = {
            "observations": _matrix("observations", observations),
            "actions": _matrix("actions", actions),
            "rewards": _flat("rewards", rewards, np.float32),
            "terminals": _flat("terminals", terminals, np.bool_),
        }
        rows = len(columns["observations"])
        columns["timeouts"] = np.zeros(rows, bool) if timeouts is None else _flat("timeouts", timeouts, np.bool_)
        if next_observations is not None:
            columns["next_observations"] = _matrix("next_observations", next_observations)
        if episode_ids is not None:
            columns["episode_ids"] = _flat("episode_ids", episode_ids, np.int64)
        extras = {key: np.array(_numbers(f"extra column {key!r}", value)) for key, value in (extra or {}).items()}
        _check_rows(columns, extras)
        if episode_ids is None:
            columns["episode_ids"] = _ids_from_marks(columns["terminals"] | columns["timeouts"])
        if next_observations is None:
            keep = _derive_next_observations(columns)
            columns = {key: column[keep] for key, column in columns.items()}
            extras = {key: column[keep] for key, column in extras.items()}
        low, high = _bounds(action_low, action_high, columns["actions"].shape[1])
        env_id, env_spec = _environment(env_id, env_spec)
        arrays = {key: _read_only(value) for key, value in columns.items()}
        return cls(
            **arrays,
            action_low=_read_only(low),
            action_high=_read_only(high),
            env_id=env_id,
            task=task,
            name=name,
            extra={key: _read_only(value) for key, value in extras.items()},
            provenance=dict(provenance or {}),
            env_spec=env_spec,
        )

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.rewards)

    def __repr__(self) -> str:
        returns = self.episode_returns()
        place = f", env_id={self.env_id!r}" if self.env_id else ""
        return (
            f"Dataset({self.name!r}: {len(self)} rows, {self.episodes} episodes, {self.observation_dim} observation "
            f"and {self.action_dim} action dimensions, return {returns.mean():.1f} +- {returns.std():.1f}{place})"
        )

    @property
    def observation_dim(self) -> int:
        """D."""
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """A."""
        return int(self.actions.shape[1])

    @cached_property
    def episode_starts(self) -> Array:
        """[E] first row of each episode: an episode is a run of rows with the same id."""
        changed = self.episode_ids[1:] != self.episode_ids[:-1]
        return np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64)

    @property
    def episodes(self) -> int:
        """E."""
        return len(self.episode_starts)

    @cached_property
    def episode_ends(self) -> Array:
        """[N] bool: nothing may be read from the row after this one."""
        ends = self.terminals | self.timeouts
        ends[np.append(self.episode_starts[1:], len(self)) - 1] = True
        return ends

    def episode_lengths(self) -> Array:
        """[E] int64 rows per episode."""
        return np.diff(np.append(self.episode_starts, len(self)))

    def episode_returns(self) -> Array:
        """[E] float64 undiscounted sums of the raw rewards."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever any number a learner could read changes; names do not count."""
        digest = hashlib.sha256()
        for key, array in self.arrays().items():
            digest.update(f"{key}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, Array]:
        """Every array under its name; extra columns as `extra/NAME`."""
        return {
            "observations": self.observations,
            "actions": self.actions,
            "rewards": self.rewards,
            "next_observations": self.next_observations,
            "terminals": self.terminals,
            "timeouts": self.timeouts,
            "episode_ids": self.episode_ids,
            "action_low": self.action_low,
            "action_high": self.action_high,
            **{f"extra/{key}": self.extra[key] for key in sorted(self.extra)},
        }

    def column(self, name: str) -> Array:
        """One value per row, computed on request, in raw units.

        - "next_action" [N, A]: the following action of the same episode; 0 at an episode's end.
        - "next_action_mask" [N] float32: 1 where "next_action" is real, 0 at an episode's end.
        - "return" [N] float32: undiscounted return of the whole episode that the row belongs to.
        - "success" [N] float32: 1 where the last reward of the row's episode is positive (sparse-reward tasks).
        - any name in `extra`.

        Raises `DatasetError` for another name.
        """
        if name == "next_action":
            following = np.concatenate([self.actions[1:], self.actions[:1]])
            return np.where(self.episode_ends[:, None], np.float32(0), following)
        if name == "next_action_mask":
            return (~self.episode_ends).astype(np.float32)
        if name == "return":
            return np.repeat(self.episode_returns(), self.episode_lengths()).astype(np.float32)
        if name == "success":
            last = self.rewards[np.append(self.episode_starts[1:], len(self)) - 1]
            return np.repeat(last > 0, self.episode_lengths()).astype(np.float32)
        if name in self.extra:
            return self.extra[name]
        known = ", ".join([*DERIVED_COLUMNS, *sorted(self.extra)])
        raise DatasetError(f"data set {self.name!r} has no column {name!r}; it has: {known}")

    def subset(self, rows: ArrayLike, *, name: str | None = None) -> Dataset:
        """The given rows (a mask or ascending indices) as a new set; take whole episodes to keep returns meaningful."""
        try:
            index = np.arange(len(self))[np.asarray(rows)]
        except IndexError as error:
            raise DatasetError(f"subset needs a mask of {len(self)} rows or row indices ({error})") from error
        if len(index) and (np.diff(index) <= 0).any():
            raise DatasetError("subset needs ascending row indices, so that episodes keep their order of time")
        return Dataset.from_arrays(
            observations=self.observations[index],
            actions=self.actions[index],
            rewards=self.rewards[index],
            next_observations=self.next_observations[index],
            terminals=self.terminals[index],
            timeouts=self.timeouts[index],
            episode_ids=self.episode_ids[index],
            action_low=self.action_low,
            action_high=self.action_high,
            env_id=self.env_id,
            task=self.task,
            name=name or f"{self.name}[{len(index)} rows]",
            extra={key: value[index] for key, value in self.extra.items()},
            provenance=self.provenance,
            env_spec=self.env_spec,
        )


def _numbers(name: str, value: ArrayLike) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise DatasetError(f"{name} cannot be made an array ({error}); give every row the same length") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{name} must hold numbers, but its dtype is {array.dtype}; convert it first")
    return array


def _matrix(name: str, value: ArrayLike) -> Array:
    """[N, D] float32, its own copy."""
    array = _numbers(name, value)
    if array.ndim != 2:
        raise DatasetError(f"{name} must have shape [N, dimensions], but has {list(array.shape)}")
    return np.array(array, np.float32, order="C")


def _flat(name: str, value: ArrayLike, dtype: type[np.generic]) -> Array:
    """[N] of `dtype`, its own copy; a column vector [N, 1] is accepted."""
    array = _numbers(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DatasetError(f"{name} must have shape [N], but has {list(array.shape)}")
    converted = np.array(array, dtype)
    if dtype is not np.float32 and (converted != array).any():
        kind = "0 or 1" if dtype is np.bool_ else "integers"
        raise DatasetError(f"{name} must hold {kind}, but row {int(np.argmax(converted != array))} does not")
    return converted


def _check_rows(columns: Mapping[str, Array], extras: Mapping[str, Array]) -> None:
    """All columns have the same number of rows, at least one, and matching widths."""
    lengths = {key: len(value) for key, value in columns.items()}
    lengths |= {f"extra column {key!r}": len(value) if value.ndim else 0 for key, value in extras.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {count}" for key, count in lengths.items())
        raise DatasetError(f"all columns need the same number of rows, but they have: {listed}")
    if not len(columns["rewards"]):
        raise DatasetError("the data set is empty: it has no rows; record or load at least one episode")
    for key in ("observations", "actions"):
        if not columns[key].shape[1]:
            raise DatasetError(f"{key} has no dimensions (shape {list(columns[key].shape)})")
    following = columns.get("next_observations", columns["observations"])
    if following.shape != columns["observations"].shape:
        raise DatasetError(
            f"next_observations has shape {list(following.shape)}, "
            f"but observations has {list(columns['observations'].shape)}"
        )


def _ids_from_marks(ends: Array) -> Array:
    """[N] ids 0, 1, ...: a new episode begins after every marked row."""
    return np.concatenate([[0], np.cumsum(ends[:-1])]).astype(np.int64)


def _derive_next_observations(columns: dict[str, Array]) -> Array:
    """Fill in `next_observations`, move the timeout marks of rows without one; return the mask of rows to keep."""
    ids, terminals, timeouts = columns["episode_ids"], columns["terminals"], columns["timeouts"]
    last = np.append(ids[1:] != ids[:-1], True)
    following = np.concatenate([columns["observations"][1:], columns["observations"][-1:]])
    columns["next_observations"] = np.where((last | terminals)[:, None], columns["observations"], following)
    keep = ~last | terminals
    dropped = np.flatnonzero(~keep & timeouts)
    has_previous = (dropped > 0) & (ids[dropped - 1] == ids[dropped])
    timeouts[dropped[has_previous] - 1] = True
    if not keep.any():
        raise DatasetError(
            "no row is left: every episode has one row, is not terminal, and no next observation was given; "
            "pass next_observations"
        )
    return keep


def _environment(env_id: str | None, env_spec: Any) -> tuple[str | None, dict[str, Any] | None]:
    """The id and the plain specification of an environment, which must be of one another."""
    if env_spec is None:
        return env_id, None
    spec = plain_env_spec(env_spec)
    if env_id is not None and env_id.rpartition(":")[2] != spec["id"].rpartition(":")[2]:
        raise DatasetError(f"env_id is {env_id!r}, but env_spec is of {spec['id']!r}: give one of them")
    return env_id or spec["id"], spec


def _bounds(low: ArrayLike, high: ArrayLike, dimensions: int) -> tuple[Array, Array]:
    """Action bounds as two [A] float32 arrays, finite and ordered."""
    ends = []
    for name, value in (("action_low", low), ("action_high", high)):
        array = _numbers(name, value)
        if array.shape not in ((), (dimensions,)):
            raise DatasetError(f"{name} must be one number or have shape [{dimensions}], but has {list(array.shape)}")
        ends.append(np.array(np.broadcast_to(array, (dimensions,)), np.float32))
    if not (ends[0] < ends[1]).all():
        raise DatasetError(
            f"action bounds must be numbers with low < high, but they are {ends[0].tolist()} and {ends[1].tolist()}; "
            "pass action_low and action_high"
        )
    return ends[0], ends[1]


def _read_only(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
