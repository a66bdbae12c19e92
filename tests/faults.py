"""Faults: seeded ways to damage the bytes of a file, the JSON in it, or the arrays of an npz archive.

A function here takes a `random.Random` and intact content, and gives damaged content with words that say how.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

Fault = tuple[str, bytes]
"""What was done, and what became of the file."""


# -- bytes ------------------------------------------------------------------------------------------------------------


def in_bytes(draw: random.Random, whole: bytes) -> Fault:
    """Flipped bits, changed bytes, a cut, a hole, zeros, a block twice or elsewhere, rubbish at an end, or nothing."""
    damaged, size = bytearray(whole), len(whole)
    at = draw.randrange(size)
    if draw.random() < 0.3:  # where archives have their directories
        at = max(0, size - 1 - int(draw.expovariate(1 / 200)))
    length = 1 + min(size - at - 1, int(draw.expovariate(1 / draw.choice([4, 40, 400]))))
    kind = draw.choice(["bit", "bits", "byte", "cut", "hole", "zeros", "twice", "moved", "before", "behind", "empty"])
    if kind == "bit":
        damaged[at] ^= 1 << draw.randrange(8)
    elif kind == "bits":
        for _ in range(draw.randrange(2, 20)):
            damaged[draw.randrange(size)] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        damaged[at] = draw.randrange(256)
    elif kind == "cut":
        del damaged[at:]
    elif kind == "hole":
        del damaged[at : at + length]
    elif kind == "zeros":
        damaged[at : at + length] = bytes(length)
    elif kind == "twice":
        damaged[at:at] = damaged[at : at + length]
    elif kind == "moved":
        other = draw.randrange(size)
        damaged[other : other + length] = whole[at : at + length]
    elif kind == "before":
        damaged[:0] = draw.randbytes(length)
    elif kind == "behind":
        damaged += draw.choice([draw.randbytes(length), whole[:length], b"\n\n", b"\xff\xfe"])
    else:
        damaged.clear()
    return f"{kind} at {at}, {length} of {size} bytes", bytes(damaged)


# -- JSON -------------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**6, 2**63, 10**30, 10**400, -0.0, 0.5, 1e300, float("nan"), float("inf"), "", "x",
    "9" * 5000, [], [[]], {}, {"x": 1}, [None], ["x"], [float("nan")],
)  # fmt: skip
"""Values that a place in a tree of JSON should not have."""


def in_tree(draw: random.Random, tree: Any) -> tuple[str, Any]:
    """A copy of a tree of JSON with one place changed: its value, its type, its name, its number, or gone."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree))
    if not places:
        return "another value", draw.choice(ODD)
    holder, key = draw.choice(places)
    value, kind = holder[key], draw.choice(["odd", "odd", "gone", "nested", "renamed", "twice", "near"])
    if kind == "odd":
        holder[key] = draw.choice(ODD)
    elif kind == "gone":
        del holder[key]
    elif kind == "nested":
        holder[key] = draw.choice([[value], {"x": value}, _deep(draw.choice([10, 2_000]))])
    elif kind == "renamed" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "twice" and isinstance(holder, list):
        holder.insert(key, value)
    else:
        kind, holder[key] = "near", _near(draw, value)
    return f"{kind} at {key!r}", tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [pair for key, value in entries for pair in [(tree, key), *_places(value)]]


def _deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def _near(draw: random.Random, value: Any) -> Any:
    """A value of the same type, which only a digest can tell from the true one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + draw.choice([-1, 1, 10])
    return f"{value}x" if isinstance(value, str) else value


def in_json(draw: random.Random, text: bytes) -> Fault:
    """`in_tree` of a JSON document, or of one line where there is one on each."""
    lines = text.decode().splitlines()
    try:
        tree, number = json.loads(text), None
    except ValueError:
        number = draw.randrange(len(lines))
        tree = json.loads(lines[number])
    what, damaged = in_tree(draw, tree)
    said = dumps(damaged)
    if number is None:
        return what, said.encode()
    return f"line {number + 1}: {what}", ("\n".join([*lines[:number], said, *lines[number + 1 :]]) + "\n").encode()


def dumps(tree: Any) -> str:
    """Deeper than Python's own writer goes."""
    if isinstance(tree, list):
        opening = 0
        while isinstance(tree, list) and len(tree) == 1:
            tree, opening = tree[0], opening + 1
        inside = ", ".join(map(dumps, tree)) if isinstance(tree, list) else dumps(tree)
        return "[" * opening + (f"[{inside}]" if isinstance(tree, list) else inside) + "]" * opening
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {dumps(value)}" for name, value in tree.items()) + "}"
    return json.dumps(tree)


# -- arrays -----------------------------------------------------------------------------------------------------------

Arrays = dict[str, np.ndarray]
STRUCTURE = ("gone", "renamed", "shape", "longer", "type", "added", "exchanged")
"""Changes of which arrays there are, and of their shapes and types."""


def in_arrays(
    draw: random.Random, arrays: Arrays, kinds: tuple[str, ...] = (*STRUCTURE, "values")
) -> tuple[str, Arrays]:
    """A copy of some named arrays with one of them changed."""
    changed = dict(arrays)
    name, kind = draw.choice(sorted(changed)), draw.choice(kinds)
    array = changed[name]
    if kind == "gone":
        del changed[name]
    elif kind == "renamed":
        changed[f"{name}x"] = changed.pop(name)
    elif kind == "shape":
        flat = array.reshape(-1)
        shapes = [array[None], array[..., None], flat, flat[:1], flat[:0]]
        changed[name] = draw.choice([other_shape for other_shape in shapes if other_shape.shape != array.shape])
    elif kind == "longer":
        changed[name] = np.concatenate([array, array]) if array.ndim else np.stack([array, array])
    elif kind == "type":
        other = draw.choice([t for t in ("f8", "f2", "i8", "u1", "?", "c8", "U3") if np.dtype(t) != array.dtype])
        with np.errstate(all="ignore"):
            changed[name] = np.zeros(array.shape, other) if array.dtype.kind in "USV" else array.astype(other)
    elif kind == "added":
        changed[draw.choice(["x", "params/x", f"{name}/x", ""])] = array
    elif kind == "exchanged":
        other = draw.choice(sorted(changed))
        changed[name], changed[other] = changed[other], changed[name]
    else:
        odd = draw.choice([np.nan, np.inf, -1, 0, 1e30, 1e38])
        with np.errstate(all="ignore"):
            changed[name] = np.full(array.shape, odd).astype(array.dtype)
    return f"{kind} of {name!r}", changed


def in_npz(draw: random.Random, whole: bytes) -> Fault:
    """`in_arrays` of an archive, with sums of its parts that are right again."""
    with np.load(io.BytesIO(whole), allow_pickle=False) as archive:
        what, damaged = in_arrays(draw, {name: archive[name] for name in archive.files})
    file = io.BytesIO()
    np.savez(file, **damaged)
    return what, file.getvalue()


def any_of(*ways: Callable[[random.Random, bytes], Fault]) -> Callable[[random.Random, bytes], Fault]:
    """One of several ways, each as often."""
    return lambda draw, whole: draw.choice(ways)(draw, whole)
