"""References of derived sets: ``bundled:hopper | fraction(0.1, seed=3) | mix(npz:noise.npz, 0.2)``.

What stands after ``|`` is a method of `Dataset` with its arguments, as in Python. An argument that is a data set is a
reference itself; one that has a comma or a ``|`` of its own stands in round brackets.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

import numpy as np

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.arguments import fits, words

OPERATIONS = ("subset", "top", "fraction", "concat", "mix", "add_action_noise")
"""Methods of `Dataset` that may stand in a reference."""
_NAME = re.compile(r"\|\s*([A-Za-z_]\w*)\s*(\()?")
_KEYWORD = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)(.*)", re.DOTALL)
_RANGES = re.compile(r"\d+(:\d*(:\d+)?)?(\+\d+(:\d*(:\d+)?)?)*")
_TAKES_SETS = {"concat": None, "mix": 1}
"""How many of the first arguments are data sets; None: all."""


@dataclass(frozen=True)
class Operation:
    """One method of `Dataset` with what it is given; data sets are still references."""

    name: str
    positional: tuple[Any, ...]
    named: dict[str, Any]

    def operands(self) -> Iterator[Expression]:
        """The data sets among the arguments."""
        return (value for value in (*self.positional, *self.named.values()) if isinstance(value, Expression))

    def apply(self, dataset: Dataset, load: Callable[[str], Dataset]) -> Dataset:
        """The derived set."""

        def made(value: Any) -> Any:
            return value.load(load) if isinstance(value, Expression) else value

        named = {key: made(value) for key, value in self.named.items()}
        if isinstance(episodes := named.get("episodes"), str):
            named["episodes"] = _listed_episodes(episodes, dataset)
        derived: Dataset = getattr(Dataset, self.name)(dataset, *map(made, self.positional), **named)
        return derived


@dataclass(frozen=True)
class Expression:
    """A reference, taken apart: a source, and what is done to it in this order."""

    source: str
    operations: tuple[Operation, ...]

    def load(self, load: Callable[[str], Dataset]) -> Dataset:
        """The data set, given a function that loads a source."""
        dataset = load(self.source)
        for operation in self.operations:
            dataset = operation.apply(dataset, load)
        return dataset

    def sources(self) -> Iterator[str]:
        """Every source in it, those in arguments too."""
        yield self.source
        for operation in self.operations:
            for operand in operation.operands():
                yield from operand.sources()


Parsed: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


def parse(reference: str) -> Expression:
    """Take a reference apart; raises `DatasetError` for operations and arguments that there are not."""
    reference = reference.strip()
    if _is_bracketed(reference):
        return parse(reference[1:-1])
    if (hint := _in_front(reference)) is not None:
        raise DatasetError(f"unknown data reference {reference!r}; {hint}")
    if reference.startswith("|") or reference.endswith("|") or re.search(r"\|\s*\|", reference):
        raise DatasetError(
            f"{reference!r}: no operation stands at a |; write one after each, {_usage('top')}, or leave it out"
        )
    starts = list(_operation_starts(reference))
    source = reference[: starts[0].start()].strip() if starts else reference
    operations = tuple(_operation(reference, start) for start in starts)
    if _is_bracketed(source):
        inner = parse(source)
        return Expression(inner.source, inner.operations + operations)
    return Expression(source, operations)


def sources_of(reference: str) -> list[str]:
    """Every source that a reference names."""
    return list(parse(reference).sources())


def _operation_starts(text: str) -> Iterator[re.Match[str]]:
    """Where ``| name(`` stands outside of brackets; a ``|`` in a file's name is none."""
    position = 0
    while position < len(text):
        if text[position] == "(":
            closing = _closing(text, position)
            position = len(text) if closing is None else closing
        match = _NAME.match(text, position)
        if match and (match[2] or match[1] in OPERATIONS):
            yield match
            position = match.end() - 1 if match[2] else match.end()
        else:
            position += 1


def _operation(text: str, start: re.Match[str]) -> Operation:
    name = start[1]
    if name not in OPERATIONS:
        close = difflib.get_close_matches(name, OPERATIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DatasetError(f"{text!r}: no operation {name!r} on data sets; {hint}there: {', '.join(OPERATIONS)}")
    closing = _closing(text, start.end() - 1) if start[2] else None
    if closing is None:
        raise DatasetError(f"{text!r}: {name} takes its arguments in round brackets, {_usage(name)}")
    if (after := text[closing + 1 :].strip()) and not after.startswith("|"):
        raise DatasetError(f"{text!r}: {after!r} after {name}(...) means nothing; join operations by |")
    positional, named = _arguments(name, text[start.end() : closing], text)
    _check(name, positional, named, text)
    return Operation(name, positional, named)


def _arguments(name: str, inside: str, text: str) -> Parsed:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for part in _split(inside):
        match = _KEYWORD.fullmatch(part)
        if match and match[1] in named:
            raise DatasetError(f"{text!r}: {name} has {match[1]} twice")
        if match:
            named[match[1]] = _value(name, match[1], match[2].strip())
        elif named:
            raise DatasetError(f"{text!r}: {part!r} stands after a named argument of {name}; {_usage(name)}")
        else:
            positional.append(_value(name, len(positional), part))
    return tuple(positional), named


def _value(name: str, place: int | str, text: str) -> Any:
    """A number, or a data set, or the text."""
    sets = _TAKES_SETS.get(name, 0)
    if place == "other" or (isinstance(place, int) and (sets is None or place < sets)):
        return parse(text)
    try:
        return ast.literal_eval(text) if place != "episodes" else text
    except (ValueError, SyntaxError):
        return text


def _check(name: str, positional: tuple[Any, ...], named: dict[str, Any], text: str) -> None:
    """Raise `DatasetError` for arguments that the method does not take, before anything is loaded."""
    method = getattr(Dataset, name)
    try:
        bound = inspect.signature(method).bind(None, *positional, **named).arguments
    except TypeError as error:
        raise DatasetError(f"{text!r}: {name}: {error}; {_usage(name)}") from error
    if name == "subset" and (set(named) != {"episodes"} or not _RANGES.fullmatch(named["episodes"].replace(" ", ""))):
        raise DatasetError(f"{text!r}: subset takes whole episodes here, {_usage(name)}")
    if not positional and name == "concat":
        raise DatasetError(f"{text!r}: concat takes data sets, {_usage(name)}")
    hints = get_type_hints(inspect.unwrap(method), include_extras=True)
    for argument, value in bound.items():
        plain = argument in hints and name != "subset" and not isinstance(value, Expression | tuple)
        if plain and not fits(value, hints[argument]):
            raise DatasetError(f"{text!r}: {name}: {argument} must be {words(hints[argument])}, not {value!r}")


def _listed_episodes(text: str, dataset: Dataset) -> list[int]:
    """Numbers of episodes: "0:3+7" is 0, 1, 2, 7, and an open end is the last one."""
    numbers: list[int] = []
    for part in text.replace(" ", "").split("+"):
        ends = [int(end) if end else None for end in part.split(":")]
        numbers += [int(part)] if len(ends) == 1 else np.arange(dataset.episodes)[slice(*ends)].tolist()
    return numbers


def _split(text: str) -> list[str]:
    """Parts between the commas outside of brackets."""
    parts, depth, begin = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[begin:position])
            begin = position + 1
    return [part.strip() for part in (*parts, text[begin:]) if part.strip()]


def _is_bracketed(text: str) -> bool:
    return text.startswith("(") and _closing(text, 0) == len(text) - 1


def _closing(text: str, opening: int) -> int | None:
    """Where the bracket that opens here is closed."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return None


def _in_front(reference: str) -> str | None:
    """What to write instead, where an operation stands in front of what it is done to."""
    match = re.match(rf"({'|'.join(OPERATIONS)})\s*[:(]", reference)
    return match and f"write what is done behind the data, {_usage(match[1])}"


_EXAMPLES = {
    "subset": "A | subset(episodes=0:100+250)",
    "top": "A | top(0.1)",
    "fraction": "A | fraction(0.1, seed=3)",
    "concat": "A | concat(B)",
    "mix": "A | mix(B, 0.5, seed=3)",
    "add_action_noise": "A | add_action_noise(0.2, share=0.3, seed=3)",
}


def _usage(name: str) -> str:
    return f"such as '{_EXAMPLES[name]}'"


__all__ = ["OPERATIONS", "Expression", "Operation", "parse", "sources_of"]
