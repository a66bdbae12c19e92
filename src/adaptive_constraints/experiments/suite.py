"""Suites: grids of stacks x data sets x seeds x steps in small TOML files. docs/benchmarks.md describes the format."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from adaptive_constraints.data.sources.loaders import check_reference
from adaptive_constraints.data.sources.scripted import drawn, undrawn
from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError, StackError, SuiteError
from adaptive_constraints.experiments.cell import Cell
from adaptive_constraints.experiments.rows import Claim, Published
from adaptive_constraints.experiments.stacks import BARE, NamedStack, joined, read_stack, subsets
from adaptive_constraints.support.typed import damage, read_text

_STACKS = ("stacks", "learners", "adapters", "every_subset_of", "family")
_GRID = (*_STACKS, "data", "draws", "seeds", "steps", "compiled", "evaluation")
_EVALUATION = {"every": 5_000, "episodes": 10, "env": "auto", "max_steps": None}
_PUBLISHED = ("source", "data", "scores", "spreads")
_CLAIM = ("text", "expect", "stack", "against", "data", "share")
_LONGEST_ID = 150
_MOST = 10_000
"""More seeds, stacks or data sets than that are a slip."""


@dataclass(frozen=True)
class Suite:
    """A suite, read: every cell resolved."""

    name: str
    about: str
    cells: tuple[Cell, ...]
    published: tuple[Published, ...]
    claims: tuple[Claim, ...] = ()


def load_suite(name: str | Path, imports: Sequence[str] = ()) -> Suite:
    """The suite that ships under this name, or that of a file, NAME.toml; raises `SuiteError` where it is wrong.

    imports: modules that define learners and adapters of the suite; the caller has imported them.
    """
    path = _find(name)
    with damage(SuiteError, f"{path} is no readable TOML", "mend it"):
        tree = tomllib.loads(read_text(path))
    with damage(SuiteError, f"{path} is no suite", "docs/benchmarks.md says what may stand where"):
        return _Reader(path, tuple(imports)).suite(tree)


def list_suites() -> dict[str, Path]:
    """The suites that ship, by name: the files of ``benchmarks/suites``, which are data of this package."""
    files = map(str, importlib.resources.files("adaptive_constraints.experiments.suites").iterdir())
    return {path.stem: path for path in sorted(map(Path, files)) if path.suffix == ".toml"}


def short_name(reference: str) -> str:
    """The name of a data set in presets: ``hopper-medium`` of ``d4rl:data/hopper_medium-v2.hdf5``.

    What is done to a set follows its name: ``hopper-medium | top(0.1)``.
    """
    source, bar, operations = reference.partition("|")
    if bar:
        return f"{short_name(source.strip())} | {operations.strip()}"
    scheme, _, rest = reference.partition(":")
    parts = rest.split("/")
    name = "-".join(parts[1:] if scheme == "minari" and len(parts) > 1 else parts[-1:] if "." in parts[-1] else parts)
    return re.sub(r"(-v\d+)?(\.\w+)?$", "", name).replace("_", "-")


def expand(text: str) -> list[str]:
    """``a{b,c}`` as a shell would write it out: ``ab``, ``ac``; raises `SuiteError` beyond `_MOST` texts."""
    braces = re.search(r"\{([^{}]*)\}", text)
    if braces is None:
        return [text]
    if math.prod(len(group.split(",")) for group in re.findall(r"\{([^{}]*)\}", text)) > _MOST:
        raise SuiteError(f"{text[:60]!r} stands for more than {_MOST} texts: write fewer alternatives")
    before, after = text[: braces.start()], text[braces.end() :]
    return [whole for option in braces[1].split(",") for whole in expand(before + option.strip() + after)]


# -- narrowing ----------------------------------------------------------------------------------------------------


def narrow(
    cells: Iterable[Cell],
    *,
    where: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    eval_env: str | None = None,
    eval_max_steps: int | None = None,
) -> tuple[Cell, ...]:
    """The cells that are asked for, with other seeds, steps or environments to evaluate in if those are given.

    where: ``key=pattern``, key one of learner, adapter, data, stack; patterns as in file names, in any case. Values
        of one key are alternatives, keys must all hold; ``adapter=none`` is the bare learner.
    only: cell ids, or patterns of them.

    Raises `SuiteError` where nothing is left, saying what there is.
    """
    cells = tuple(cells)
    wanted: dict[str, list[str]] = {}
    for condition in where:
        key, equals, pattern = condition.partition("=")
        if not equals or key not in _KEYS:
            raise SuiteError(f"--where {condition}: write KEY=PATTERN, KEY one of {', '.join(_KEYS)}")
        wanted.setdefault(key, []).append(pattern)
    kept = [cell for cell in cells if all(_any(patterns, _KEYS[key](cell)) for key, patterns in wanted.items())]
    kept = [cell for cell in kept if not only or _any(only, [cell.id])]
    if not kept:
        raise SuiteError(_nothing_left(cells, wanted, only))
    wishes = {
        "seeds": None if seeds is None else tuple(seeds),
        "steps": steps,
        "eval_env": eval_env,
        "eval_max_steps": eval_max_steps,
    }
    changes: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    return tuple(replace(cell, **changes) for cell in kept)


_KEYS = {
    "learner": lambda cell: [cell.learner, cell.spec["learner"]["type"]],
    "adapter": lambda cell: [*cell.adapters, *(adapter["type"] for adapter in cell.spec["adapters"])] or [BARE],
    "data": lambda cell: [cell.data, short_name(cell.data)],
    "stack": lambda cell: [cell.stack],
}


def _any(patterns: Iterable[str], texts: Iterable[str]) -> bool:
    lower = [text.lower() for text in texts]
    return any(text == pattern.lower() or fnmatch(text, pattern.lower()) for pattern in patterns for text in lower)


def _nothing_left(cells: Sequence[Cell], wanted: Mapping[str, Sequence[str]], only: Sequence[str]) -> str:
    for key, patterns in wanted.items():
        there = sorted({text for cell in cells for text in _KEYS[key](cell)})
        if not _any(patterns, there):
            return f"no cell has {key}={' or '.join(patterns)}; there are {', '.join(there)}"
    if only:
        return f"no cell is called {' or '.join(only)} within what --where leaves; --list shows the cells"
    return "no cell meets all of --where; --list shows the cells"


# -- reading ------------------------------------------------------------------------------------------------------


def _find(name: str | Path) -> Path:
    path, known = Path(name), list_suites()
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise SuiteError(f"no file {path}; suites by name are {', '.join(known)}")
    if str(name) in known:
        return known[str(name)]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SuiteError(
        f"no suite {str(name)!r}: {hint}there: {', '.join(known)}. A file of your own is named by its path, NAME.toml"
    )


@dataclass(frozen=True)
class _Reader:
    path: Path
    imports: tuple[str, ...]

    def suite(self, tree: dict[str, Any]) -> Suite:
        grids = self._tables(tree.pop("grid", []), "grid")
        published = self._tables(tree.pop("published", []), "published")
        claims = self._tables(tree.pop("claim", []), "claim")
        about = self._text(tree.pop("about", None), "about")
        self._known(tree, _GRID, "the top")
        cells: dict[str, Cell] = {}
        names: dict[str, str] = {}
        placed = [(f"grid {n}", grid) for n, grid in enumerate(grids, start=1)] or [("the top", {})]
        for place, grid in placed:
            self._known(grid, _GRID, place)
            whole = {**tree, **grid}
            whole["evaluation"] = {
                name: value
                for table, where in ((tree, "the top"), (grid, place))
                for name, value in self._evaluation(table.get("evaluation", {}), where).items()
            }
            names |= self._data(whole.get("data"), place)
            for cell in self._cells(whole, place):
                if cells.setdefault(cell.id, cell) != cell:
                    self._fail(place, f"{cell.stack} on {cell.data} stands in an earlier grid too, with other settings")
        figures = [figure for n, table in enumerate(published, start=1) for figure in self._published(table, n, names)]
        claimed = [self._claim(table, n, cells.values()) for n, table in enumerate(claims, start=1)]
        return Suite(self.path.stem, " ".join(about.split()), tuple(cells.values()), tuple(figures), tuple(claimed))

    # -- grids

    def _cells(self, grid: Mapping[str, Any], place: str) -> Iterable[Cell]:
        lines, data = self._lines(grid, place), self._data(grid.get("data"), place)
        draws = grid.get("draws")
        data = data if draws is None else self._drawn(data, self._numbers(draws, f"{place}, draws", least=0), place)
        family = self._text(grid.get("family", ""), f"{place}, family")
        evaluation = {**_EVALUATION, **grid["evaluation"]}
        seeds, steps = self._seeds(grid.get("seeds"), place), self._count(grid.get("steps"), f"{place}, steps")
        stack_of, limit = cache(partial(self._stack, place)), evaluation["max_steps"]
        for name, reference in data.items():
            for line in lines:
                preset = name.partition(" | ")[0]  # that of the data which others are derived from
                values = {"family": family, **({"data": preset} if "{data}" in f"{line} {family}" else {})}
                stack = stack_of(line, **values)
                yield Cell(
                    id=_cell_id(stack, reference),
                    suite=self.path.stem,
                    stack=stack.label,
                    learner=stack.learner,
                    adapters=stack.adapters,
                    learner_words=stack.learner_words,
                    adapter_words=stack.adapter_words,
                    spec=stack.stack.to_spec(),
                    data=reference,
                    seeds=seeds,
                    steps=steps,
                    eval_every=self._count(evaluation["every"], f"{place}, evaluation.every"),
                    eval_episodes=self._count(evaluation["episodes"], f"{place}, evaluation.episodes"),
                    eval_env=self._environment(evaluation["env"], f"{place}, evaluation.env"),
                    eval_max_steps=None if limit is None else self._count(limit, f"{place}, evaluation.max_steps"),
                    imports=self.imports,
                    compiled=self._compiled(grid.get("compiled", "auto"), f"{place}, compiled"),
                )

    def _lines(self, grid: Mapping[str, Any], place: str) -> list[str]:
        """Every stack of a grid, as a line."""
        learners = self._texts(grid.get("learners", []), f"{place}, learners")
        adapters = self._texts(grid.get("adapters", []), f"{place}, adapters")
        every = self._texts(grid.get("every_subset_of", []), place)
        if 2 ** len(every) > _MOST:
            self._fail(f"{place}, every_subset_of", f"{len(every)} adapters have more than {_MOST} subsets")
        adapters += subsets(every) if every else []
        lines = self._texts(grid.get("stacks", []), f"{place}, stacks")
        lines += [joined(learner, added) for learner in learners for added in adapters or [BARE]]
        if not lines:
            self._fail(place, "no stacks: give learners (and adapters), or stacks")
        return list(dict.fromkeys(lines))

    def _stack(self, place: str, line: str, **values: str) -> NamedStack:
        try:
            return read_stack(line, **values)
        except StackError as error:
            self._fail(f"{place}, {line!r}", str(error), error)

    def _data(self, value: Any, place: str) -> dict[str, str]:
        """References by short name: of a table as it says, of a list from the references themselves."""
        if not isinstance(value, dict):
            listed = self._texts(value, f"{place}, data")
            value = {short_name(reference): reference for reference in self._expanded(listed, place)}
        return {
            name: self._checked(self._text(reference, f"{place}, data"), f"{place}, data {name}")
            for name, reference in value.items()
        }

    def _checked(self, reference: str, place: str) -> str:
        try:
            check_reference(reference)
        except DatasetError as error:
            self._fail(place, str(error), error)
        return reference

    def _drawn(self, data: Mapping[str, str], draws: Sequence[int], place: str) -> dict[str, str]:
        """Each data set as often as it is to be drawn."""
        every = {}
        for name, reference in data.items():
            if drawn(reference, 0) == reference:
                self._fail(f"{place}, draws", f"{reference} is one data set; draws are of scripted:... only")
            for draw in draws:
                every[f"{name}#{draw}"] = self._checked(drawn(reference, draw), f"{place}, draws")
        return every

    def _expanded(self, listed: Sequence[str], place: str) -> list[str]:
        try:
            return [reference for text in listed for reference in expand(text)]
        except SuiteError as error:
            self._fail(f"{place}, data", str(error), error)

    def _evaluation(self, value: Any, place: str) -> dict[str, Any]:
        self._known(value, tuple(_EVALUATION), f"{place}, evaluation")
        return dict(value)

    def _environment(self, value: Any, place: str) -> str:
        """A Gymnasium id. Its module is imported only if the user named it: a suite is a file, and may be anybody's."""
        module = self._text(value, place).rpartition(":")[0]
        if module and module not in self.imports:
            self._fail(place, f"{value} has the module {module} imported: allow it by --imports {module}")
        return str(value)

    def _compiled(self, value: Any, place: str) -> str:
        if value not in ("auto", "on", "off"):
            self._fail(place, f'"auto", "on" or "off" is needed, not {value!r}')
        return str(value)

    def _seeds(self, value: Any, place: str) -> tuple[int, ...]:
        return self._numbers(value, f"{place}, seeds")

    def _numbers(self, value: Any, place: str, least: int | None = None) -> tuple[int, ...]:
        """As a list says, or 0, 1, ... as many as a number says."""
        if isinstance(value, list) and value and all(type(number) is int for number in value):
            if least is not None and min(value) < least:
                self._fail(place, f"numbers from {least} are needed")
            twice = [number for number in value if value.count(number) > 1]
            if not twice:
                return tuple(value)
            self._fail(place, f"{twice[0]} stands there twice")
        count = self._count(value, place)
        if count > _MOST:
            self._fail(place, f"{count} are more than {_MOST}")
        return tuple(range(count))

    # -- published figures

    def _published(self, table: Mapping[str, Any], number: int, names: Mapping[str, str]) -> list[Published]:
        place = f"published {number}"
        self._known(table, _PUBLISHED, place)
        source = self._text(table.get("source"), f"{place}, source")
        listed = self._expanded(self._texts(table.get("data"), f"{place}, data"), place)
        for name in listed:
            if name not in names:
                self._fail(f"{place}, data", f"{name!r} is in no grid; those are called {', '.join(names)}")
        data, scored, spreads = [names[name] for name in listed], table.get("scores", {}), table.get("spreads", {})
        for name, value in (("scores", scored), ("spreads", spreads)):
            if not isinstance(value, dict):
                self._fail(f"{place}, {name}", "lists of numbers by method are needed")
        figures: list[Published] = []
        for method, scores in scored.items():
            columns = {"scores": scores, "spreads": spreads.get(method, [None] * len(data))}
            for name, values in columns.items():
                if not isinstance(values, list) or len(values) != len(data):
                    self._fail(f"{place}, {name}.{method!r}", f"{len(data)} numbers are needed, one per data set")
                if not all(type(value) in (int, float) or (value is None and name == "spreads") for value in values):
                    self._fail(f"{place}, {name}.{method!r}", "numbers are needed")
            for reference, score, spread in zip(data, *columns.values(), strict=True):
                if score == score:  # nan: the paper does not say
                    figures.append(
                        {"data": reference, "stack": method, "score": score, "spread": spread, "source": source}
                    )
        return figures

    # -- claims

    def _claim(self, table: Mapping[str, Any], number: int, cells: Iterable[Cell]) -> Claim:
        place = f"claim {number}"
        self._known(table, _CLAIM, place)
        expect = table.get("expect")
        if expect not in ("nowhere worse", "better", "share of best"):
            self._fail(f"{place}, expect", f'"nowhere worse", "better" or "share of best" is needed, not {expect!r}')
        stack = self._stack(place, self._text(table.get("stack"), f"{place}, stack")).label
        lines = self._texts(table.get("against"), f"{place}, against")
        against = [self._stack(place, line).label for line in lines]
        if expect != "share of best" and len(against) != 1:
            self._fail(f"{place}, against", f'one stack is needed where "{expect}" is expected')
        share = table.get("share", 0.0)
        if type(share) not in (int, float) or (share > 0) != (expect == "share of best"):
            self._fail(f"{place}, share", 'a number above 0 belongs to "share of best", and to nothing else')
        if expect != "share of best" and stack in against:
            self._fail(f"{place}, against", f"{stack} cannot be compared with itself")
        there: dict[str, dict[str, Cell]] = {}
        for cell in cells:
            there.setdefault(cell.stack, {})[cell.data] = cell
        for label in (stack, *against):
            if label not in there:
                self._fail(place, f"no grid has the stack {label}; there are {', '.join(there)}")
        data = self._claimed_data(table.get("data"), [there[label] for label in (stack, *against)], place)
        text = " ".join(self._text(table.get("text"), f"{place}, text").split())
        return {"text": text, "expect": expect, "stack": stack, "against": against, "data": data, "share": float(share)}

    def _claimed_data(self, wanted: Any, sides: Sequence[Mapping[str, Cell]], place: str) -> list[str]:
        """References of the data sets that a claim is about: all that its sides share, or those that it names."""
        shared = set.intersection(*(set(side) for side in sides))
        if wanted is None:
            data = sorted(shared)
        else:
            patterns = self._expanded(self._texts(wanted, f"{place}, data"), place)
            either = set.union(*(set(side) for side in sides))
            named = {pattern: {name for name in either if fnmatch(undrawn(name), pattern)} for pattern in patterns}
            for pattern, names in named.items():
                if not names or names - shared:
                    lacking = f"; not all of them have {', '.join(sorted(names - shared))}" if names else ""
                    self._fail(
                        f"{place}, data",
                        f"{pattern!r} names no data set that all its stacks share{lacking}; those are "
                        f"{', '.join(sorted(shared))}",
                    )
            data = sorted(set.union(*named.values()))
        if not data:
            self._fail(f"{place}, data", "its stacks share no data set")
        for name in data:
            runs = {(side[name].seeds, side[name].steps, _evaluation(side[name])) for side in sides}
            if len(runs) > 1:
                self._fail(place, f"its stacks differ in seeds, steps or evaluation on {name}")
        return data

    # -- what may stand where

    def _known(self, table: Any, known: Sequence[str], place: str) -> None:
        """A table without keys that nobody reads."""
        if not isinstance(table, dict):
            self._fail(place, f"a table is needed, not {table!r}")
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                self._fail(place, f"unknown key {key!r}: {hint}known are {', '.join(known)}")

    def _tables(self, value: Any, name: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            self._fail(name, f"write [[{name}]] above each of them")
        return value

    def _text(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            self._fail(place, "it is missing; text is needed" if value is None else f"text is needed, not {value!r}")
        return value

    def _texts(self, value: Any, place: str) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            self._fail(place, "it is missing" if value is None else f"text or a list of texts is needed, not {value!r}")
        return list(values)

    def _count(self, value: Any, place: str) -> int:
        if type(value) is not int or value < 1:
            self._fail(place, "it is missing" if value is None else f"a whole number from 1 is needed, not {value!r}")
        return value

    def _fail(self, place: str, text: str, cause: AdaptiveConstraintsError | None = None) -> NoReturn:
        raise SuiteError(f"{self.path}, {place}: {text}") from cause


def _evaluation(cell: Cell) -> tuple[int, int, str, int | None]:
    return cell.eval_every, cell.eval_episodes, cell.eval_env, cell.eval_max_steps


def _cell_id(stack: NamedStack, reference: str) -> str:
    """Such as ``bundled-hopper-TD3BC,critic=robust+ASPC``: a file's name, unique in a suite."""
    parts = "+".join(re.sub(r"\(|, ", ",", label).replace(")", "") for label in (stack.learner, *stack.adapters))
    name = re.sub(r"[^A-Za-z0-9_.+,=-]+", "-", f"{reference.removesuffix('.hdf5')}-{parts}")
    if len(name) <= _LONGEST_ID:
        return name
    return f"{name[:_LONGEST_ID]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


__all__ = ["Suite", "expand", "list_suites", "load_suite", "narrow", "short_name"]
