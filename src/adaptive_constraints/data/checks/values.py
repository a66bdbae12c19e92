"""Checks of values: absurd ones, those that never change or repeat, and those that float32 or a setting spoils."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.checks.findings import Finding, Severity, at
from adaptive_constraints.data.columns import TOLERATED_LOSS, chunks, float32_loss, sampled
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.recordings import facts_of

Array = NDArray[Any]

#: Share of repeated rows above which they are worth a warning.
_MANY_DUPLICATES = 0.01
#: Shares of all rewards that are much to be dropped: where that is more than the rows' own share, and in any case.
_MUCH_REWARD, _NEARLY_ALL = 0.1, 0.9
#: A reward, or an observation's deviation, is absurd beyond so many times the quantile of those that are not 0: what
#: most data reach, and what half of it reaches (where absurd values are many).
_ABSURD_REWARD, _ABSURD_OBSERVATION = ((0.99, 1e4), (0.5, 1e8)), ((0.99, 1e3), (0.5, 1e8))


def check_duplicates(dataset: Dataset) -> Iterator[Finding]:
    """Transitions that are there more than once, bit for bit."""
    repeated = _repeated(dataset)
    severity: Severity = "warning" if repeated.mean() > _MANY_DUPLICATES else "note"
    way_out = "harmless if the task repeats itself; otherwise drop the copies: dataset.subset(rows)"
    yield from at(repeated, severity, "duplicates", "{n} rows repeat an earlier transition exactly", way_out)


def _repeated(dataset: Dataset) -> Array:
    """[N] bool: an earlier row is the same, bit for bit. Rows are compared where their hashes agree."""
    rows = len(dataset)
    hashes = np.empty(rows, np.uint64)
    for part in chunks(rows):
        hashes[part] = _hashed(_packed(dataset, part))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    starts = np.append(True, hashes[1:] != hashes[:-1])
    again = np.flatnonzero(~starts)
    first = np.maximum.accumulate(np.where(starts, np.arange(rows), 0))[again]  # of the same hash
    repeated = np.zeros(rows, bool)
    odd = []
    for part in chunks(len(again)):
        one, other = order[again[part]], order[first[part]]
        same = (_packed(dataset, one) == _packed(dataset, other)).all(axis=1)
        repeated[one[same]] = True
        odd.append(one[~same])
    unlike = np.concatenate([*odd, np.zeros(0, np.int64)]).astype(np.int64)  # different rows of one hash: few, if any
    seen: set[bytes] = set()
    for row in np.sort(unlike):
        content = _packed(dataset, slice(row, row + 1)).tobytes()
        repeated[row] |= content in seen
        seen.add(content)
    return repeated


def _packed(dataset: Dataset, rows: Any) -> Array:
    """[M, W] the bits of some transitions, as unsigned integers."""
    columns = (dataset.observations, dataset.actions, dataset.rewards[:, None], dataset.next_observations)
    packed = np.ascontiguousarray(np.concatenate([column[rows] for column in columns], axis=1))
    return packed.view(np.uint32)


def _hashed(words: Array) -> Array:
    """[M] 64-bit hash of rows [M, W]."""
    hashes = np.full(len(words), 0x9E3779B97F4A7C15, np.uint64)
    for column in words.T:
        hashes = (hashes ^ column) * np.uint64(0xBF58476D1CE4E5B9)  # wraps around
        hashes ^= hashes >> np.uint64(29)
    return hashes


def check_constants(dataset: Dataset) -> Iterator[Finding]:
    """Columns that say nothing."""
    constant = constant_dimensions(dataset.observations)
    if len(constant):
        message = f"observation dimensions {constant.tolist()} never change"
        way_out = "drop them if evaluation does not change them either; nothing is learned of what they do"
        yield Finding("warning", "constant_dimensions", message, way_out)
    if len(constant_dimensions(dataset.rewards[:, None])):
        message = f"every reward is {dataset.rewards[0]:g}"
        yield Finding("warning", "constant_rewards", message, "there is little to learn from; check the reward column")


def check_missing_rewards(dataset: Dataset) -> Iterator[Finding]:
    """Rewards of last rows that were dropped, where they are much of all rewards: learners do not see them."""
    known, here = dataset.recorded, facts_of(dataset.rewards, dataset.terminals, dataset.episode_ids)
    missing = np.abs(known.returns - here.returns)
    rows = int((known.lengths - here.lengths).sum())
    share = missing.sum() / max(missing.sum() + np.abs(dataset.rewards, dtype=np.float64).sum(), 1e-300)
    few = rows <= dataset.episodes  # the rest is a part that somebody chose
    if few and share > min(max(_MUCH_REWARD, 3 * rows / (rows + len(dataset))), _NEARLY_ALL):
        message = (
            f"{int((missing > 0).sum())} rows that had no next observation were dropped, with rewards of "
            f"{(known.returns - here.returns).sum():g} in all, which returns count and learners do not see"
        )
        way_out = "record next_observations too, so that these rows stay (on the command line, in the file)"
        yield Finding("warning", "dropped_rewards", message, way_out)


def constant_dimensions(array: Array) -> Array:
    """Numbers of the columns of [N, D] that are the same in every row."""
    constant = np.ones(array.shape[1], bool)
    for part in chunks(len(array)):
        constant &= (array[part] == array[0]).all(axis=0)
        if not constant.any():
            break
    return np.flatnonzero(constant)


def check_outliers(dataset: Dataset) -> Iterator[Finding]:
    """Values that are finite and absurd: a sensor's fill value, an overflow."""
    way_out = (
        "repair these rows, or drop them: dataset.subset(rows); for the command line, save_npz(subset, FILE) and "
        "--data npz:FILE"
    )
    limit = _limit(np.abs(dataset.rewards), _ABSURD_REWARD)
    absurd = np.abs(dataset.rewards) > limit
    if absurd.any():
        value = dataset.rewards[int(np.argmax(absurd))]
        message = (
            f"the reward of {{n}} rows is absurdly large, such as {value:g}, where most are within {limit / 1e4:.3g}"
        )
        yield from at(absurd, "warning", "reward_outliers", message, way_out)
    for name in ("observations", "next_observations"):
        yield from _observation_outliers(dataset, name, way_out)


