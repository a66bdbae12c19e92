"""Examples in docstrings run and print what they say."""

from __future__ import annotations

import ast
import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import adaptive_constraints
from adaptive_constraints import ANQ, ASPC, ILQ, SSAR, Adapter, Learner
from adaptive_constraints.baselines import TD3BC

MODULES = [
    module.name
    for module in pkgutil.walk_packages(adaptive_constraints.__path__, "adaptive_constraints.")
    if not any(part.startswith("_") for part in module.name.split(".")[1:])
]


def examples(module: str) -> list[doctest.DocTest]:
    """The docstrings of a module that hold examples, each run on its own, as a reader's program would be."""
    tests = doctest.DocTestFinder(exclude_empty=True).find(import_module(module), globs={"__name__": "example"})
    return [test for test in tests if test.examples]


CASES = {case.name: case for module in MODULES for case in examples(module)}


def test_the_parts_that_people_start_from_have_one():
    for part in (Learner, Adapter, ANQ, ASPC, ILQ, SSAR, TD3BC):
        assert f"{part.__module__}.{part.__qualname__}" in CASES


def written(module: str) -> set[str]:
    """The names of everything in a module's source that has an example in its docstring."""
    found = set()

    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> None:
        if ">>> " in (ast.get_docstring(node) or ""):
            found.add(name)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                visit(child, f"{name}.{child.name}")

    visit(ast.parse(inspect.getsource(import_module(module))), module)
    return found


def test_no_example_is_left_out():
    names = set().union(*map(written, MODULES))
    assert len(names) >= 30
    assert names - set(CASES) == set()


@pytest.mark.parametrize("name", CASES)
def test_examples_in_docstrings(name):
    runner, said = doctest.DocTestRunner(), []
    runner.run(CASES[name], out=said.append)
    assert not runner.failures, "".join(said)
