"""`scripted:pointmaze/umaze` and `scripted:pendulum/mixed`: data that is made here.

Mazes need a simulator and minutes, so what was collected is kept; pendulums are rolled out anew each time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from pathlib import Path

from adaptive_constraints.data.collecting.collect import collect, default_size, versions
from adaptive_constraints.data.collecting.mazes import DECLARED
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.sources.files import suggest
from adaptive_constraints.data.sources.npz import load_npz
from adaptive_constraints.data.sources.pendulum_sets import FAMILY, RECIPES, pendulum_set
from adaptive_constraints.environments import maze_tasks
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.files import cache_folder, locked
from adaptive_constraints.support.typed import damage

_DECIDING = ("adaptive-constraints", "numpy", "gymnasium", "gymnasium-robotics", "mujoco")
"""Packages whose versions may change the rows."""


DRAW = "#draw="
"""Between the name of a recipe and the number of the data set that is drawn from it."""


def load_scripted(source: str) -> Dataset:
    """Rows of a source: pendulum/mixed, pointmaze/umaze, or with #draw=3 of another data set of the same recipe.

    A maze's are those that `adaptive-constraints collect` makes by default, with the draw as its seed, cached where
    possible; the same versions give the same rows. A damaged file is made anew; of two processes, the second waits.
    Raises `DatasetError` for an unknown source and `DependencyError` where a maze lacks the extra `robotics`.
    """
    check_source(source)
    recipe, draw = _recipe(source)
    pendulum = recipe.startswith(FAMILY)
    data = pendulum_set(recipe.removeprefix(FAMILY), draw) if pendulum else _maze_set(recipe, draw)
    declared = {} if pendulum else DECLARED  # files kept by earlier versions do not have it
    return dataclasses.replace(data, name=f"scripted:{source}", provenance={**declared, **data.provenance})


def check_source(source: str) -> None:
    """Raise `DatasetError` for a source that there is not."""
    _recipe(source)


_FAMILIES = {FAMILY: "{" + ",".join(RECIPES) + "}", maze_tasks.FAMILY: "{" + ",".join(maze_tasks.MAZES) + "}"}


def scripted_names() -> list[str]:
    """References of the data that can be made here."""
    return [f"scripted:{FAMILY}{recipe}" for recipe in RECIPES] + maze_tasks.scripted_names()


def drawn(reference: str, draw: int) -> str:
    """The reference with one draw of each recipe in it that names none yet; what is no recipe stays as it is.

    >>> from adaptive_constraints.data.sources.scripted import drawn
    >>> drawn("scripted:pointmaze/umaze | fraction(0.5)", 1)
    'scripted:pointmaze/umaze#draw=1 | fraction(0.5)'
    """
    return _UNDRAWN.sub(rf"\g<0>{DRAW}{draw}", reference)


def undrawn(reference: str) -> str:
    """The reference without the numbers of draws: ``scripted:pendulum/mixed`` of ``scripted:pendulum/mixed#draw=1``."""
    return _NUMBERED.sub("", reference)


def draws_of(reference: str) -> str:
    """The numbers of draws in a reference, such as ``1``; empty where there is none."""
    return ", ".join(dict.fromkeys(found[1] for found in _NUMBERED.finditer(reference)))


_SOURCES = [FAMILY + recipe for recipe in RECIPES] + [maze_tasks.FAMILY + maze for maze in maze_tasks.MAZES]
_UNDRAWN = re.compile(rf"scripted:(?:{'|'.join(sorted(_SOURCES, key=len, reverse=True))})(?![\w#-])")
_NUMBERED = re.compile(rf"{DRAW}(\d+)")


def _recipe(source: str) -> tuple[str, int]:
    """Recipe and draw of a source: pendulum/mixed#draw=3 -> pendulum/mixed, 3. Raises `DatasetError`."""
    recipe, given, number = source.partition(DRAW)
    if recipe not in _SOURCES:
        family = next((family for family in _FAMILIES if recipe.startswith(family)), None)
        known = ", ".join(f"{family}{names}" for family, names in _FAMILIES.items())
        near = [name for name in _SOURCES if family and name.startswith(family)]
        raise DatasetError(f"no scripted data {source!r}; {suggest(recipe, near) if near else f'there: {known}'}")
    if given and not (number.isascii() and number.isdigit()):
        raise DatasetError(f"scripted:{source}: the draw is a whole number from 0, as in {recipe}{DRAW}1")
    return recipe, int(number or 0)


def _maze_set(source: str, draw: int) -> Dataset:
    """The kept file of one draw of a maze, collected where it is missing or damaged."""
    file = kept_file(source, draw)
    data, _ = what_is_kept(file)
    if data is None:
        with locked(file.parent, lambda _: None, name=f".{file.stem}.lock"):
            data, reason = what_is_kept(file)  # another process may have collected it meanwhile
            if data is None:
                if os.path.isfile(file):  # False, not an error, where the folder may not be looked at
                    print(f"what is kept is damaged and made anew: {reason}", file=sys.stderr, flush=True)
                data = collect_anew(source, draw, file)
    return data


def what_is_kept(file: Path) -> tuple[Dataset | None, str]:
    """The file that the cache keeps; None and the reason where there is none, or not as its manifest says."""
    manifest = file.with_suffix(".json")
    try:
        data = load_npz(str(file))
        with damage(DatasetError, f"{manifest} is not the manifest of {file}", "it was changed"):
            if json.loads(manifest.read_bytes())["fingerprint"] != data.fingerprint:
                raise ValueError("another fingerprint")
    except DatasetError as error:
        return None, str(error)
    return data, ""


def collect_anew(source: str, draw: int, file: Path) -> Dataset:
    """Collect one draw of a source and keep it in this file."""
    steps, keep = default_size(source)
    print(
        f"collecting draw {draw} of scripted:{source}, {steps:,} steps, once; it is kept in {file}",
        file=sys.stderr,
        flush=True,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    return collect(source, file, steps, keep, draw)


def kept_file(source: str, draw: int) -> Path:
    """Name the file of the cache that keeps a draw of a source, as these versions of the simulators collect it."""
    installed = versions()
    key = [source, default_size(source), draw, {name: installed[name] for name in _DECIDING}]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    return cache_folder() / f"scripted-{source.replace('/', '-')}-{digest}.npz"
