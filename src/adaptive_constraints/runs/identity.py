"""The settings and data that make two runs one and the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from adaptive_constraints.data import Dataset, ReferenceScore, reference_of
from adaptive_constraints.environments.specs import plain_env_spec
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.networks import Precision
from adaptive_constraints.runs.settings import OnlineSettings
from adaptive_constraints.support.typed import check


@dataclass(frozen=True)
class DataFacts:
    """Facts that are kept of the data that a stack was trained on."""

    name: str
    fingerprint: str
    rows: int
    episodes: int
    env_id: str | None
    reference: ReferenceScore | None
    env_spec: dict[str, Any] | None = None
    """How the environment is made (`plain_env_spec`); None: as it is registered."""
    longest: int | None = None
    """Steps of the longest recording, dropped rows included; None where rows stand alone."""
    mean_return: float | None = None
    """What the data's own episodes return; None where they are not whole, and in older records."""

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
            longest=longest if (longest := int(dataset.recorded.lengths.max())) > 1 else None,
            mean_return=dataset.mean_return,
        )

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> DataFacts:
        """Read what `dataclasses.asdict` gave; `ValueError` says what cannot be."""
        tree = {"mean_return": None, **tree}  # older agents lack it
        check(tree, DataFacts, "data", finite=False)
        reference = tree["reference"]
        facts = DataFacts(**{**tree, "reference": ReferenceScore(**reference) if reference else None})
        if facts.env_spec is not None:
            try:
                plain_env_spec(facts.env_spec)
            except DatasetError as error:
                raise ValueError(str(error)) from error
        return facts


@dataclass(frozen=True)
class OnlineIdentity:
    """The settings and the beginning that make two online phases one and the same."""

    settings: OnlineSettings
    start: int
    """The step after which it began."""
    origin: str
    """Fingerprint of the state in which it began."""


class PlainIdentity(TypedDict):
    """`Identity.to_json`, less the data's fingerprint."""

    stack: dict[str, Any]
    steps: int
    seeds: list[int]
    precision: Precision
    compiled: bool
    online: OnlineIdentity | None


@dataclass(frozen=True)
class Identity:
    """The settings and data that make two runs one and the same; all else may differ between their parts."""

    stack: dict[str, Any]
    """As `Stack.to_spec` has it."""
    steps: int
    """Steps planned offline."""
    seeds: tuple[int, ...]
    fingerprint: str
    """Fingerprint of the data."""
    precision: Precision = "float32"
    compiled: bool = False
    online: OnlineIdentity | None = None
    """None: the run is offline."""

    def to_json(self) -> dict[str, Any]:
        """A plain tree; whoever writes it may say more, of the data too."""
        tree = asdict(self) | {"seeds": list(self.seeds)}
        return tree | {"data": {"fingerprint": tree.pop("fingerprint")}}

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> Identity:
        """Read what `to_json` gave, from a tree that may say more; `ValueError` or `KeyError` where it cannot be."""
        own = {name: tree[name] for name in PlainIdentity.__annotations__}
        fingerprint, online = tree["data"]["fingerprint"], own["online"]
        check(own, PlainIdentity, finite=False)
        check(fingerprint, str, "the data's fingerprint")
        if online is not None:
            online = OnlineIdentity(**{**online, "settings": OnlineSettings(**online["settings"])})
        return Identity(**{**own, "seeds": tuple(own["seeds"]), "online": online}, fingerprint=fingerprint)

    def differences(self, other: Identity) -> list[str]:
        """Say in words what ``other`` has otherwise."""
        pairs: dict[str, tuple[Any, ...]] = {
            **_differing_settings(self.stack, other.stack),
            "steps": (self.steps, other.steps),
            "seeds": (list(self.seeds), list(other.seeds)),
            "data fingerprint": (self.fingerprint, other.fingerprint),
            "precision": (self.precision, other.precision),
            "compiled": (self.compiled, other.compiled),
        }
        if self.online is None or other.online is None:
            pairs["phase"] = tuple("offline" if run.online is None else "online" for run in (self, other))
        else:
            mine, theirs = (asdict(run.settings) | {"began as": run.origin} for run in (self.online, other.online))
            pairs |= {f"online {name}": (mine[name], theirs[name]) for name in mine}
        return [f"{what} {mine} there, {theirs} here" for what, (mine, theirs) in pairs.items() if mine != theirs]


def _differing_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two stacks' descriptions: their parts where those differ, otherwise the settings that do."""
    parts = [[stack["learner"], *stack["adapters"]] for stack in (mine, theirs)]
    types = [[part["type"] for part in stack] for stack in parts]
    if types[0] != types[1]:
        return {"stack": (" + ".join(types[0]), " + ".join(types[1]))}
    return {
        f"{one['type']} {name}": (one["settings"].get(name), two["settings"].get(name))
        for one, two in zip(*parts, strict=True)
        for name in one["settings"] | two["settings"]
    }


__all__ = ["DataFacts", "Identity", "OnlineIdentity", "PlainIdentity"]
