"""Stacks as suites write them, ``TD3BC critic=robust + ASPC interval=5``, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

from adaptive_constraints.composition import text as settings
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner

BARE = "none"
"""How a suite writes that no adapter is there."""


@dataclass(frozen=True)
class NamedStack:
    """A stack with the words that made it, and labels for people."""

    stack: Stack
    learner_words: tuple[str, ...]
    adapter_words: tuple[str, ...]
    learner: str
    """Such as ``TD3BC(critic=robust)``: the settings that differ from the defaults or, with a preset, from it."""
    adapters: tuple[str, ...]

    @property
    def label(self) -> str:
        """Such as ``TD3BC(critic=robust) + ASPC``."""
        return " + ".join([self.learner, *self.adapters])


def read_stack(text: str, **values: str) -> NamedStack:
    """The stack that a suite's line stands for; raises `StackError` where it is wrong.

    values: what stands for ``{name}`` in the line. A preset that is written so is labelled ``preset``, because it is
        one choice for all data sets.
    """
    written = [part.split() for part in text.split(" + ")]
    filled = [[_fill(word, values) for word in part] for part in written]
    learner = settings.read_learner(filled[0])
    adapters = settings.read_adapters([word for part in filled[1:] for word in part])
    parts: list[Learner | Adapter] = [learner, *adapters]
    labels = [_label(part, words) for part, words in zip(parts, written, strict=True)]
    return NamedStack(
        stack=Stack(learner, adapters),
        learner_words=tuple(filled[0]),
        adapter_words=tuple(word for part in filled[1:] for word in part),
        learner=labels[0],
        adapters=tuple(labels[1:]),
    )


def subsets(adapters: Sequence[str]) -> list[str]:
    """Every subset, from none to all, as lines."""
    sizes = range(len(adapters) + 1)
    return [" + ".join(kept) or BARE for size in sizes for kept in combinations(adapters, size)]


def joined(learner: str, adapters: str) -> str:
    """The line of a learner with some adapters."""
    return learner if adapters in ("", BARE) else f"{learner} + {adapters}"


def _fill(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _label(part: Learner | Adapter, written: Sequence[str]) -> str:
    given = dict(word.split("=", 1) for word in written[1:])
    preset = given.pop("preset", None)
    named = [] if preset is None else ["preset" if "{" in preset else f"preset={preset}"]
    usual = type(part)() if preset is None or "{" in preset else type(part).preset(preset)
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name in given and value != getattr(usual, field.name):
            named.append(f"{field.name}={settings.plain(value)}")
    return type(part).__name__ + (f"({', '.join(named)})" if named else "")
