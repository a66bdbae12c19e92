"""Columns as a data set keeps them: shapes, dtypes and bounds, checked; and how many rows are looked at at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.outside import DISCRETE, PIXELS

Array = NDArray[Any]

#: Rows that whole-array passes look at together, so that they need little memory beside the data.
ROWS_AT_ONCE = 1 << 14
#: Rows that statistics of a column are read off where all of them would take long.
SAMPLE = 50_000
#: Share of a column's spread that float32 may lose; where it would lose more, the column stays float64.
TOLERATED_LOSS = 1e-3
#: Added to a spread before it is compared: normalising adds as much to the standard deviation.
SPREAD_OFFSET = 1e-3


def chunks(rows: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices that cover ``rows`` rows in order."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def sampled(rows: int, count: int = SAMPLE) -> Array:
    """At most ``count`` row numbers, evenly spread and ascending; always the same ones."""
    return np.arange(rows) if rows <= count else np.linspace(0, rows - 1, count).astype(np.int64)


def numbers(name: str, value: ArrayLike) -> Array:
    """An array of numbers or truth values; raises `DatasetError` for anything else."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise DatasetError(f"{name} cannot be made an array ({error}); give every row the same length") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{name} must hold numbers, but its dtype is {array.dtype}; convert it first")
    return array


def matrix(name: str, value: ArrayLike) -> Array:
    """[N, D] as given; raises `DatasetError` for another shape."""
    array = numbers(name, value)
    if array.ndim != 2:
        hint = ""
        if array.ndim > 2 and "observations" in name:
            hint = f"; if these are images: {PIXELS}"
        elif array.ndim == 1:
            hint = f"; for one dimension, give {name}[:, None]"
            hint += (
                f". If they are numbers of choices: {DISCRETE}"
                if name == "actions" and array.dtype.kind in "biu"
                else ""
            )
        raise DatasetError(f"{name} must have shape [N, dimensions], but has {list(array.shape)}{hint}")
    return array


def flat(name: str, value: ArrayLike) -> Array:
    """[N] as given; a column vector [N, 1] is accepted."""
    array = numbers(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DatasetError(f"{name} must have shape [N], but has {list(array.shape)}")
    return array


def whole(name: str, value: ArrayLike, dtype: type[np.generic]) -> Array:
    """[N] of a boolean or integer ``dtype``, its own copy; raises `DatasetError` for values that it cannot hold."""
    array = flat(name, value)
    with np.errstate(invalid="ignore"):  # NaN as an integer: it differs from what it became
        converted = np.array(array, dtype)
    if (converted != array).any():
        kind = "0 or 1" if dtype is np.bool_ else "integers"
        raise DatasetError(f"{name} must hold {kind}, but row {int(np.argmax(converted != array))} does not")
    return converted


def floats(array: Array, wide: bool) -> Array:
    """Its own copy in C order, float64 if ``wide``, else float32; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(array, np.float64 if wide else np.float32, order="C")


def needs_float64(array: Array) -> bool:
    """Tell whether some column of [N] or [N, D] would lose more than `TOLERATED_LOSS` of its spread as float32."""
    exact = array.dtype.kind == "b" or (array.dtype.kind == "f" and array.dtype.itemsize <= 4)
    if exact or not array.size:
        return False
    loss, spread = float32_loss(array)
    return bool((loss > TOLERATED_LOSS * spread).any())


def float32_loss(array: Array) -> tuple[Array, Array]:
    """How far float32 rounds the values of each column, and how far they are spread: [D] each.

    Both are those of most rows, so that a few absurd values change neither. A column that never changes loses nothing.
    """
    values = np.atleast_2d(array[sampled(len(array))].T).astype(np.float64)  # [D, rows]
    loss, spread = np.zeros(len(values)), np.full(len(values), SPREAD_OFFSET)
    for number, column in enumerate(values):
        column = column[np.isfinite(column)]
        if len(column) and column.min() < column.max():
            low, high = np.quantile(column, (0.1, 0.9))
            with np.errstate(over="ignore"):
                spread[number] += high - low if high > low else column.std()
            loss[number] = np.quantile(np.abs(column), 0.9) * 2.0**-24
    return loss, spread


def check_rows(columns: Mapping[str, Array], extras: Mapping[str, Array]) -> None:
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


def bounds(low: ArrayLike, high: ArrayLike, dimensions: int) -> tuple[Array, Array]:
    """Action bounds as two [A] float32 arrays, ordered; they may be infinite, which `doctor` reports."""
    ends = []
    for name, value in (("action_low", low), ("action_high", high)):
        array = numbers(name, value)
        if array.shape not in ((), (dimensions,)):
            raise DatasetError(f"{name} must be one number or have shape [{dimensions}], but has {list(array.shape)}")
        ends.append(floats(np.broadcast_to(array, (dimensions,)), wide=False))
    if not (ends[0] < ends[1]).all():  # nor is anything less than NaN
        raise DatasetError(
            f"action bounds must be numbers with low < high, but they are {ends[0].tolist()} and {ends[1].tolist()}; "
            "pass action_low and action_high"
        )
    return ends[0], ends[1]


def read_only(array: Array) -> Array:
    """The array in C order, which nobody can write to."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
