"""A stack in training: its engine, its map into learner space, and what happened so far; saved and loaded whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.data import Dataset, Preprocessor, ReferenceScore, reference_of
from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.learner import Spec
from adaptive_constraints.preparation import prepare
from adaptive_constraints.stack import Stack
from adaptive_constraints.training import checkpoint
from adaptive_constraints.training.engine import Engine
from adaptive_constraints.training.history import History
from adaptive_constraints.training.initial import Groups, InitialState, initial_state
from adaptive_constraints.training.records import versions


@dataclass(frozen=True)
class DataFacts:
    """What is kept of the data that a stack was trained on."""

    name: str
    fingerprint: str
    rows: int
    episodes: int
    env_id: str | None
    reference: ReferenceScore | None

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
        )


@dataclass(frozen=True)
class Identity:
    """What makes two runs one and the same; everything else may differ between their parts."""

    stack: dict[str, Any]
    steps: int
    seeds: tuple[int, ...]
    fingerprint: str

    def differences(self, other: Identity) -> list[str]:
        """In words, what ``other`` has otherwise."""
        pairs = {
            "stack": (self.stack, other.stack),
            "steps": (self.steps, other.steps),
            "seeds": (list(self.seeds), list(other.seeds)),
            "data fingerprint": (self.fingerprint, other.fingerprint),
        }
        return [f"{what} {mine} there, {theirs} here" for what, (mine, theirs) in pairs.items() if mine != theirs]


@dataclass
class Trained:
    """One run of a stack, at whatever tick it stands."""

    stack: Stack
    engine: Engine
    preprocessor: Preprocessor
    data: DataFacts
    steps: int
    history: History

    @property
    def identity(self) -> Identity:
        """What a continuation must agree with."""
        return Identity(self.stack.to_spec(), self.steps, self.engine.seeds, self.data.fingerprint)

    @property
    def spec(self) -> Spec:
        """Dimensions of the data."""
        return self.engine.spec

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(next(iter(self.engine.params.values())).values())).device

    # -- beginnings -----------------------------------------------------------------------------------------------

    @staticmethod
    def fresh(
        stack: Stack,
        dataset: Dataset,
        *,
        steps: int,
        seeds: Sequence[int],
        device: torch.device,
        traced: bool,
        progress: bool = False,
    ) -> Trained:
        """At tick 0, with data."""
        settings = stack.learner.preprocess()
        preprocessor = Preprocessor.fit(dataset, **asdict(settings))
        spec = Spec(dataset.observation_dim, dataset.action_dim)
        resolved = stack.resolve()
        prepared = prepare(resolved, dataset, preprocessor, seeds, device, progress)
        initial = initial_state(resolved, spec, seeds, prepared)
        table = preprocessor.table(dataset, stack.learner.columns())
        engine = Engine(resolved, initial, table, horizon=steps, device=device, traced=traced)
        return Trained(stack, engine, preprocessor.to(device), DataFacts.of(dataset), steps, History())

    @staticmethod
    def read(path: str | Path, device: torch.device) -> Trained:
        """As a file has it, without data: it can act, but not train on."""
        header, tensors = checkpoint.read(path)
        try:
            stack = Stack.from_spec(header["stack"])
            facts = dict(header["data"])
            reference = facts.pop("reference")
            data = DataFacts(**facts, reference=ReferenceScore(**reference) if reference else None)
            preprocessor = Preprocessor.from_state(_under("preprocessor", tensors))
            initial = InitialState(
                seeds=tuple(header["seeds"]),
                spec=Spec(**header["spec"]),
                params=_groups("params", tensors),
                buffers={adapter.name: {} for adapter in stack.adapters} | _groups("buffers", tensors),
                frozen={adapter.name: {} for adapter in stack.adapters} | _groups("frozen", tensors),
                columns={},
                seed_columns={},
            )
            engine = Engine(stack.resolve(), initial, None, horizon=header["steps"], device=device)
            engine.load(tensors, header["tick"])
            history = History.from_json(header["history"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path}: its parts do not fit together ({error!r}); train again") from error
        return Trained(stack, engine, preprocessor.to(device), data, header["steps"], history)

    def with_data(self, dataset: Dataset, traced: bool, progress: bool = False) -> Trained:
        """The same run at the same tick, with its data at hand, so that it can go on."""
        twin = Trained.fresh(
            self.stack,
            dataset,
            steps=self.steps,
            seeds=self.engine.seeds,
            device=self.device,
            traced=traced,
            progress=progress,
        )
        twin.engine.load({name: t.clone() for name, t in self.engine.state().items()}, self.engine.tick)
        twin.history = self.history
        return twin

    def write(self, path: str | Path) -> None:
        """Save everything, so that the run can go on from here bit for bit."""
        header = {
            "stack": self.stack.to_spec(),
            "steps": self.steps,
            "seeds": list(self.engine.seeds),
            "tick": self.engine.tick,
            "data": asdict(self.data),
            "spec": self.spec._asdict(),
            "history": self.history.to_json(),
            "versions": versions(),
        }
        constants = {f"preprocessor/{name}": tensor for name, tensor in self.preprocessor.state().items()}
        checkpoint.write(path, header, self.engine.state() | constants)

    # -- acting ---------------------------------------------------------------------------------------------------

    def act(self, observations: NDArray[Any], step: int) -> NDArray[np.float32]:
        """Raw actions [S, N, A] of all seeds at raw observations [S, N, D]; ``step`` keys a random policy's noise."""
        raw = torch.as_tensor(np.asarray(observations, np.float32), device=self.device)
        actions = self.engine.act(self.preprocessor.observations(raw), step)
        found: NDArray[np.float32] = self.preprocessor.raw_actions(actions).cpu().numpy()
        return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _groups(prefix: str, tensors: Mapping[str, Tensor]) -> Groups:
    groups: Groups = {}
    for name, tensor in _under(prefix, tensors).items():
        group, _, short = name.partition("/")
        groups.setdefault(group, {})[short] = tensor
    return groups
