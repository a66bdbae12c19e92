"""Learners and adapters as text: read from ``NAME setting=value ...``, and their settings described."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, cast, get_args

from adaptive_constraints.composition import registry
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.part import annotations_of
from adaptive_constraints.errors import StackError
from adaptive_constraints.support.arguments import bare, options, words

Part = TypeVar("Part", bound=Learner | Adapter)


class Setting(NamedTuple):
    """One setting of a learner or an adapter, in words."""

    name: str
    default: str
    values: str
    """The allowed values, such as "'plain' or 'robust'" or "a number > 0"."""
    help: str


# -- reading ------------------------------------------------------------------------------------------------------


def read_learner(words: Sequence[str]) -> Learner:
    """The learner of ``["TD3BC", "preset=antmaze", "critic=robust", ...]``.

    Raises `StackError` for what is unknown or misplaced.
    """
    grouped = _grouped(words, "learner", "TD3BC")
    if len(grouped) != 1:
        names = ", ".join(name for name, _ in grouped) or "none"
        raise StackError(f"one learner is needed, not {names}; adapters are named apart from it")
    name, texts = grouped[0]
    return _make(registry.learner(name), texts)


def read_adapters(words: Sequence[str]) -> tuple[Adapter, ...]:
    """The adapters of ``["ASPC", "interval=5", "FixedTradeoff", ...]``: a setting belongs to the name before it."""
    grouped = _grouped(words, "adapter", "ASPC")
    return tuple(_make(registry.adapter(name), texts) for name, texts in grouped)


def _grouped(words: Sequence[str], kind: str, example: str) -> list[tuple[str, dict[str, str]]]:
    """Each name with the texts of the settings that follow it."""
    grouped: list[tuple[str, dict[str, str]]] = []
    for word in words:
        if " " in word:
            raise StackError(f"{word!r}: write a name and its settings as words of their own, without quotes")
        setting, equals, text = word.partition("=")
        if not equals:
            grouped.append((word, {}))
        elif not setting or not text:
            raise StackError(f"{word!r}: write setting=value without spaces around the sign")
        elif not grouped:
            raise StackError(f"{word!r} stands before any {kind}: name it first, such as {example} {word}")
        elif setting in grouped[-1][1]:
            raise StackError(f"{grouped[-1][0]}: {setting} is given twice")
        else:
            grouped[-1][1][setting] = text
    return grouped


def _make(cls: type[Part], texts: dict[str, str]) -> Part:
    known: dict[str, Any] = annotations_of(cls)
    settings = {}
    family = texts.pop("preset", None)
    for name, text in texts.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise StackError(f"{cls.__name__} has no setting {name!r}: {hint}it has {', '.join(known)}")
        try:
            settings[name] = parse(text, known[name])
        except ValueError as error:
            raise StackError(f"{cls.__name__}: {name} must be {error}, not {text!r}") from error
    return cls(**settings) if family is None else cast(Part, cls.preset(family, **settings))


def parse(text: str, annotation: Any) -> Any:
    """The value that ``text`` stands for where ``annotation`` says what is allowed; `ValueError` names that."""
    for option in options(annotation):
        try:
            return _READERS[bare(option)](text) if bare(option) in _READERS else _choice(text, bare(option))
        except ValueError:
            continue
    raise ValueError(words(annotation))


def _choice(text: str, option: Any) -> Any:
    for choice in get_args(option):
        if str(choice) == text:
            return choice
    raise ValueError(text)


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(text)


_READERS: dict[Any, Callable[[str], Any]] = {type(None): _none, bool: _bool, int: int, float: _float, str: str}


# -- checking -----------------------------------------------------------------------------------------------------


# -- describing ---------------------------------------------------------------------------------------------------


def describe(cls: type[Learner | Adapter]) -> list[Setting]:
    """The settings of a learner or an adapter, its own first."""
    annotations, docs = annotations_of(cls), _docs(cls)
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    described = []
    for field in sorted(fields(cls), key=lambda field: field.name in inherited):
        default = "(required)" if field.default is MISSING else plain(field.default)
        described.append(Setting(field.name, default, words(annotations[field.name]), docs.get(field.name, "")))
    return described


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring, as one line."""
    return _one_line((inspect.getdoc(cls) or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def plain(value: object) -> str:
    """A value as `parse` reads it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _docs(cls: type) -> dict[str, str]:
    """The string under each field, by field name, as one line."""
    return {name: text for base in reversed(cls.__mro__[:-1]) for name, text in _docs_of(base)}


def _docs_of(cls: type) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):  # no source: made at run time
        return
    for field, following in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            text = following.value.value if isinstance(following.value, ast.Constant) else None
            if isinstance(text, str):
                yield field.target.id, _one_line(text)


__all__ = ["Setting", "describe", "parse", "plain", "read_adapters", "read_learner", "summary"]
