"""From the arrays of a file, in our names or those of other libraries, to the arguments of `Dataset.from_arrays`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.files import SKIPPED_GROUPS, ArrayFile, listed, suggest
from adaptive_constraints.data.sources.neorl import is_neorl, read_neorl
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.outside import DISCRETE

Array = NDArray[Any]

REQUIRED = ("observations", "actions", "rewards", "terminals")
_RECORDED = ("recorded_returns", "recorded_lengths", "recorded_success")
"""Facts [E] of recordings whose rows are not all there."""
OPTIONAL = ("next_observations", "timeouts", "episode_ids", "action_low", "action_high", *_RECORDED)
EXTRA = "extra/"
"""Begins the name of a further column."""
OTHER_NAMES = {
    "observations": ("obs", "observation"),  # DI-engine, Tianshou
    "actions": ("act", "action"),
    "rewards": ("rew", "reward"),
    "next_observations": ("next_obs", "obs_next", "next_observation"),
    "terminals": ("terminal", "terminated", "terminations"),
    "timeouts": ("timeout", "truncated", "truncations"),
    "done": ("dones",),  # a true end or a time limit, as Gym once reported them
    "episode_terminals": (),  # d3rlpy 1: the last row of every recording
}
"""Names that other libraries give to what we call so."""
_ROLE_OF = {"terminals": "terminal", "timeouts": "timeout", "done": "done"}
"""Ends as references to tables name them."""
_OURS = {name: name for name in (*REQUIRED, *OPTIONAL, *OTHER_NAMES)} | {
    other: ours for ours, others in OTHER_NAMES.items() for other in others
}
_D3RLPY_1 = ("version", "discrete_action", "create_mask", "mask_size")
_D3RLPY_2 = ("version", "columns", "num_episodes", "total_size")
_EPISODE_COLUMNS = ("observations", "actions", "rewards", "terminated")


def read_columns(file: ArrayFile, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of `Dataset.from_arrays` that a file gives: arrays by our names, and `extra`.

    ignore: names of arrays or groups to leave out; `*` stands for any text.

    D4RL's groups `infos` and `metadata` are left out. Raises `DatasetError` for any other array whose meaning is not
    known, for one that is missing, and for flags that contradict each other.
    """
    names = _without(file, ignore)
    if all(f"{column}_0" in names for column in _EPISODE_COLUMNS):
        return _of_episodes(file, names)
    if is_neorl(names):
        return read_neorl(dataclasses.replace(file, names=tuple(names)))
    if "episode_terminals" in names:
        _refuse_discrete(file, names)
        names = [name for name in names if name not in _D3RLPY_1]
    extra = {name.removeprefix(EXTRA): file.read(name) for name in names if name.startswith(EXTRA)}
    recognized = _recognized(file, [name for name in names if not name.startswith(EXTRA)])
    columns = {ours: file.read(name) for ours, name in recognized.items()}
    read_ends(columns)
    return columns | {"extra": extra}


def require(file: ArrayFile, held: Iterable[str], needed: Iterable[str] = REQUIRED) -> None:
    """Raise `DatasetError` with what the file holds if any needed name is not held."""
    held = set(held)
    missing = [name for name in needed if name not in held]
    if not missing:
        return
    groups = [name for name in missing if any(other.startswith(f"{name}/") for other in file.names)]
    if groups:
        raise DatasetError(f"{file.path} is not in D4RL's layout: {', '.join(groups)} must be arrays, not groups")
    minari = any(re.match(r"episode_\d+/", name) for name in file.names)
    hint = " (it looks like the file inside a data set of Minari: load that as minari:NAME)" if minari else ""
    raise DatasetError(
        f"{file.path} lacks the arrays {', '.join(missing)}; it holds: {listed(_collapsed(file.names))}{hint}"
    )


def _without(file: ArrayFile, ignore: Sequence[str]) -> list[str]:
    """The names of the file less those that are ignored, each of which must be there."""
    for pattern in ignore:
        if not any(_matches(name, pattern) for name in file.names):
            raise DatasetError(f"{file.path} has no array {pattern!r} to ignore; {suggest(pattern, file.names)}")
    ignored = (*ignore, *(f"{group}/*" for group in SKIPPED_GROUPS))
    return [name for name in file.names if not any(_matches(name, pattern) for pattern in ignored)]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern) or name.startswith(f"{pattern}/")


