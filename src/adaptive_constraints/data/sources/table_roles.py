"""What the columns of a table are for: as a reference says, or as their names do; and those that are for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.recordings import COLUMNS, FORGOTTEN, MOVED, UNUSED
from adaptive_constraints.data.sources.files import listed
from adaptive_constraints.data.sources.layouts import OTHER_NAMES
from adaptive_constraints.data.sources.table_columns import Columns
from adaptive_constraints.data.sources.table_order import Order
from adaptive_constraints.errors import DatasetError

Array = NDArray[Any]

ROLES = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminal": "terminals",
    "timeout": "timeouts",
    "done": "done",
    "episode": "episode_ids",
}
"""What columns are for, as references write it, and our names of the arrays."""
TIME = "time"
"""The role of the column that puts rows in order."""
_ENDS = ("terminal", "timeout", "done")
_USUAL = {
    **{role: (role, ours, *OTHER_NAMES.get(ours, ())) for role, ours in ROLES.items()},
    "episode": ("episode", "episode_id", "episode_ids", "episode_index", "trajectory", "trajectory_id"),
}
"""Names by which columns are found that a reference says nothing of."""
_LEROBOT = {
    "obs": ("observation.state", "observation.environment_state"),
    "action": ("action",),
    "reward": ("next.reward",),
    "done": ("next.done",),
    "timeout": ("next.truncated",),
    "episode": ("episode_index",),
}
"""Columns of LeRobot's format; of the first two lists, all that are there."""
_STEMS = {"obs": ("obs", "state"), "action": ("act", "control", "ctrl"), "reward": ("rew", "cost")}
"""What names of columns begin with, or their parts, that may be for a role."""
_LIKE_ENDS = (
    ("timeout", re.compile(r"trunc|time_?out|time_?limit|out_?of_?time")),
    ("terminal", re.compile(r"^(is_)?term|terminal|terminated|termination|absorbing|crash|fail|fell|fallen|dead|died")),
    (
        "done",
        re.compile(
            r"(^|_)(dones?|ended|finish(ed)?|over|reset|stop(ped)?|((end|last|final)(_(of|step|row|frame).*)?))$"
        ),
    ),
)
"""Roles of ends by what the names of columns look like."""


def resolve(columns: Columns, given: Mapping[str, tuple[str, ...]], lerobot: bool) -> dict[str, tuple[str, ...]]:
    """Columns by role: those that the reference names, then those found by their names."""
    roles = dict(given)
    ends = {*_ENDS} & roles.keys()
    for role in ROLES:
        found = () if role in roles or (ends and role in _ENDS) else _usual(columns.names, role, lerobot)
        if found:
            roles[role] = found
    missing = [role for role in ("obs", "action", "reward") if role not in roles]
    if missing:
        wanted = ",".join(f"{role}={_guess(columns.names, role, roles) or '...'}" for role in missing)
        constant = "; reward=0 stands for no rewards (imitation only)" if "reward" in missing else ""
        raise DatasetError(
            f"table:{columns.place}: nothing says which columns are {', '.join(missing)}; name them: "
            f"table:{columns.place}#{wanted}{constant}. Columns: {listed(columns.names, 40)}"
        )
    return roles


def _usual(names: Sequence[str], role: str, lerobot: bool) -> tuple[str, ...]:
    """Columns of this role by usual names: one of ours or of other libraries, else those of LeRobot's format."""
    ours = () if lerobot else tuple(name for name in _USUAL[role] if name in names)[:1]
    return ours or tuple(name for name in _LEROBOT.get(role, ()) if name in names)


def _guess(names: Sequence[str], role: str, roles: Mapping[str, Sequence[str]]) -> str:
    """Columns that may be meant, as a reference names them; "" where none looks like it."""
    taken = {name for several in roles.values() for name in several}
    stem = re.compile(rf"(^|[._/])({'|'.join(_STEMS[role])})", re.IGNORECASE)
    following = re.compile(r"(^|[._/])next", re.IGNORECASE)
    like = [name for name in names if stem.search(name) and not following.search(name) and name not in taken]
    return "+".join(like[:1] if role == "reward" else like) if len(like) <= 8 else f"{_common(like)}*"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    length = next((i for i, letter in enumerate(first) if letter != last[i : i + 1]), len(first))
    return first[:length]


def described(
    columns: Columns, roles: Mapping[str, Sequence[str]], order: Order, arrays: Mapping[str, Any]
) -> dict[str, str]:
    """What the provenance says of columns; ``arrays``: what became of them, in the order of ``order``."""
    said = {
        role: [name for pattern in names for name in (columns.expanded([pattern]) or [pattern])]
        for role, names in roles.items()
    }
    used = {name for names in said.values() for name in names}
    unused = [name for name in columns.names if name not in used]
    texts = {
        COLUMNS: said,
        UNUSED: unused,
        FORGOTTEN: _forgotten(columns, roles, unused, order, arrays),
        MOVED: str(order.time) if order.moved else "",
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in texts.items()
        if value
    }


def _forgotten(
    columns: Columns, roles: Mapping[str, Sequence[str]], unused: Sequence[str], order: Order, arrays: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Unused columns that look like ends and mark rows that are no such end, as (role, name)."""
    terminals, timeouts = np.asarray(arrays["terminals"]) != 0, np.asarray(arrays.get("timeouts", False)) != 0
    said = timeouts if "timeout" in roles else np.zeros_like(terminals)
    known = {
        "terminal": terminals,
        "timeout": terminals | timeouts,
        "done": terminals | (timeouts if "terminal" in roles else said),
    }
    found = []
    for name in unused:
        plain = re.sub(r"[\s.-]", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).lower()
        role = next((role for role, like in _LIKE_ENDS if like.search(plain)), None)
        flag = columns.flag(name) if role is not None else None
        if role is not None and flag is not None:
            flag = flag if order.rows is None else flag[order.rows]
            if (flag & ~known[role]).any():
                found.append((role, name))
    return found


__all__ = ["ROLES", "TIME", "described", "resolve"]
