"""From words to stacks, and from stacks to the names of run folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from adaptive_constraints.composition import registry
from adaptive_constraints.composition import text as settings
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.errors import StackError


def stack_of(learner: Sequence[str], adapters: Sequence[str]) -> Stack:
    """The stack of these words."""
    if not learner:
        known = ", ".join(sorted(registry.learners()))
        raise StackError(f"name a learner, such as --learner TD3BC (known are {known}), or give a saved agent")
    return Stack(settings.read_learner(learner), settings.read_adapters(adapters))


def folder_of(data: str, stack: Stack, steps: int) -> Path:
    """runs/<data>-<stack>-<steps>, where the stack names every setting that is not its default."""
    adapters = "".join(f"+{_short(adapter)}" for adapter in stack.adapters)
    name = file_name(data.partition(":")[2].removesuffix(".npz"))
    return Path("runs") / f"{name}-{_short(stack.learner)}{adapters}-{steps}"


def _short(part: Learner | Adapter) -> str:
    """Such as ``TD3BC,critic=robust``."""
    default = type(part)()
    values = {setting.name: (getattr(part, setting.name), getattr(default, setting.name)) for setting in fields(part)}
    changed = [f",{name}={file_name(str(value))}" for name, (value, usual) in values.items() if value != usual]
    return type(part).__name__ + "".join(changed)


def file_name(text: str) -> str:
    """The text less what a file's name should not have."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.")


__all__ = ["file_name", "folder_of", "stack_of"]