def _recognized(file: ArrayFile, names: Sequence[str]) -> dict[str, str]:
    """Our name -> the file's, for every name; raises `DatasetError` for unknown and for doubled meanings."""
    recognized: dict[str, str] = {}
    for name in names:
        ours = _OURS.get(name)
        if ours in recognized:
            raise DatasetError(f"{file.path} holds both {recognized[ours]} and {name}: {_leave_out(file, [name])}")
        if ours is not None:
            recognized[ours] = name
    ends = {"terminals"} if recognized.keys() & {"terminals", "done"} else set()
    require(file, recognized.keys() | ends)
    unknown = _collapsed(name for name in names if name not in _OURS)
    if unknown:
        raise DatasetError(
            f"{file.path} holds arrays of unknown meaning: {listed(unknown)}; name further columns 'extra/NAME', or "
            f"{_leave_out(file, unknown)}. Known: {', '.join(_OURS)}"
        )
    return recognized


def _leave_out(file: ArrayFile, names: Sequence[str]) -> str:
    scheme = "npz" if file.path.suffix == ".npz" else "d4rl"
    quoted = " ".join(f"'{name}'" if re.search(r"[^\w./-]", name) else name for name in names)
    return (
        f"leave them out with load_dataset(..., ignore={list(names)}) or "
        f"adaptive-constraints repair {scheme}:{file.path} OUT.npz --ignore {quoted}"
    )


