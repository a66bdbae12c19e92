"""Checks of what was read from a file against the types that it should have."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from adaptive_constraints.errors import AdaptiveConstraintsError
from adaptive_constraints.support import arguments

alternatives, words = functools.cache(arguments.alternatives), functools.cache(arguments.words)
"""The same for types of files, which are ours and few; those of anybody's settings need not be hashable."""
hints_of = functools.cache(get_type_hints)

_LARGEST = 1e100
"""Beyond it, a number is a sign of damage."""


@contextmanager
def damage(error: type[AdaptiveConstraintsError], what: object, remedy: str) -> Iterator[None]:
    """Turn whatever reading a file raises into ``error``, which names it: parsers fail in too many ways to list.

    what: the file, with words that say what it should be, such as "x.npz is no saved agent".
    remedy: what to do about it.
    """
    try:
        yield
    except AdaptiveConstraintsError:
        raise
    except RecursionError as problem:
        raise error(f"{what} (it is nested too deeply): {remedy}") from problem
    except MemoryError as problem:
        raise error(f"{what}, or memory is short (it wants more than there is): {remedy}") from problem
    except Exception as problem:
        text = f"no {problem}" if isinstance(problem, KeyError) else str(problem) or type(problem).__name__
        raise error(f"{what} ({' '.join(text.split())[:200]}): {remedy}") from problem


def read_text(path: Path) -> str:
    """UTF-8 text; a `ValueError` or an `OSError` says what is wrong."""
    return path.read_bytes().decode("utf-8")


def parse_json(text: str) -> Any:
    """JSON as the standard has it; `ValueError` for anything else, NaN and a key that stands twice among them."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a key stands twice")
    return entries


def check(value: Any, annotation: Any, where: str = "it", *, finite: bool = True) -> None:
    """Raise `ValueError` unless plain data, as JSON has it, is of a type.

    annotation: a number, text, lists, dicts, and TypedDicts, dataclasses or NamedTuples, which stand for objects with
        their keys and no other; any other type passes.
    where: how the message names the value.
    finite: whether floats must be.
    """
    problems = []
    for kind in alternatives(annotation):
        if not (problem := _problem(value, kind, where, finite)):
            return
        problems.append(problem)
    inside = [problem for problem in problems if len(problems) == 1 or not problem.startswith(f"{where} must")]
    raise ValueError(inside[0] if inside else f"{where} must be {words(annotation)}, not {_short(value)}")


def _problem(value: Any, kind: Any, where: str, finite: bool) -> str:
    """In words, why a value is not of one type; "" if it is."""
    try:
        _check_one(value, kind, where, finite)
    except ValueError as error:
        return str(error)
    return ""


def _check_one(value: Any, kind: Any, where: str, finite: bool) -> None:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind) or is_dataclass(kind) or hasattr(kind, "_fields"):
        _check_keys(value, kind, where, finite)
    elif origin in (list, tuple):
        _need(isinstance(value, list), value, "a list", where)
        if inner[0] is float and all(type(entry) is float and _finite(entry) for entry in value):
            return  # most of what files hold, and needs no place that a message could name
        for number, entry in enumerate(value):
            check(entry, inner[0], f"{where}[{number}]", finite=finite)
    elif origin is dict:
        _need(isinstance(value, dict), value, "an object", where)
        for name, entry in value.items():
            check(entry, inner[1], f"{where}.{name}", finite=finite)
    elif origin is Literal:
        _need(any(value == choice and type(value) is type(choice) for choice in inner), value, words(kind), where)
    elif kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _need(number and (not finite or _finite(value)), value, "a finite number" if finite else "a number", where)
    elif kind is int:
        _need(type(value) is int and abs(value) < 1 << 63, value, "a whole number", where)
    elif kind is None or (isinstance(kind, type) and origin is None):
        _need(type(value) is kind or (kind is None and value is None), value, words(kind), where)


def _check_keys(value: Any, kind: Any, where: str, finite: bool) -> None:
    hints: Mapping[str, Any] = hints_of(kind)
    _need(isinstance(value, dict), value, "an object", where)
    if missing := [name for name in hints if name not in value and name in getattr(kind, "__required_keys__", hints)]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown := [name for name in value if name not in hints]:
        raise ValueError(f"{where} has keys of unknown meaning: {', '.join(map(repr, unknown))[:200]}")
    for name, entry in value.items():
        check(entry, hints[name], name if where == "it" else f"{where}.{name}", finite=finite)


def _finite(value: float) -> bool:
    """Sums and squares of such numbers are finite, too."""
    return abs(value) < _LARGEST


def _need(fine: bool, value: Any, what: str, where: str) -> None:
    if not fine:
        raise ValueError(f"{where} must be {what}, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["check", "damage", "parse_json", "read_text"]
