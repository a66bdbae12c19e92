"""The one container of offline data: recordings of transitions, with terminal and timeout kept apart."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.data import columns as _columns
from adaptive_constraints.data import derivations
from adaptive_constraints.data.recordings import Facts, derive_next_observations, facts_of, ids_from_marks, starts_of
from adaptive_constraints.environments.specs import plain_env_spec
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.bounds import Above, AtLeast, Between

Array = NDArray[Any]

#: Columns that every data set can compute, beside its own extras.
DERIVED_COLUMNS = ("next_action", "next_action_mask", "return", "success")
#: Episodes of at most so many steps without a true end are taken for pieces of recordings, if most are so short.
_PIECE = 2


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N transitions in E episodes; the rows of an episode lie together and in order of time.

    An episode is a recording. A *terminal* row is a true end (the value of what follows is 0); recording may go on
    after it, as at a goal where the robot stays. A *timeout* row is where recording stopped (the episode would have
    gone on, so a learner bootstraps from `next_observations`); a row that is both is an end. All arrays are read-only.
    Make one with `Dataset.from_arrays` or `load_dataset`; the bare constructor checks nothing.

    Observations, or rewards, are float64 where float32 would lose more than 1e-3 of the spread of a column, such as
    time in seconds since 1970; `Preprocessor` centres them before they become float32.
    """

    observations: Array  # [N, D] float32, or float64
    actions: Array  # [N, A] float32
    rewards: Array  # [N] float32, or float64
    next_observations: Array  # [N, D] of the observations' dtype
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
    # Of the recordings that the rows come from, where the rows alone do not say it:
    recorded_returns: Array | None = None  # [E] float64 sums of all their rewards; NaN: not known
    recorded_lengths: Array | None = None  # [E] int64 steps
    recorded_success: Array | None = None  # [E] bool

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
        recorded_returns: ArrayLike | None = None,
        recorded_lengths: ArrayLike | None = None,
        recorded_success: ArrayLike | None = None,
    ) -> Dataset:
        """Copy, convert and check arrays with N rows each; see the class for shapes and dtypes.

        What is absent is derived:

        - `timeouts`: none.
        - `episode_ids`: an episode ends at every timeout row, and at every terminal row unless the rows show that the
          same recording goes on there: the next observation is the following row's (and not merely because the whole
          column was shifted) by a step of ordinary length; or, where none are given, terminal rows follow each other
          by ordinary steps. `doctor` says how many such rows there are.
        - `next_observations`: the following row's observation. The last row of an episode has no following row: if it
          is terminal its next observation is never used and its own observation stands in; otherwise the row is
          dropped rather than invented, and its timeout mark moves to the row before it. What it was rewarded, and that
          it was a step, stays known: see `episode_returns`.
        - `recorded_returns`, `recorded_lengths`, `recorded_success`: what the rows say.

        Scalar action bounds hold for every dimension; infinite ones load, but cannot be trained on. `env_spec` is
        Gymnasium's EnvSpec (`env.spec`), or its fields as plain values: what `env_id` is made with, its time limit
        included. Raises `DatasetError` for wrong shapes, values that are not numbers, bounds that are not ordered, and
        an empty set.
        """
        raw = {"observations": _columns.matrix("observations", observations)}
        if next_observations is not None:
            raw["next_observations"] = _columns.matrix("next_observations", next_observations)
        wide = any(_columns.needs_float64(array) for array in raw.values())
        columns = {key: _columns.floats(array, wide) for key, array in raw.items()}
        columns["actions"] = _columns.floats(_columns.matrix("actions", actions), wide=False)
        rewarded = _columns.flat("rewards", rewards)
        columns["rewards"] = _columns.floats(rewarded, _columns.needs_float64(rewarded))
        columns["terminals"] = _columns.whole("terminals", terminals, np.bool_)
        rows = len(columns["observations"])
        columns["timeouts"] = (
            np.zeros(rows, bool) if timeouts is None else _columns.whole("timeouts", timeouts, np.bool_)
        )
        if episode_ids is not None:
            columns["episode_ids"] = _columns.whole("episode_ids", episode_ids, np.int64)
        extras = {
            key: np.array(_columns.numbers(f"extra column {key!r}", column)) for key, column in (extra or {}).items()
        }
        _columns.check_rows(columns, extras)
        if episode_ids is None:
            columns["episode_ids"] = ids_from_marks(columns)
        facts = _given_facts(recorded_returns, recorded_lengths, recorded_success)
        if facts is not None:
            _check_facts(facts, columns["episode_ids"])
        if next_observations is None:
            whole = facts or facts_of(columns["rewards"], columns["terminals"], columns["episode_ids"])
            keep = derive_next_observations(columns)
            facts = whole.of(_surviving(columns["episode_ids"], keep))
            if not keep.all():
                for key in columns:  # one at a time, so that little stands twice
                    columns[key] = columns[key][keep]
                extras = {key: column[keep] for key, column in extras.items()}
        low, high = _columns.bounds(action_low, action_high, columns["actions"].shape[1])
        env_id, env_spec = _environment(env_id, env_spec)
        return cls(
            **{key: _columns.read_only(value) for key, value in columns.items()},
            action_low=_columns.read_only(low),
            action_high=_columns.read_only(high),
            env_id=env_id,
            task=task,
            name=name,
            extra={key: _columns.read_only(value) for key, value in extras.items()},
            provenance=dict(provenance or {}),
            env_spec=env_spec,
        ).with_recorded(facts)

    def with_recorded(self, facts: Facts | None) -> Dataset:
        """The same rows, with what is known of their recordings where the rows do not say it."""
        if facts is not None:
            _check_count(facts, self.episodes)
        if facts is None or facts.equal(facts_of(self.rewards, self.terminals, self.episode_ids)):
            facts = None
        kept: dict[str, Any] = {f"recorded_{name}": None for name in Facts._fields}
        if facts is not None:
            kept = {f"recorded_{name}": _columns.read_only(fact) for name, fact in facts._asdict().items()}
        return dataclasses.replace(self, **kept)

    @property
    def recorded(self) -> Facts:
        """Facts of the recordings that the rows come from, whether they are all here or not."""
        if self.recorded_returns is None or self.recorded_lengths is None or self.recorded_success is None:
            return facts_of(self.rewards, self.terminals, self.episode_ids)
        return Facts(self.recorded_returns, self.recorded_lengths, self.recorded_success)

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.rewards)

    def __repr__(self) -> str:
        place = f", env_id={self.env_id!r}" if self.env_id else ""
        returns = self.recorded.returns
        known = "returns not known" if self.pieces else f"return {returns.mean():.1f} +- {returns.std():.1f}"
        return (
            f"Dataset({self.name!r}: {len(self)} rows, {self.episodes} episodes, {self.observation_dim} observation "
            f"and {self.action_dim} action dimensions, {known}{place})"
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
        return starts_of(self.episode_ids)

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
        """[E] float64 undiscounted sums of the raw rewards of whole recordings, rows that are not here included.

        Raises `DatasetError` where only pieces of recordings are known.
        """
        self._refuse_pieces("return")
        return self.recorded.returns

    @property
    def mean_return(self) -> float | None:
        """Mean of `episode_returns`: what the behaviour earns; None where only pieces of recordings are known."""
        return None if self.pieces else float(self.episode_returns().mean())

    def episode_success(self) -> Array:
        """[E] bool: the last reward of the recording is positive, or that of a terminal row in it.

        So a recording that reached the goal, left it and came to rest elsewhere counts as one that reached it. Rows
        that are not here count as in `episode_returns`; raises `DatasetError` as that does.
        """
        self._refuse_pieces("success")
        return self.recorded.success

    @cached_property
    def pieces(self) -> int:
        """How many episodes are pieces of recordings of which no more is known; 0 where all are whole.

        Where nothing is known beyond the rows, most episodes being one or two steps without a true end says so.
        """
        if self.recorded_returns is not None:
            return int(np.isnan(self.recorded_returns).sum())
        last = np.append(self.episode_starts[1:], len(self)) - 1
        short = int(((self.episode_lengths() <= _PIECE) & ~self.terminals[last]).sum())
        return short if 2 * short > self.episodes else 0

    def _refuse_pieces(self, what: str) -> None:
        if self.pieces:
            raise DatasetError(
                f"the {what} of an episode is not known in {self.name!r}: {self.pieces} of its {self.episodes} "
                f"episodes are pieces of recordings (1 or 2 rows without a true end, or cut where rows are missing), "
                f"whose rewards do not sum to a return. Use the whole recordings (Python: Dataset.subset keeps their "
                f"returns; command line: give the complete file), or settings that read no returns, such as a number "
                f"for reward_scale"
            )

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever any number a learner could read changes; names do not count.

        How a set was derived from other ones (`subset`, `mix` and the like) counts too.
        """
        digest = hashlib.sha256(self.provenance.get(derivations.DERIVATION, "").encode())
        for key, array in self.arrays().items():
            digest.update(f"{key}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, Array]:
        """Every array under its name; extra columns as `extra/NAME`, recorded facts only where rows do not say them."""
        recorded = {f"recorded_{name}": getattr(self, f"recorded_{name}") for name in Facts._fields}
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
            **{key: array for key, array in recorded.items() if array is not None},
        }

    def column(self, name: str) -> Array:
        """One value per row, computed on request, in raw units.

        - "next_action" [N, A]: the following action of the same episode; 0 at an episode's end.
        - "next_action_mask" [N] float32: 1 where "next_action" is real, 0 at an episode's end.
        - "return" [N] float32: undiscounted return of the whole episode that the row belongs to; see `episode_returns`.
        - "success" [N] float32: 1 where the row's episode reached the goal; see `episode_success`.
        - any name in `extra`.

        Raises `DatasetError` for another name, and for the last two where only pieces of recordings are known.
        """
        if name == "next_action":
            following = np.concatenate([self.actions[1:], self.actions[:1]])
            return np.where(self.episode_ends[:, None], np.float32(0), following)
        if name == "next_action_mask":
            return (~self.episode_ends).astype(np.float32)
        if name == "return":
            return np.repeat(self.episode_returns(), self.episode_lengths()).astype(np.float32)
        if name == "success":
            return np.repeat(self.episode_success(), self.episode_lengths()).astype(np.float32)
        if name in self.extra:
            return self.extra[name]
        known = ", ".join([*DERIVED_COLUMNS, *sorted(self.extra)])
        raise DatasetError(f"data set {self.name!r} has no column {name!r}; it has: {known}")

    @checked(DatasetError)
    def to_minari(self, name: str, **details: str) -> None:
        """Write this set into Minari's local folder, under a name such as ``mine/hopper/noisy-v0``.

        details: what Minari keeps of a set: ``author``, ``author_email``, ``algorithm_name``, ``code_permalink`` and
            ``description`` (by default the provenance).

        ``minari:NAME`` reads the same rows, ends and environment back; further columns, and what is known of rows that
        are not here, are not kept. Raises `DatasetError` for a name that is taken and for episodes that are not
        unbroken recordings, `DependencyError` without the extra `minari`.
        """
        from adaptive_constraints.data.sources.minari_writing import write_minari

        write_minari(self, name, **details)

    # -- other sets of these rows ---------------------------------------------------------------------------------

    @checked(DatasetError)
    def subset(
        self, rows: ArrayLike | None = None, *, episodes: ArrayLike | slice | None = None, name: str | None = None
    ) -> Dataset:
        """Rows, or whole episodes, as a new set.

        rows: a mask [N] or ascending indices. The set knows the returns of the recordings that its rows come from,
            whether it has all of their rows or not.
        episodes: a mask [E], ascending numbers from 0, or a slice.

        >>> from adaptive_constraints import load_dataset
        >>> load_dataset("bundled:hopper").subset(episodes=[0, 2]).episodes
        2
        """
        return derivations.subset(self, rows, episodes, name)

    @checked(DatasetError)
    def top(self, fraction: Annotated[float, Between(0, 1, "(]")]) -> Dataset:
        """The share of the episodes whose returns are greatest (rounded down, at least one), in their old order.

        What behaviour cloning on the best x percent (BC-10%) imitates.
        """
        return derivations.top(self, fraction)

    @checked(DatasetError)
    def fraction(self, p: Annotated[float, Between(0, 1, "(]")], seed: Annotated[int, AtLeast(0)] = 0) -> Dataset:
        """Whole episodes, drawn at random, that have about a share ``p`` of the rows; at least one episode.

        Smaller fractions of one seed are contained in greater ones. Scarce data of 1, 5 or 10 percent is a test of
        robustness.
        """
        return derivations.fraction(self, p, seed)

    def concat(self, *others: Dataset) -> Dataset:
        """All rows of this set and others; ``Dataset.concat(a, b)`` is ``a.concat(b)``.

        Environment, task and further columns are kept where all agree on them. Raises `DatasetError` where dimensions
        or action bounds differ.
        """
        for other in (self, *others):
            if not isinstance(other, Dataset):
                raise DatasetError(f"concat: data sets are needed, as in Dataset.concat(a, b), not {other!r:.60}")
        return derivations.concat(self, others) if others else self

    @checked(DatasetError)
    def mix(
        self,
        other: Dataset,
        ratio: Annotated[float, Between(0, 1, "()")] = 0.5,
        *,
        rows: Annotated[int, AtLeast(1)] | None = None,
        seed: Annotated[int, AtLeast(0)] = 0,
    ) -> Dataset:
        """Whole episodes of two sets, drawn at random; ``Dataset.mix(a, b, 0.1)`` is ``a.mix(b, 0.1)``.

        ratio: the share of the rows that are of ``other``, as near as whole episodes allow.
        rows: how many in all, about; by default as many as there are for that share.

        Raises `DatasetError` as `concat` does, and for more rows than there are.
        """
        return derivations.mix(self, other, ratio, rows, seed)

    @checked(DatasetError)
    def add_action_noise(
        self,
        scale: Annotated[float, Above(0)],
        *,
        share: Annotated[float, Between(0, 1, "(]")] = 1.0,
        seed: Annotated[int, AtLeast(0)] = 0,
    ) -> Dataset:
        """The same rows with noise in what they say was done: Gaussian, then clipped to the action bounds.

        scale: standard deviation, in halves of the range of each action dimension (where bounds are -1 and 1, in
            units of the action).
        share: the share of the rows that get noise, each at random.
        """
        return derivations.add_action_noise(self, scale, share, seed)


def _given_facts(returns: ArrayLike | None, lengths: ArrayLike | None, success: ArrayLike | None) -> Facts | None:
    """Facts of recordings as `from_arrays` takes them: all or none."""
    if returns is None and lengths is None and success is None:
        return None
    if returns is None or lengths is None or success is None:
        raise DatasetError("recorded_returns, recorded_lengths and recorded_success go together; give all or none")
    facts = Facts(
        _columns.floats(_columns.flat("recorded_returns", returns), wide=True),
        _columns.whole("recorded_lengths", lengths, np.int64),
        _columns.whole("recorded_success", success, np.bool_),
    )
    if len({len(fact) for fact in facts}) > 1:
        raise DatasetError("recorded_returns, recorded_lengths and recorded_success need the same length")
    return facts


def _check_facts(facts: Facts, ids: Array) -> None:
    """Raise `DatasetError` unless there is one entry per episode, and no episode has more rows than its recording."""
    starts = starts_of(ids)
    _check_count(facts, len(starts))
    rows = np.diff(np.append(starts, len(ids)))
    if (short := np.flatnonzero(facts.lengths < rows)).size:
        raise DatasetError(
            f"recorded_lengths says {facts.lengths[short[0]]} steps of episode {short[0]}, which has "
            f"{rows[short[0]]} rows: a recording has at least as many steps as rows"
        )


def _check_count(facts: Facts, episodes: int) -> None:
    if len(facts.returns) != episodes:
        raise DatasetError(
            f"recorded_returns and its like need one entry for each of the {episodes} episodes, but have "
            f"{len(facts.returns)}: they go with the episode_ids that they were written with; leave them out with those"
        )


def _environment(env_id: str | None, env_spec: Any) -> tuple[str | None, dict[str, Any] | None]:
    """The id and the plain specification of an environment, which must be of one another."""
    if env_spec is None:
        return env_id, None
    spec = plain_env_spec(env_spec)
    if env_id is not None and env_id.rpartition(":")[2] != spec["id"].rpartition(":")[2]:
        raise DatasetError(f"env_id is {env_id!r}, but env_spec is of {spec['id']!r}: give one of them")
    return env_id or spec["id"], spec


def _surviving(ids: Array, keep: Array) -> Array:
    """Numbers of the episodes of which some row is kept."""
    return np.flatnonzero(np.logical_or.reduceat(keep, starts_of(ids)))
