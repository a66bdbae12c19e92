"""The common base of learners and adapters: checked settings, and published ones by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, get_type_hints

from torch import Tensor

from adaptive_constraints.errors import AnswerError, StackError
from adaptive_constraints.support.arguments import checked, fits, words


@dataclass(frozen=True)
class Part:
    """Base class of learners and adapters: ``TD3BC.preset("antmaze")`` takes published settings in one call.

    A setting is a field; its annotation says what it may be, bounds included:
    ``polyak: Annotated[float, Between(0, 1, "(]")] = 0.005``.
    """

    listed: ClassVar[bool] = True
    """Let it be found by its name; False for parts that tests make for their own ends."""
    reads_data: ClassVar[bool] = False
    """It reads ``v.data``, all rows of the data, or ``v.row``, which of them a minibatch has; see `StateView.data`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published settings by family of data sets (gym, antmaze, ...) or by data set, as far as the defaults differ."""

    @property
    def title(self) -> str:
        """The name under which errors speak of this part."""
        return type(self).__name__

    def require(self, condition: bool, text: str) -> None:
        """Raise `StackError` with ``text`` unless ``condition`` holds: for what no single annotation can say.

        condition: what must hold, such as the order of two settings or a fact of the learner.
        text: what is wrong and what to do; the part's own name is put before it.
        """
        if not condition:
            raise StackError(f"{self.title}: {text}")

    def answered(self, what: str, answer: Tensor, shape: Sequence[int]) -> Tensor:
        """Give an answer back that has the shape asked for, and refuse one that would broadcast.

        what: the seam or method that answers.
        answer: what it gave: a weight [B, 1], say, would make a mean over [B, B] without a word.
        shape: what is asked; its own dimensions alone, where -1 stands for any size.

        Raises `AnswerError` where the shapes differ, naming both.
        """
        there = answer.shape
        if len(there) != len(shape) or any(size not in (-1, own) for size, own in zip(shape, there, strict=True)):
            wanted = ", ".join("K" if size == -1 else str(size) for size in shape)
            last_too_many = len(there) == len(shape) + 1 and there[-1] == 1
            remedy = ": squeeze(-1) takes the last dimension off" if last_too_many else ""
            raise AnswerError(
                f"{self.title}: its answer to {what!r} has the shape {list(there)}, where [{wanted}] is asked{remedy}"
            )
        return answer

    def check_settings(self) -> None:
        """Raise `StackError` where a setting is not what its annotation allows, or a number that is not finite."""
        kind = type(self).__name__
        try:
            annotations = annotations_of(type(self))
        except NameError:  # an annotation that only its own module's type checker can resolve
            return
        for name, annotation in annotations.items():
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise StackError(f"{kind}: {name} must be finite, not {value!r}")
            if not fits(value, annotation):
                raise StackError(f"{kind}: {name} must be {words(annotation)}, not {value!r}")

    @classmethod
    @checked(StackError)
    def preset(cls, family: str, **settings: Any) -> Self:
        """Make a part with the published settings for a family of data sets.

        family: a name among `presets`, such as "antmaze", whatever its case.
        settings: further settings; they win over the published ones.

        Raises `StackError` for a family without settings of its own, naming those there are.
        """
        known = {name.lower(): chosen for name, chosen in cls.presets.items()}
        if family.lower() not in known:
            close = difflib.get_close_matches(family.lower(), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise StackError(f"{cls.__name__} has no preset {family!r}: {hint}it has {', '.join(known) or 'none'}")
        return cls(**{**known[family.lower()], **settings})


def annotations_of(cls: type) -> dict[str, Any]:
    """The annotation of each setting, by name.

    A subclass that repeats a setting to change its default, ``batch_size: int = 1024``, keeps the bounds that the
    base class stated.
    """
    annotations: dict[str, tuple[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        bare, full = get_type_hints(base), get_type_hints(base, include_extras=True)
        for name in vars(base).get("__annotations__", {}):
            repeats = name in annotations and full[name] == bare[name] == annotations[name][0]
            if not repeats:
                annotations[name] = bare[name], full[name]
    return {field.name: annotations[field.name][1] for field in fields(cls)}


__all__ = ["Part", "annotations_of"]