def _collapsed(names: Iterable[str]) -> list[str]:
    """Names with one pattern for those that differ in a last number only, such as "embeddings_*"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=_)\d+(?=/|$)", "*", name), []).append(name)
    return [members[0] if len(members) == 1 else pattern for pattern, members in groups.items()]


def read_ends(columns: dict[str, Any], table: Mapping[str, str] | None = None) -> None:
    """Combine `done` and `episode_terminals` into terminals and timeouts, in place.

    table: names of the table's columns by ours, where a reference says which is which; errors say what to write there.

    `done` alone counts as terminal, as its readers take it; the doctor then looks for a time limit among its rows.
    """
    done, last = columns.pop("done", None), columns.pop("episode_terminals", None)
    if done is None and last is None:
        return
    given = {"terminals": columns.get("terminals"), "timeouts": columns.get("timeouts")}
    named = given | {"done": done, "episode_terminals": last}
    flags = {name: _flags(name, array) for name, array in named.items() if array is not None}
    if len({len(flag) for flag in flags.values()}) > 1:
        lengths = ", ".join(f"{name} {len(flag)}" for name, flag in flags.items())
        raise DatasetError(f"all columns need the same number of rows, but they have: {lengths}")
    none = np.zeros(len(next(iter(flags.values()))), bool)
    timeouts = flags.get("timeouts", none)
    if "done" in flags:
        terminals = flags.get("terminals", flags["done"] & ~timeouts)
        if "timeouts" not in flags:
            timeouts = flags["done"] & ~terminals
        apart = flags["done"] != (terminals | timeouts)
        if apart.any():
            row = int(np.argmax(apart))
            raise DatasetError(
                f"done is not 'terminal or timeout' in {int(apart.sum())} rows (the first: {row}): "
                f"{_done_remedy(flags, timeouts, table)}"
            )
        flags["terminals"] = terminals
    timeouts = timeouts | (flags.get("episode_terminals", none) & ~flags["terminals"])
    columns |= {"terminals": flags["terminals"], "timeouts": timeouts}


def _done_remedy(flags: Mapping[str, Array], timeouts: Array, table: Mapping[str, str] | None) -> str:
    """What to write where `done` contradicts the other ends."""
    said = {} if table is None else table
    names = {name: said.get(name, name) for name in ("done", "terminals", "timeouts")}

    def write(**roles: str) -> str:
        if table is None:
            return "in the file, " + " and ".join(f"name {names[column]} {ours}" for ours, column in roles.items())
        return "write " + ",".join(f"{_ROLE_OF[ours]}={names[column]}" for ours, column in roles.items())

    without = "leave done out (ignore=['done'], on the command line repair ... --ignore done)"
    if "terminals" not in flags:  # some timeouts are not done
        return f"if it holds true ends only, {write(terminals='done', timeouts='timeouts')}"
    if (flags["done"] & ~(flags["terminals"] | timeouts)).any():
        more = write(terminals="terminals", done="done") if table is not None else "leave timeouts out"
        return f"if it is right, {more}, so that what is done and not terminal was cut"
    given = {name: name for name in ("terminals", "timeouts") if name in flags}
    return f"if the others are right, {without if table is None else write(**given)}"


def _flags(name: str, array: Array) -> Array:
    """[N] bool of an array [N] or [N, 1] of 0 and 1."""
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1:
        raise DatasetError(f"{name} must have shape [N], but has {list(array.shape)}")
    if array.dtype.kind not in "biuf" or not ((flat == 0) | (flat == 1)).all():
        raise DatasetError(f"{name} must hold 0 or 1 in every row")
    return np.asarray(flat == 1)


def _of_episodes(file: ArrayFile, names: Sequence[str]) -> dict[str, Any]:
    """d3rlpy 2: one array per column and episode, such as observations_0; an episode that is not terminated was cut."""
    numbered = re.compile(rf"({'|'.join(_EPISODE_COLUMNS)})_(0|[1-9]\d*)")
    matches = [match for name in names if (match := numbered.fullmatch(name))]
    unknown = _collapsed(name for name in names if name not in _D3RLPY_2 and not numbered.fullmatch(name))
    if unknown:
        raise DatasetError(
            f"{file.path} is a file of d3rlpy 2 that holds {listed(unknown)} too, whose meaning is not known: "
            f"{_leave_out(file, unknown)}"
        )
    count = max(int(match[2]) for match in matches) + 1
    promised = next((int(file.read(name)) for name in ("num_episodes", "total_size") if name in names), count)
    if promised != count or len(matches) < count * len(_EPISODE_COLUMNS):
        raise DatasetError(
            f"{file.path} lacks arrays of episodes: it has {len(matches)} of {len(_EPISODE_COLUMNS)} times "
            f"{max(promised, count)}"
        )
    parts = [{column: file.read(f"{column}_{index}") for column in _EPISODE_COLUMNS} for index in range(count)]
    lengths = [_episode_length(index, part) for index, part in enumerate(parts)]
    if any(part["actions"].dtype.kind in "iub" for part in parts):
        raise _discrete(file)
    last = np.zeros(sum(lengths), bool)
    last[np.cumsum(lengths) - 1] = True
    terminated = np.repeat([bool(part["terminated"].any()) for part in parts], lengths)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in ("observations", "actions", "rewards")}
    return columns | {
        "terminals": last & terminated,
        "timeouts": last & ~terminated,
        "episode_ids": np.repeat(np.arange(count), lengths),
    }


def _episode_length(index: int, part: Mapping[str, Array]) -> int:
    rows = {name: array.shape[:1] for name, array in part.items() if name != "terminated"}
    if len(set(rows.values())) > 1 or not all(rows.values()) or not rows["rewards"][0]:
        raise DatasetError(f"episode {index} needs as many observations as actions and rewards, but has {rows}")
    if part["terminated"].size != 1:
        raise DatasetError(f"terminated_{index} must be one flag, but has shape {list(part['terminated'].shape)}")
    _flags(f"terminated_{index}", part["terminated"].reshape(1))
    return int(rows["rewards"][0])


def _refuse_discrete(file: ArrayFile, names: Sequence[str]) -> None:
    flagged = "discrete_action" in names and file.read("discrete_action").any()
    if flagged or ("actions" in names and file.read("actions").dtype.kind in "iub"):
        raise _discrete(file)


def _discrete(file: ArrayFile) -> DatasetError:
    return DatasetError(f"{file.path} has discrete actions, but {DISCRETE}")
