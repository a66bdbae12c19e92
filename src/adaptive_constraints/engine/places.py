"""Where in an author's code something happened: the learner or adapter, the method, the line."""

from __future__ import annotations

import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
import torch

from adaptive_constraints.core.part import Part

_OURS = Path(__file__).parents[1]
_AUTHORS = tuple(str(_OURS / room) + "/" for room in ("adapters", "baselines"))
"""What of this package reads like an author's code."""
_LIBRARIES = tuple(f"{Path(package.__file__).parent}/" for package in (torch, np) if package.__file__)
_STANDARD = sysconfig.get_paths()["stdlib"] + "/"


class Place(NamedTuple):
    """A line of an author's code."""

    function: str
    """Such as "MyLearner.terms"."""
    file: str
    line: int
    of_part: bool
    """The function is a method of a learner or an adapter."""

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        return f"{self.function} ({Path(self.file).name}, line {self.line}" + (f": {code})" if code else ")")


def _place(frame: FrameType, line: int) -> Place:
    code, owner = frame.f_code, frame.f_locals.get("self")
    name = code.co_qualname if owner is None else f"{type(owner).__name__}.{code.co_name}"
    return Place(name.replace(".<locals>", ""), code.co_filename, line, isinstance(owner, Part))


def _is_authors(code: CodeType) -> bool:
    name = code.co_filename
    if name.startswith(("<frozen", "<string>", "<eval_with_key", *_LIBRARIES)):
        return False
    if name.startswith(f"{_OURS}/"):
        return name.startswith(_AUTHORS)
    return not name.startswith(_STANDARD) or "site-packages" in name


def said(places: list[Place]) -> str:
    """The innermost of several places, from the outside to the inside, and the learner's method that led there."""
    if not places:
        return ""
    inner = places[-1]
    part = next((place for place in reversed(places) if place.of_part), inner)
    return str(inner) if part is inner else f"{inner}, called by {part}"


def places_of(error: BaseException) -> list[Place]:
    """The lines of authors' code that an error came through, from the outside to the inside."""
    return [_place(frame, line) for frame, line in walk_tb(error.__traceback__) if _is_authors(frame.f_code)]


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _lies_in(frame: FrameType, part_of_path: str) -> bool:
    return part_of_path in frame.f_code.co_filename.replace("\\", "/")


def came_through(error: BaseException, part_of_path: str) -> bool:
    """Whether an error came through a file whose path contains this."""
    return any(_lies_in(frame, part_of_path) for frame, _ in walk_tb(error.__traceback__))


def stands_in(part_of_path: str) -> bool:
    """Whether code of a file whose path contains this is being run now."""
    return any(_lies_in(frame, part_of_path) for frame in _outwards(sys._getframe(1)))


def where_it_stands() -> list[Place]:
    """The lines of authors' code that are being run now, from the outside to the inside."""
    return _of_frames(sys._getframe(1))


def _of_frames(frame: FrameType | None) -> list[Place]:
    places = [_place(at, at.f_lineno) for at in _outwards(frame) if _is_authors(at.f_code)]
    return places[::-1]


def where_it_changes(run: Callable[[], object], state: Callable[[], Any]) -> list[Place]:
    """Run a function and find the first line of an author's code after which ``state()`` is another; [] if none is."""
    found: list[Place] = []
    before = [state()]
    lines: dict[FrameType, int] = {}

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if found or not _is_authors(frame.f_code):
            return None
        if event != "call" and state() != before[0]:
            found.extend([*_of_frames(frame.f_back), _place(frame, lines.get(frame, frame.f_lineno))])
            return None
        lines[frame] = frame.f_lineno
        return look

    with _watched_by(look), suppress(Exception):  # that it fails is known; what is asked is where it begins to
        run()
    return found


@contextmanager
def _watched_by(look: Any) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


__all__ = ["Place", "came_through", "places_of", "said", "stands_in", "where_it_changes", "where_it_stands"]
