"""Learners and adapters by name: our own by import, third parties' through entry points or by being imported.

A class counts as soon as it is defined, so an own learner needs no registration to be saved and loaded in the same
program; a package that offers one to others declares it in the entry-point group ``adaptive_constraints.learners``
or ``adaptive_constraints.adapters``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.errors import StackError
from adaptive_constraints.support.outside import why_outside

Part = TypeVar("Part", bound=Learner | Adapter)
_PACKAGE = __name__.partition(".")[0]
_OURS = ("adaptive_constraints.baselines", "adaptive_constraints.adapters")


def learners() -> dict[str, type[Learner]]:
    """Every known learner class by name."""
    return _known(Learner, "adaptive_constraints.learners")  # type: ignore[type-abstract]


def adapters() -> dict[str, type[Adapter]]:
    """Every known adapter class by name."""
    return _known(Adapter, "adaptive_constraints.adapters")


def learner(name: str) -> type[Learner]:
    """The learner class of this name."""
    return _find("learner", name, learners())


def adapter(name: str) -> type[Adapter]:
    """The adapter class of this name."""
    return _find("adapter", name, adapters())


def part(name: str) -> type[Learner] | type[Adapter]:
    """The learner or adapter class of this name."""
    return _find("learner or adapter", name, {**learners(), **adapters()})


def to_spec(part: Learner | Adapter) -> dict[str, Any]:
    """``{"type": class name, "settings": its fields}``; every field must be a plain value.

    Raises `StackError` for a class that has the name of a bundled one, as which it would be read back.
    """
    _refuse_taken(type(part))
    settings = {field.name: _as_json(getattr(part, field.name)) for field in fields(part)}
    for name, value in settings.items():
        if callable(value):
            raise StackError(
                f"{type(part).__name__}.{name} is a function, which cannot be saved: "
                "use a number, or a subclass that computes it"
            )
    return {"type": type(part).__name__, "settings": settings}


def from_spec(spec: Mapping[str, Any], known: Callable[[str], type[Part]]) -> Part:
    """The learner or adapter that `to_spec` described; ``known`` finds its class by name."""
    stored: Mapping[str, Any] = spec["settings"]
    settings: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
    return known(spec["type"])(**settings)


def _as_json(value: Any) -> Any:
    """As JSON has it, so that a saved description equals a fresh one."""
    return list(value) if isinstance(value, tuple) else value


def _known(base: type[Part], group: str) -> dict[str, type[Part]]:
    """By name the class that was made last, but always a bundled one of that name."""
    _import_all(group)
    found = list(_descendants(base))
    return {cls.__name__: cls for cls in (*found, *(cls for cls in found if _bundled(cls)))}


def _bundled(cls: type[Any]) -> bool:
    return cls.__module__.partition(".")[0] == _PACKAGE


def _refuse_taken(cls: type[Any]) -> None:
    known = {**learners(), **adapters()}.get(cls.__name__)
    if known is not None and _bundled(known) and not _bundled(cls):
        raise StackError(
            f"{cls.__module__}.{cls.__name__} has the name of {known.__module__}.{known.__name__}, as which it would "
            "be read back from saved agents, suites and the command line: give the class another name"
        )


@cache
def _import_all(group: str) -> None:
    """Import our own parts and those of installed packages: once, since looking for the latter takes long."""
    for module in _OURS:
        import_module(module)
    for entry in entry_points(group=group):
        entry.load()


def _descendants(base: type[Part]) -> Iterator[type[Part]]:
    subclasses: list[type[Part]] = list(base.__subclasses__())  # type: ignore[arg-type]
    for cls in subclasses:
        private = cls.__name__.startswith("_") or not cls.listed
        if is_dataclass(cls) and not private and not getattr(cls, "__abstractmethods__", None):
            yield cls
        yield from _descendants(cls)


def _plain(name: str) -> str:
    """TD3BC, td3bc and td3_bc are one name."""
    return name.lower().replace("_", "").replace("-", "")


def _find(kind: str, name: str, known: dict[str, type[Part]]) -> type[Part]:
    by_plain_name = {_plain(key): cls for key, cls in known.items()}
    if _plain(name) in by_plain_name:
        return by_plain_name[_plain(name)]
    close = difflib.get_close_matches(_plain(name), by_plain_name, n=1)
    hint = f"did you mean {by_plain_name[close[0]].__name__}? " if close else ""
    hint = f"{outside}; " if (outside := why_outside(name)) else hint
    raise StackError(
        f"unknown {kind} {name!r}: {hint}known are {', '.join(sorted(known)) or 'none'}. "
        f"One that is defined elsewhere must be imported first, or installed with an entry point"
    )
