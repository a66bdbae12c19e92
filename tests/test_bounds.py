"""Bounds of settings: stated once, in annotations, and met by every default and preset."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Literal, get_args, get_origin

import pytest

from adaptive_constraints import Above, Adapter, AtLeast, Between
from adaptive_constraints.composition import registry
from adaptive_constraints.composition.text import describe, parse
from adaptive_constraints.core.part import annotations_of
from adaptive_constraints.errors import StackError
from adaptive_constraints.support.arguments import alternatives, checked, fits, words

PARTS = [
    part
    for part in (*registry.learners().values(), *registry.adapters().values())
    if part.__module__.startswith("adaptive_constraints.")
]
UNBOUNDED = {"reward_shift", "target_gap", "smallest_gap", "largest_gap", "threshold", "return_threshold", "delta"}
"""Numbers of any size and sign."""


@pytest.mark.parametrize(
    ("bound", "text", "inside", "outside"),
    [
        (Above(0), "> 0", (1e-12, 1, 7.5), (0, -1, float("nan"))),
        (AtLeast(1), ">= 1", (1, 2), (0, 0.999, float("nan"))),
        (Between(0, 1), "in [0, 1]", (0, 0.5, 1), (-1e-9, 1.001, float("nan"))),
        (Between(0, 1, "(]"), "in (0, 1]", (0.5, 1), (0, 1.5)),
        (Between(0, 1, "[)"), "in [0, 1)", (0, 0.5), (1, -1)),
        (Between(-2.5, 1, "()"), "in (-2.5, 1)", (-2, 0.5), (-2.5, 1)),
    ],
)
def test_bounds(bound, text, inside, outside):
    assert str(bound) == text
    assert all(map(bound.allows, inside)) and not any(map(bound.allows, outside))


@pytest.mark.parametrize(
    ("annotation", "text", "inside", "outside"),
    [
        (Annotated[float, Above(0)], "a number > 0", (1, 0.5), (0, "x", True, None)),
        (Annotated[int, AtLeast(1)] | None, "a whole number >= 1 or none", (1, None), (0, 1.5)),
        (Annotated[int | None, AtLeast(1)], "a whole number >= 1 or none", (1, None), (0, 1.5)),
        (Literal["auto"] | Annotated[float, AtLeast(0)], "'auto' or a number >= 0", ("auto", 0.0), (-1, "x")),
        (Annotated[str, "a note"], "text", ("x",), (3,)),
    ],
)
def test_annotations_with_bounds(annotation, text, inside, outside):
    assert words(annotation) == text
    assert all(fits(value, annotation) for value in inside)
    assert not any(fits(value, annotation) for value in outside)


def test_text_is_read_through_bounds():
    assert parse("3", Annotated[int, AtLeast(1)]) == 3
    assert parse("none", Annotated[float, Above(0)] | None) is None
    with pytest.raises(ValueError, match="a whole number >= 1"):
        parse("2.5", Annotated[int, AtLeast(1)])


def test_arguments_of_functions_have_bounds_too():
    @checked(StackError)
    def take(count: Annotated[int, AtLeast(1)]) -> int:
        return count

    assert take(2) == 2
    with pytest.raises(StackError, match="take: count must be a whole number >= 1, not 0"):
        take(0)


# -- our parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_defaults_and_presets_lie_within_the_bounds(part):
    for family in part.presets:
        part.preset(family)
    part()


def bounds(annotation):
    """Each bound that an annotation states."""
    return [
        extra
        for option in alternatives(annotation)
        if get_origin(option) is Annotated
        for extra in get_args(option)[1:]
    ]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_number_has_bounds_and_none_beyond_is_taken(part):
    described = {setting.name: setting.values for setting in describe(part)}
    for field in fields(part):
        annotation = annotations_of(part)[field.name]
        number = any(kind in str(annotation) for kind in ("int", "float"))
        if not number or (field.name in UNBOUNDED and not bounds(annotation)):
            continue
        (bound,) = bounds(annotation)
        assert str(bound) in described[field.name]
        low = bound.low - 1
        low = int(low) if isinstance(field.default, int) else float(low)
        with pytest.raises(StackError, match=rf"{part.__name__}: {field.name} must be .*, not {low}"):
            part(**{field.name: low})


def test_a_new_default_keeps_the_bound_and_a_new_bound_wins():
    @dataclass(frozen=True, kw_only=True)
    class Base(Adapter):
        share: Annotated[float, Between(0, 1)] = 0.5
        size: Annotated[int, AtLeast(1)] | None = None

    @dataclass(frozen=True, kw_only=True)
    class Child(Base):
        share: float = 0.7
        size: Annotated[int, AtLeast(4)] | None = 4

    @dataclass(frozen=True, kw_only=True)
    class Grandchild(Child):
        share: float = 0.8

    for part in (Child, Grandchild):
        with pytest.raises(StackError, match=rf"{part.__name__}: share must be a number in \[0, 1\], not 1.5"):
            part(share=1.5)
        with pytest.raises(StackError, match="size must be a whole number >= 4 or none, not 3"):
            part(size=3)
    assert Grandchild(size=None).share == 0.8


def test_a_default_out_of_bounds_is_noticed():
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Adapter):
        share: Annotated[float, Between(0, 1)] = 2.0

    assert all(field.default is not MISSING for field in fields(Wrong))
    with pytest.raises(StackError, match="share must be a number in"):
        Wrong()
