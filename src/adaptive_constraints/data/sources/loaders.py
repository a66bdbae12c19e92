"""`load_dataset("scheme:reference")` for every kind of source, and `save_npz` for the one that we write."""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.repair.repairs import Repairs
from adaptive_constraints.data.sources import ogbench_sets
from adaptive_constraints.data.sources.expressions import parse, sources_of
from adaptive_constraints.data.sources.files import import_extra, reading, suggest
from adaptive_constraints.data.sources.hdf5 import load_hdf5
from adaptive_constraints.data.sources.minari_sets import check_minari, load_minari, local_minari_names
from adaptive_constraints.data.sources.npz import load_npz, read_npz
from adaptive_constraints.data.sources.scripted import check_source, load_scripted, scripted_names
from adaptive_constraints.data.sources.tables import SUFFIXES, check_table, load_table
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.arguments import checked

Array = NDArray[Any]


@checked(DatasetError)
def load_dataset(
    reference: str,
    *,
    download: bool = False,
    ignore: Sequence[str] = (),
    action_low: float | Sequence[float] | None = None,
    action_high: float | Sequence[float] | None = None,
    renumber_episodes: bool = False,
    mark_ends: bool = False,
    split_at_joins: bool = False,
    relabel_timeouts: bool = False,
    derive_next_observations: bool = False,
    drop_bad_rows: bool = False,
    clip_actions: bool = False,
) -> Dataset:
    """Load a data set by reference; raises `DatasetError` listing what is there if it cannot be found or read.

    - `bundled:hopper`: shipped with this package.
    - `scripted:pointmaze/umaze` (medium, large): collected here on first use and kept in the cache folder.
    - `scripted:pendulum/mixed` (random, expert, mixed-5, mixed-30, slips, weak, med-exp): rolled out from a recipe.
      `#draw=3` behind either is another data set of the same recipe.
    - `minari:NAMESPACE/NAME-v0`: from Minari's local folder (`MINARI_DATASETS_PATH`); fetched only if `download`.
      Observations that are dictionaries become vectors of all parts, or of those that `#obs=PART+PART` names.
    - `ogbench:NAME-singletask-v0`: from OGBench's folder, with one task's rewards; fetched only if `download`.
    - `d4rl:FILE.hdf5`: a file in D4RL's layout, read without the d4rl package, or one of d3rlpy (1 or 2).
    - `npz:FILE`: arrays named as in `Dataset`, or what `save_npz` wrote, or a file of NeoRL-2.
    - `table:FILE#obs=x+y,action=u,reward=r`: CSV, Parquet, Arrow, a folder of them, a Hugging Face or LeRobot data set.

    Behind any of them, `Dataset`'s methods derive other sets: ``bundled:hopper | fraction(0.1, seed=3)``, or
    ``A | mix(B | top(0.1), 0.5)``. What is loaded in such a way has that reference as its name.

    Files may also name their arrays obs, act, rew, done, terminated, truncated, next_obs and the like.

    ignore: arrays or groups of a file to leave out; `*` stands for any text. Others of unknown meaning are an error.
    action_low and all that follows: see `Repairs`, whose fields they are; nothing is mended unasked, and a derived set
    is mended last. The command `adaptive-constraints repair` does the same and writes the result as npz.
    """
    check_reference(reference)
    repairs = Repairs(
        action_low=action_low,
        action_high=action_high,
        renumber_episodes=renumber_episodes,
        mark_ends=mark_ends,
        split_at_joins=split_at_joins,
        relabel_timeouts=relabel_timeouts,
        derive_next_observations=derive_next_observations,
        drop_bad_rows=drop_bad_rows,
        clip_actions=clip_actions,
    )
    dataset = parse(reference).load(lambda source: _load(source, download, ignore))
    return repairs.apply(dataset)[0]


def _load(reference: str, download: bool, ignore: Sequence[str]) -> Dataset:
    """The data set of a checked reference, as it is."""
    scheme, _, rest = reference.partition(":")
    if scheme in _FILE_SCHEMES:
        return _FILE_SCHEMES[scheme](rest, ignore)
    if ignore:
        raise DatasetError(f"ignore is for arrays of a file ({', '.join(_FILE_SCHEMES)}), not for {reference}")
    fetching = _FETCHING_SCHEMES.get(scheme)
    return fetching(rest, download) if fetching else _LOCAL_SCHEMES[scheme](rest)