def _observation_outliers(dataset: Dataset, name: str, way_out: str) -> Iterator[Finding]:
    array = getattr(dataset, name)
    sample = array[sampled(len(array))].astype(np.float64)
    middle = np.median(np.where(np.isfinite(sample), sample, 0.0), axis=0)
    limits = np.array([_limit(np.abs(column), _ABSURD_OBSERVATION) for column in (sample - middle).T])
    absurd = np.zeros(len(array), bool)
    columns = np.zeros(array.shape[1], bool)
    for part in chunks(len(array)):
        far = np.abs(array[part] - middle) > limits
        absurd[part] = far.any(axis=1)
        columns |= far.any(axis=0)
    if absurd.any():
        row, column = int(np.argmax(absurd)), int(np.argmax(np.abs(array[np.argmax(absurd)] - middle) / limits))
        message = (
            f"{name} of {{n}} rows are absurdly far from the others in dimensions {np.flatnonzero(columns).tolist()}, "
            f"such as {array[row, column]:g} where most are near {middle[column]:g}"
        )
        yield from at(absurd, "warning", "observation_outliers", message, way_out)


def _limit(magnitudes: Array, rules: tuple[tuple[float, float], ...]) -> float:
    """The magnitude beyond which one is absurd; infinite where there are too few to tell."""
    known = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
    if len(known) < 10:
        if len(magnitudes) < 10 or not len(known):
            return np.inf
        # Nearly all are 0: beside the largest there is only the next one, or nothing at all, to compare with.
        usual = np.partition(known, -2)[-2] * 1e4 if len(known) > 1 else 1e8
        return float(max(usual, 1e4))
    known = known[sampled(len(known))].astype(np.float64)
    with np.errstate(over="ignore"):
        return float(min(np.quantile(known, share, method="lower") * times for share, times in rules))


def check_given_precision(dataset: Dataset) -> Iterator[Finding]:
    """Find what float32 lost before the data came here, and what only centring keeps."""
    for name, array in _columns_of(dataset):
        message = _losses(name, array)
        if message and array.dtype == np.float32:
            kept = "" if name == "actions" else "give it as float64, or "  # actions are float32 always
            way_out = f"{kept}subtract its mean before it becomes float32; no option brings it back"
            yield Finding("warning", "precision", message, way_out)
        elif message:
            yield Finding("note", "precision", message, f"nothing is lost with {_CENTRED[name]}")


def check_precision(dataset: Dataset, normalize_observations: bool, reward_shift: float | str) -> Iterator[Finding]:
    """Find what float32 loses of float64 columns that these settings do not centre."""
    centred = {"observations": normalize_observations, "rewards": reward_shift == "dataset_mean"}
    for name, array in _columns_of(dataset):
        message = _losses(name, array) if array.dtype != np.float32 and not centred[name] else ""
        if message:
            way_out = f"use {_CENTRED[name]}, a setting of the learner there and on the command line, or centre it"
            yield Finding("warning", "precision", message, way_out)


_CENTRED = {"observations": "normalize_observations=True", "rewards": "reward_shift='dataset_mean'"}
_COLUMNS_SHOWN = 5


def _columns_of(dataset: Dataset) -> tuple[tuple[str, Array], ...]:
    columns = ("observations", dataset.observations), ("rewards", dataset.rewards[:, None])
    return (*columns, ("actions", dataset.actions))


def _losses(name: str, array: Array) -> str:
    """In words, the columns that float32 would lose, or has lost, too much of; empty where there are none."""
    loss, spread = float32_loss(array)
    coarse = np.flatnonzero(loss > TOLERATED_LOSS * spread)
    words = []
    for number in coarse[:_COLUMNS_SHOWN]:
        middle = float(np.median(array[sampled(len(array)), number]))
        what = "they" if name == "rewards" else f"dimension {number}"
        words.append(f"{what} near {middle:.6g} by up to {loss[number]:.2g}, with a spread of {spread[number]:.2g}")
    more = f"; and {len(coarse) - len(words)} more" if len(coarse) > len(words) else ""
    return f"float32 rounds {name} too coarsely: {'; '.join(words)}{more}" if words else ""


def check_scaling(dataset: Dataset, reward_scale: float | str, reward_shift: float | str) -> Iterator[Finding]:
    """Part for rewards of 0 and 1 on rewards that are shifted already, to -1 and 0."""
    if isinstance(reward_shift, str) or isinstance(reward_scale, str) or not reward_shift < 0:
        return
    levels = np.unique(dataset.rewards[sampled(len(dataset))])
    if len(levels) == 2 and levels[0] < 0 == levels[1] and not (dataset.rewards > 0).any():
        low, high = (reward_scale * float(level) + reward_shift for level in levels)
        message = (
            f"rewards are {levels[0]:g} and 0, as if shifted already, and reward_scale={reward_scale:g} with "
            f"reward_shift={reward_shift:g} makes them {low:g} and {high:g}"
        )
        way_out = (
            "settings such as the presets for antmaze are meant for rewards of 0 and 1: use reward_shift=0, or add 1 "
            "to the rewards (on the command line, the same setting of the learner)"
        )
        yield Finding("warning", "shifted_rewards", message, way_out)


CHECKS = (check_duplicates, check_constants, check_missing_rewards, check_outliers, check_given_precision)
