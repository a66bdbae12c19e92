"""Data sets made of other ones: pure functions that say in the provenance what was done, and to which numbers.

`Dataset` has each of them as a method of the same name; those say what the arguments mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.data.columns import read_only
from adaptive_constraints.data.recordings import Facts, starts_of
from adaptive_constraints.errors import DatasetError

if TYPE_CHECKING:
    from adaptive_constraints.data.dataset import Dataset

Array = NDArray[Any]

ROW_COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts", "episode_ids")
"""The arrays [N, ...] that every data set has."""
DERIVATION, ORIGINS = "derivation", "derived_from"
"""Keys of the provenance: what was done to which fingerprints, and what those were called."""
_STREAMS = {"fraction": 1, "mix": 2, "add_action_noise": 3}
"""Second half of a random seed, so that operations of one seed draw different numbers."""
_LONGEST_LIST = 120
"""Characters of a list of episodes that a name repeats."""


def take_rows(dataset: Dataset, rows: ArrayLike, name: str | None = None) -> Dataset:
    """The given rows (a mask or ascending indices), with nothing said of it in the provenance."""
    try:
        index = np.arange(len(dataset))[_indices(rows)]
    except IndexError as error:
        raise DatasetError(f"subset needs a mask of {len(dataset)} rows or row indices ({error})") from error
    if len(index) and (np.diff(index) <= 0).any():
        raise DatasetError("subset needs ascending row indices, so that episodes keep their order of time")
    if not len(index):
        raise DatasetError(f"subset of {dataset.name!r} has no rows; take at least one")
    ids = dataset.episode_ids[index]
    origin = np.searchsorted(dataset.episode_starts, index[starts_of(ids)], side="right") - 1
    columns: dict[str, Any] = {key: read_only(getattr(dataset, key)[index]) for key in ROW_COLUMNS}
    return dataclasses.replace(
        dataset,
        **columns,
        name=name or f"{dataset.name}[{len(index)} rows]",
        extra={key: read_only(value[index]) for key, value in dataset.extra.items()},
    ).with_recorded(dataset.recorded.of(origin))


def _indices(given: Any) -> Any:
    """A mask or indices that numpy takes; an empty list has no type of its own."""
    array = given if isinstance(given, slice) else np.asarray(given)
    return array if isinstance(array, slice) or array.size or array.dtype == bool else array.astype(np.int64)


def subset(dataset: Dataset, rows: ArrayLike | None, episodes: Any, name: str | None) -> Dataset:
    """The given rows, or the given whole episodes."""
    if (rows is None) == (episodes is None):
        raise DatasetError("subset needs rows or episodes: give one of them")
    if rows is not None:
        part = take_rows(dataset, rows, name)
        return _said(part, f"subset({len(part)} rows)", dataset, name=part.name)
    return _episodes(
        dataset, chosen := _episode_numbers(dataset, episodes), f"subset(episodes={_ranges(chosen)})", name
    )


def _episode_numbers(dataset: Dataset, episodes: Any) -> Array:
    """[K] ascending numbers of episodes, of a mask [E], numbers or a slice."""
    try:
        chosen = np.arange(dataset.episodes)[_indices(episodes)]
        chosen = np.atleast_1d(chosen)
    except IndexError as error:
        raise DatasetError(
            f"subset needs a mask of the {dataset.episodes} episodes of {dataset.name!r}, or their numbers ({error})"
        ) from error
    if chosen.ndim != 1 or not len(chosen):
        raise DatasetError(f"subset of {dataset.name!r} has no episodes; take at least one of {dataset.episodes}")
    if (np.diff(chosen) <= 0).any():
        raise DatasetError("subset needs ascending episode numbers, each once")
    return chosen


def top(dataset: Dataset, fraction: float) -> Dataset:
    """The episodes of greatest return."""
    count = max(1, math.floor(fraction * dataset.episodes + 1e-9))  # 0.29 * 100 is below 29
    best = np.argsort(-dataset.episode_returns(), kind="stable")[:count]
    return _episodes(dataset, np.sort(best), f"top({fraction!r})")


def fraction(dataset: Dataset, p: float, seed: int) -> Dataset:
    """Whole episodes at random that have about a share of the rows."""
    chosen = _random_episodes(dataset, p * len(dataset), _random("fraction", seed))
    return _episodes(dataset, chosen, f"fraction({p!r}, seed={seed})")


def concat(dataset: Dataset, others: Sequence[Dataset]) -> Dataset:
    """All rows, one set after the other, in episodes of their own."""
    joined = _joined([dataset, *others])
    operands = ", ".join(_operand(other.name) for other in others)
    known = ", ".join(_known_as(other) for other in others)
    return _said(joined, f"concat({known})", dataset, *others, name=f"{dataset.name} | concat({operands})")


def mix(dataset: Dataset, other: Dataset, ratio: float, rows: int | None, seed: int) -> Dataset:
    """Whole episodes of two sets at random, such that a share of the rows is of the second."""
    most = min(len(dataset) / (1 - ratio), len(other) / ratio)
    if rows is not None and rows > most * (1 + 1e-9):
        raise DatasetError(
            f"mix: {rows} rows with a share of {ratio:g} of {other.name!r} are more than there are: at most {most:.0f}"
        )
    wanted = most if rows is None else rows
    draw = _random("mix", seed)
    parts = [
        take_rows(source, np.isin(_numbered(source), _random_episodes(source, share * wanted, draw)))
        for source, share in ((dataset, 1 - ratio), (other, ratio))
    ]
    options = f"{ratio!r}, {'' if rows is None else f'rows={rows}, '}seed={seed}"
    text, name = (f"mix({what}, {options})" for what in (_known_as(other), _operand(other.name)))
    return _said(_joined(parts), text, dataset, other, name=f"{dataset.name} | {name}")


def add_action_noise(dataset: Dataset, scale: float, share: float, seed: int) -> Dataset:
    """Actions with Gaussian noise, clipped to their bounds."""
    half = (dataset.action_high.astype(np.float64) - dataset.action_low) / 2
    if not np.isfinite(half).all():
        raise DatasetError(
            f"add_action_noise: {dataset.name!r} has no finite action bounds to measure noise by; give it action_low "
            "and action_high first (load_dataset takes them; on the command line, repair writes a file that has them)"
        )
    draw = _random("add_action_noise", seed)
    noise = scale * half * draw.standard_normal(dataset.actions.shape)
    hit = draw.random(len(dataset)) < share
    noisy = np.clip(dataset.actions + noise, dataset.action_low, dataset.action_high).astype(np.float32)
    changed = dataclasses.replace(dataset, actions=read_only(np.where(hit[:, None], noisy, dataset.actions)))
    text = f"add_action_noise({scale!r}, {'' if share == 1 else f'share={share!r}, '}seed={seed})"
    return _said(changed, text, dataset)


def _random(operation: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[operation]])


def _random_episodes(dataset: Dataset, rows: float, draw: np.random.Generator) -> Array:
    """[K] ascending numbers of episodes, in all as near to so many rows as the random order allows; at least one."""
    order = draw.permutation(dataset.episodes)
    reached = np.cumsum(dataset.episode_lengths()[order])
    return np.sort(order[: int(np.argmin(np.abs(reached - rows))) + 1])


def _numbered(dataset: Dataset) -> Array:
    """[N] number of the episode of each row, 0 to E - 1."""
    return np.repeat(np.arange(dataset.episodes), dataset.episode_lengths())


def _episodes(dataset: Dataset, chosen: Array, text: str, name: str | None = None) -> Dataset:
    """The whole episodes of these numbers."""
    part = take_rows(dataset, np.isin(_numbered(dataset), chosen))
    if not name and len(text) > _LONGEST_LIST:
        name = f"{dataset.name}[{len(chosen)} episodes]"
    return _said(part, text, dataset, name=name)


def _joined(parts: Sequence[Dataset]) -> Dataset:
    """All rows of several sets, with what they agree on; raises `DatasetError` where they are not of one kind."""
    first = parts[0]
    for other in parts[1:]:
        _check_alike(first, other)
    columns: dict[str, Any] = {
        key: read_only(np.concatenate([getattr(part, key) for part in parts])) for key in ROW_COLUMNS
    }
    before = np.cumsum([0, *(part.episodes for part in parts[:-1])])
    numbers = [_numbered(part) + offset for part, offset in zip(parts, before, strict=True)]
    columns["episode_ids"] = read_only(np.concatenate(numbers).astype(np.int64))
    env_id, env_spec = _common_environment(parts)
    kept = [key for key in first.extra if all(_has_like(part, key, first.extra[key]) for part in parts)]
    return dataclasses.replace(
        first,
        **columns,
        env_id=env_id,
        env_spec=env_spec,
        task=first.task if all(part.task == first.task for part in parts) else None,
        extra={key: read_only(np.concatenate([part.extra[key] for part in parts])) for key in kept},
        provenance=_common_provenance(parts),
    ).with_recorded(_joined_facts(parts))


def _check_alike(one: Dataset, other: Dataset) -> None:
    sizes = [(data.observation_dim, data.action_dim) for data in (one, other)]
    if sizes[0] != sizes[1]:
        raise DatasetError(
            f"data sets of one task are needed, but {one.name!r} has {sizes[0][0]} observation and {sizes[0][1]} "
            f"action dimensions, {other.name!r} has {sizes[1][0]} and {sizes[1][1]}"
        )
    if any((getattr(one, key) != getattr(other, key)).any() for key in ("action_low", "action_high")):
        bounds = [f"{data.action_low.tolist()} .. {data.action_high.tolist()}" for data in (one, other)]
        raise DatasetError(
            f"{one.name!r} and {other.name!r} bound actions differently ({bounds[0]} and {bounds[1]}); give both the "
            "same action_low and action_high (load_dataset and the command repair take them)"
        )


def _common_environment(parts: Sequence[Dataset]) -> tuple[str | None, Any]:
    """Id and specification that all parts name, a part without a specification naming none; None where they differ."""
    env_ids = {part.env_id for part in parts}
    specs = [part.env_spec for part in parts if part.env_spec is not None]
    if len(env_ids) > 1 or any(spec != specs[0] for spec in specs):
        return None, None
    return env_ids.pop(), specs[0] if specs else None


def _has_like(dataset: Dataset, key: str, column: Array) -> bool:
    there = dataset.extra.get(key)
    return there is not None and there.shape[1:] == column.shape[1:]


def _common_provenance(parts: Sequence[Dataset]) -> dict[str, str]:
    first = parts[0].provenance
    return {key: text for key, text in first.items() if all(part.provenance.get(key) == text for part in parts)}


def _joined_facts(parts: Sequence[Dataset]) -> Facts:
    """Facts of all recordings; those of a part that is pieces stay unknown beside parts that are whole."""
    facts = []
    for part in parts:
        known = part.recorded
        if part.recorded_returns is None and part.pieces:
            known = known._replace(returns=np.full(part.episodes, np.nan))
        facts.append(known)
    return Facts(*(np.concatenate(several) for several in zip(*facts, strict=True)))


def _said(derived: Dataset, text: str, *origins: Dataset, name: str | None = None) -> Dataset:
    """A derived set with what was done to which sets in its provenance, and by default in its name."""
    known = _joined_names(
        [origin.provenance.get(ORIGINS) or f"{origin.fingerprint}: {origin.name}" for origin in origins]
    )
    begun = origins[0].provenance.get(DERIVATION) or origins[0].fingerprint
    said = {DERIVATION: f"{begun} | {text}", ORIGINS: known}
    name = name or f"{origins[0].name} | {text}"
    return dataclasses.replace(derived, name=name, provenance={**derived.provenance, **said})


def _known_as(origin: Dataset) -> str:
    """What a derivation calls a set: its own derivation, or its fingerprint, which does not change with its place."""
    known = origin.provenance.get(DERIVATION)
    return _operand(known) if known else origin.fingerprint


def _joined_names(texts: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ")))


def _operand(name: str) -> str:
    """A reference as it stands among arguments."""
    return f"({name})" if "," in name or "|" in name else name


def _ranges(numbers: Array) -> str:
    """Ascending numbers as text: "0:3+7" for 0, 1, 2, 7."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = np.split(numbers, cuts)
    return "+".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}:{run[-1] + 1}" for run in runs)


__all__ = [
    "DERIVATION",
    "ORIGINS",
    "ROW_COLUMNS",
    "add_action_noise",
    "concat",
    "fraction",
    "mix",
    "subset",
    "take_rows",
    "top",
]
