"""Checks of values against annotations, bounds of numbers included, and annotations in words."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from adaptive_constraints.support.bounds import Bound

P = ParamSpec("P")
R = TypeVar("R")

WORDS = {type(None): "none", bool: "true or false", int: "a whole number", float: "a number", str: "text"}
"""The plain types that are checked, from the narrowest to the widest."""
_ORDER = (Literal, *WORDS)
_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def checked(error: type[Exception], but: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function raise ``error`` in one clear line where an argument is missing, unknown or not allowed.

    error: the class to raise.
    but: names of arguments that the function checks itself.

    Numbers of numpy become Python's. Types that cannot be checked pass.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.cache
        def hints() -> dict[str, Any]:
            return get_type_hints(function, include_extras=True)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as problem:
                raise error(f"{function.__name__}: {_misfit(problem, signature, kwargs)}") from problem
            for name, value in bound.arguments.items():
                several = signature.parameters[name].kind in _SEVERAL
                if several or name in but or name not in hints():
                    continue
                if not fits(plain := _plain(value), hints()[name]):
                    raise error(f"{function.__name__}: {name} must be {words(hints()[name])}, not {_short(value)}")
                if isinstance(value, np.generic):
                    bound.arguments[name] = plain
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _misfit(problem: TypeError, signature: inspect.Signature, given: Iterable[str]) -> str:
    """Which argument is missing, or one too many."""
    names = [name for name in signature.parameters if name not in ("self", "cls")]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return f"it has no argument {name!r}: {hint}it takes {', '.join(names)}"
    return f"{problem}; it takes {', '.join(names)}"


def _plain(value: Any) -> Any:
    """Numbers and lists of numbers as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _short(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}; write {value.__name__}()"
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, one by one; the bounds of several types together are those of each."""
    if get_origin(annotation) is Annotated:
        return tuple(Annotated[option, *annotation.__metadata__] for option in alternatives(annotation.__origin__))
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def options(annotation: Any) -> list[Any]:
    """The alternatives that text can stand for: listed values first, then from the narrowest type to the widest."""
    ranked = [(_ORDER.index(kind), option) for option in alternatives(annotation) if (kind := _kind(option)) in _ORDER]
    return [option for _, option in sorted(ranked, key=lambda pair: pair[0])]


def bare(annotation: Any) -> Any:
    """An annotation without what `Annotated` adds to it."""
    return annotation.__origin__ if get_origin(annotation) is Annotated else annotation


def _bounds(annotation: Any) -> list[Bound]:
    return [bound for bound in getattr(annotation, "__metadata__", ()) if isinstance(bound, Bound)]


def _kind(option: Any) -> Any:
    return bare(option) if bare(option) in WORDS else get_origin(option)


def fits(value: object, annotation: Any) -> bool:
    """Tell whether an annotation allows a value, bounds included; types that cannot be checked pass."""
    return any(_is(value, option) for option in alternatives(annotation))


def _is(value: object, option: Any) -> bool:
    if get_origin(option) is Annotated:
        bounds = _bounds(option) if _is(value, float) else []
        return _is(value, bare(option)) and all(bound.allows(cast(float, value)) for bound in bounds)
    if option is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if option is Any or option is None:
        return value is None or option is Any
    if isinstance(option, type) and get_origin(option) is None:
        return getattr(option, "_is_protocol", False) or isinstance(value, option)
    origin, inner = get_origin(option), get_args(option)
    if origin is Literal:
        return value in inner
    if origin is Sequence:
        entries: Any = value.tolist() if isinstance(value, np.ndarray) else value
        several = isinstance(entries, Sequence) and not isinstance(entries, str)
        return several and all(fits(entry, inner[0]) for entry in entries)
    if origin is Mapping:
        return isinstance(value, Mapping)
    return callable(value) if origin is Callable else True


def words(annotation: Any) -> str:
    """Say what an annotation allows, such as "'scaled', 'published' or a number >= 0"."""
    listed = [option for option in alternatives(annotation) if option not in options(annotation)]
    ordered = [*sorted(options(annotation), key=lambda option: bare(option) is type(None)), *listed]
    named = [word for option in ordered for word in _words(option)]
    if not named:
        return "set in Python"
    return " or ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _words(option: Any) -> list[str]:
    limits = [str(bound) for bound in _bounds(option)] if bare(option) in (int, float) else []
    option = bare(option)
    if option in WORDS:
        return [" ".join([WORDS[option], *limits])]
    origin, inner = get_origin(option), get_args(option)
    if origin is Literal:
        return [repr(choice) for choice in inner]
    if origin is Sequence:
        limits = [str(bound) for bound in _bounds(inner[0])]
        return [" ".join([f"a list of {words(bare(inner[0])).removeprefix('a ')}s", *limits])]
    if origin is Callable:
        return ["a function"]
    if origin is Mapping:
        return ["a dictionary"]
    if option is Path:
        return ["a path"]
    if not isinstance(option, type) or origin is not None:
        return []
    return [f"{'an' if option.__name__[0] in 'AEIO' else 'a'} {option.__name__}"]


__all__ = ["alternatives", "bare", "checked", "fits", "options", "words"]
