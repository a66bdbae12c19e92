"""What makes two runs one and the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptive_constraints.data import Dataset, ReferenceScore, reference_of
from adaptive_constraints.networks import Precision


@dataclass(frozen=True)
class DataFacts:
    """What is kept of the data that a stack was trained on."""

    name: str
    fingerprint: str
    rows: int
    episodes: int
    env_id: str | None
    reference: ReferenceScore | None
    env_spec: dict[str, Any] | None = None
    """How the environment is made (`plain_env_spec`); None: as it is registered."""
    longest: int | None = None
    """Steps of the longest episode; None where rows stand alone."""

    @staticmethod
    def of(dataset: Dataset) -> DataFacts:
        """The facts of a data set."""
        return DataFacts(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            rows=len(dataset),
            episodes=dataset.episodes,
            env_id=dataset.env_id,
            reference=reference_of(dataset),
            env_spec=None if dataset.env_spec is None else dict(dataset.env_spec),
            longest=longest if (longest := int(dataset.episode_lengths().max())) > 1 else None,
        )


@dataclass(frozen=True)
class Identity:
    """What makes two runs one and the same; everything else may differ between their parts."""

    stack: dict[str, Any]
    steps: int
    seeds: tuple[int, ...]
    fingerprint: str
    precision: Precision = "float32"
    compiled: bool = False
    online: dict[str, Any] | None = None
    """Of a run in the online phase, what makes two such phases one and the same."""

    def differences(self, other: Identity) -> list[str]:
        """In words, what ``other`` has otherwise."""
        pairs: dict[str, tuple[Any, ...]] = {
            **_differing_settings(self.stack, other.stack),
            "steps": (self.steps, other.steps),
            "seeds": (list(self.seeds), list(other.seeds)),
            "data fingerprint": (self.fingerprint, other.fingerprint),
            "precision": (self.precision, other.precision),
            "compiled": (self.compiled, other.compiled),
        }
        if self.online is None or other.online is None:
            pairs["phase"] = tuple("offline" if each.online is None else "online" for each in (self, other))
        else:
            keys = self.online | other.online
            pairs |= {f"online {key}": (self.online.get(key), other.online.get(key)) for key in keys}
        return [f"{what} {mine} there, {theirs} here" for what, (mine, theirs) in pairs.items() if mine != theirs]


def _differing_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of two stacks' descriptions: their parts where those differ, otherwise the settings that do."""
    parts = [[each["learner"], *each["adapters"]] for each in (mine, theirs)]
    types = [[part["type"] for part in each] for each in parts]
    if types[0] != types[1]:
        return {"stack": (" + ".join(types[0]), " + ".join(types[1]))}
    return {
        f"{one['type']} {name}": (one["settings"].get(name), two["settings"].get(name))
        for one, two in zip(*parts, strict=True)
        for name in one["settings"] | two["settings"]
    }