def check_reference(reference: str) -> None:
    """Raise `DatasetError` for what can be no data reference, without looking whether files are here."""
    for source in sources_of(reference):
        _check_source(source)


def _check_source(reference: str) -> None:
    scheme, colon, rest = reference.partition(":")
    if not (colon and rest and scheme in {*_FETCHING_SCHEMES, *_LOCAL_SCHEMES, *_FILE_SCHEMES}):
        hint = _meant(reference)
        raise DatasetError(f"unknown data reference {reference!r}; {hint}use one of: {', '.join(_USAGES)}")
    if scheme == "bundled" and rest not in (names := _bundled_names()):
        raise DatasetError(f"no bundled data set {rest!r}; {suggest(rest, names)}")
    if scheme == "scripted":
        check_source(rest)
    if scheme == "ogbench":
        ogbench_sets.check_name(rest)
    if scheme == "minari":
        check_minari(rest)
    if scheme == "table":
        check_table(rest)


def _meant(reference: str) -> str:
    """A question that names the reference of a file, by what its name ends in; "" otherwise."""
    scheme, colon, rest = reference.partition(":")
    name = rest if colon and scheme.isidentifier() else reference
    meant = _SCHEME_OF_SUFFIX.get(Path(name).suffix.lower())
    return f"did you mean {meant}:{name}? " if meant else ""


def list_datasets() -> list[str]:
    """References that load without a download: bundled sets, then those that the installed extras can make or read."""
    bundled = [f"bundled:{name}" for name in _bundled_names()]
    minari = [f"minari:{name}" for name in local_minari_names()]
    return bundled + scripted_names() + minari + [f"ogbench:{name}" for name in _local_ogbench_names()]


def without_folders(reference: str) -> str:
    """The reference with its files named alone: ``npz:few.npz`` of ``npz:/some/where/few.npz``."""
    schemes = "|".join(_FILE_SCHEMES)
    return re.sub(rf"\b({schemes}):[^|#,()]*[/\\]", r"\1:", reference)


def _load_ogbench(name: str, download: bool) -> Dataset:
    ogbench = import_extra("ogbench", "ogbench")
    with reading(f"ogbench:{name}", "data set of OGBench"):
        return ogbench_sets.load_single_task(ogbench, name, download)


def _load_bundled(name: str) -> Dataset:
    resource = importlib.resources.files("adaptive_constraints.data") / "bundled" / f"{name}.npz"
    with importlib.resources.as_file(resource) as path:
        return read_npz(path, f"bundled:{name}")


def _bundled_names() -> list[str]:
    folder = importlib.resources.files("adaptive_constraints.data") / "bundled"
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".npz") for entry in folder.iterdir() if entry.name.endswith(".npz"))


def _local_ogbench_names() -> list[str]:
    return ogbench_sets.local_names() if importlib.util.find_spec("ogbench") else []


_LOCAL_SCHEMES: dict[str, Callable[[str], Dataset]] = {"bundled": _load_bundled, "scripted": load_scripted}
_FILE_SCHEMES: dict[str, Callable[[str, Sequence[str]], Dataset]] = {
    "d4rl": load_hdf5,
    "npz": load_npz,
    "table": load_table,
}
_FETCHING_SCHEMES: dict[str, Callable[[str, bool], Dataset]] = {"minari": load_minari, "ogbench": _load_ogbench}
_SCHEME_OF_SUFFIX = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl", **dict.fromkeys(SUFFIXES, "table")}
_USAGES = (
    "bundled:NAME",
    "scripted:pointmaze/NAME",
    "scripted:pendulum/NAME",
    "minari:NAMESPACE/NAME-v0",
    "ogbench:NAME-singletask-v0",
    "d4rl:FILE.hdf5",
    "npz:FILE.npz",
    "table:FILE.csv",
)
