"""What learners and adapters have in common: checked settings, and published ones by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, get_type_hints

from adaptive_constraints.errors import StackError
from adaptive_constraints.support.arguments import checked, fits, words


@dataclass(frozen=True)
class Part:
    """Base class of learners and adapters: ``TD3BC.preset("antmaze")`` takes published settings in one call."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published settings by family of data sets (gym, antmaze, ...) or by data set, as far as the defaults differ."""

    def check_settings(self) -> None:
        """Raise `StackError` where a setting is not what its annotation allows, such as a misspelled choice.

        Numbers must be finite, and learning rates at least 0, which freezes what they are of.
        """
        kind = type(self).__name__
        try:
            annotations = annotations_of(type(self))
        except NameError:  # an annotation that only its own module's type checker can resolve
            return
        for name, annotation in annotations.items():
            value = getattr(self, name)
            if not fits(value, annotation):
                raise StackError(f"{kind}: {name} must be {words(annotation)}, not {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise StackError(f"{kind}: {name} must be finite, not {value!r}")
            if name.endswith("learning_rate") and isinstance(value, int | float) and value < 0:
                raise StackError(f"{kind}: {name} must be >= 0, not {value!r}")

    @classmethod
    @checked(StackError)
    def preset(cls, family: str, **settings: Any) -> Self:
        """The published settings for a family of data sets, less those that ``settings`` says otherwise.

        Raises `StackError` for a family without settings of its own, naming those there are.
        """
        known = {name.lower(): chosen for name, chosen in cls.presets.items()}
        if family.lower() not in known:
            close = difflib.get_close_matches(family.lower(), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise StackError(f"{cls.__name__} has no preset {family!r}: {hint}it has {', '.join(known) or 'none'}")
        return cls(**{**known[family.lower()], **settings})


def annotations_of(cls: type) -> dict[str, Any]:
    """The annotation of each setting, by name."""
    found = get_type_hints(cls)
    return {field.name: found[field.name] for field in fields(cls)}


__all__ = ["Part", "annotations_of"]
