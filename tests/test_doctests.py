"""Examples in docstrings run and print what they say."""

from __future__ import annotations

import ast
import doctest
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import adaptive_constraints
from adaptive_constraints import ANQ, ASPC, ILQ, SSAR, Adapter, Dataset, Learner
from adaptive_constraints.baselines import TD3BC

MODULES = [
    module.name
    for module in pkgutil.walk_packages(adaptive_constraints.__path__, "adaptive_constraints.")
    if not any(part.startswith("_") for part in module.name.split(".")[1:])
]


def examples(module: str) -> Iterator[doctest.DocTest]:
    """The docstrings in a module's source that hold examples, each run on its own, as a reader's program would be.

    doctest's own finder would pass over functions that a decorator of another module has wrapped.
    """
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin)

    def of(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> Iterator[doctest.DocTest]:
        text = ast.get_docstring(node) or ""
        yield doctest.DocTestParser().get_doctest(text, {"__name__": "example"}, name, str(path), 0)
        for inner in node.body:
            if isinstance(inner, ast.ClassDef | ast.FunctionDef):
                yield from of(inner, f"{name}.{inner.name}")

    return (test for test in of(ast.parse(path.read_text(encoding="utf-8")), module) if test.examples)


CASES = {case.name: case for module in MODULES for case in examples(module)}


def test_the_parts_that_people_start_from_have_one():
    for part in (Learner, Adapter, ANQ, ASPC, ILQ, SSAR, TD3BC, Dataset.subset):
        assert f"{part.__module__}.{part.__qualname__}" in CASES


@pytest.mark.parametrize("name", CASES)
def test_examples_in_docstrings(name):
    runner, said = doctest.DocTestRunner(), []
    runner.run(CASES[name], out=said.append)
    assert not runner.failures, "".join(said)
