"""Settings by family of data sets, so that a published protocol is one call."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from adaptive_constraints._arguments import checked
from adaptive_constraints.errors import StackError


@dataclass(frozen=True)
class Presets:
    """What learners and adapters have in common: ``TD3BC.preset("antmaze")``."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published settings by family of data sets (gym, antmaze, ...) or by data set, as far as the defaults differ."""

    def check_settings(self) -> None:
        """Raise `StackError` where a setting is not what its annotation allows, such as a misspelled choice."""
        from adaptive_constraints.settings import check  # which knows learners and adapters, and so comes after them

        check(self)  # type: ignore[arg-type]

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
