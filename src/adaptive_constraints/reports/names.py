"""Short names of stacks: what all learners and adapters of one class have in common is said once, and not in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adaptive_constraints.experiments.rows import ResultRow


@dataclass(frozen=True)
class Names:
    """Short names of the stacks of some rows.

    common: by class name, the settings that all its parts have, such as ``{"TD3BC": ("critic=robust",)}``.
    """

    common: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(rows: Iterable[ResultRow]) -> Names:
        """The names by which these rows are told apart."""
        written: dict[str, list[tuple[str, ...]]] = {}
        for part in dict.fromkeys(part for row in rows for part in (row["learner"], *row["adapters"])):
            name, settings = _split(part)
            written.setdefault(name, []).append(settings)
        shared = {
            name: tuple(setting for setting in lists[0] if all(setting in settings for settings in lists))
            for name, lists in written.items()
        }
        return Names({name: settings for name, settings in shared.items() if settings})

    def part(self, part: str) -> str:
        """``TD3BC(alpha=8)`` of ``TD3BC(critic=robust, alpha=8)``, where every TD3BC has the robust critic."""
        name, settings = _split(part)
        own = [setting for setting in settings if setting not in self.common.get(name, ())]
        return f"{name}({', '.join(own)})" if own else name

    def stack(self, row: ResultRow) -> str:
        """The label of a row's stack; what stands behind its parts is kept."""
        parts = [row["learner"], *row["adapters"]]
        whole, label = " + ".join(parts), row["stack"]
        return " + ".join(map(self.part, parts)) + label.removeprefix(whole) if label.startswith(whole) else label


def kind(part: str) -> str:
    """``ASPC`` of ``ASPC(interval=5)``."""
    return part.partition("(")[0]


def _split(part: str) -> tuple[str, tuple[str, ...]]:
    """The class name of ``TD3BC(critic=robust, hidden=[64, 64])`` and its settings; commas in brackets divide none."""
    name, opened, inner = part.partition("(")
    if not opened or not inner.endswith(")"):
        return part, ()
    settings, depth = [""], 0
    for character in inner[:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            settings.append("")
        else:
            settings[-1] += character
    return name, tuple(setting.strip() for setting in settings if setting.strip())


__all__ = ["Names", "kind"]
