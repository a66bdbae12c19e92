"""Preparation of adapters before step 1: columns, and models trained on the learners' own engine and kept."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints._version import __version__
from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.preparation import ModelFit, Preparation, Pretraining
from adaptive_constraints.core.types import Params, Prepared, Spec, Stage
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.compiled_step import WORTH_COMPILING
from adaptive_constraints.errors import CheckpointError, StackError
from adaptive_constraints.pretraining.model_fit import EngineFit
from adaptive_constraints.pretraining.resume import KeptPretraining
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.cpu import tuned
from adaptive_constraints.support.files import cache_folder, locked
from adaptive_constraints.support.progress import Progress
from adaptive_constraints.support.stopping import asked, stop

CPU = torch.device("cpu")


@dataclass(frozen=True)
class BoundPreparation(Preparation):
    """A preparation whose models are trained on the learners' own engine."""

    device: torch.device = CPU
    progress: bool = False
    compiled: bool = False
    """Compile the steps of models that are long in training, as the run compiles its own; on CPUs only."""

    @cached_property
    def table(self) -> dict[str, Tensor]:
        return self.preprocessor.table(self.data)

    def model(
        self,
        name: str,
        init: Callable[[torch.Generator], Mapping[str, Params]],
        stages: Sequence[Stage],
        *,
        steps: int,
        batch_size: int = 256,
        table: Mapping[str, Tensor] | None = None,
        seed_columns: Mapping[str, Tensor] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> ModelFit:
        return EngineFit(
            name,
            init,
            stages,
            seeds=self.seeds if seeds is None else seeds,
            spec=self.spec,
            table=self.table if table is None else table,
            seed_columns=seed_columns or {},
            steps=steps,
            batch_size=batch_size,
            device=self.device,
            compiled=self._compiles(steps),
        )

    def _compiles(self, steps: int) -> bool:
        return self.compiled and self.device.type == "cpu" and steps >= WORTH_COMPILING

    def trained(
        self,
        name: str,
        settings: Mapping[str, Any],
        train: Callable[[Sequence[int], Pretraining], Params],
        *,
        steps: int,
        shared: bool = False,
    ) -> Params:
        seeds = self.seeds[:1] if shared else self.seeds
        if self._compiles(steps):  # whose numbers differ by rounding
            settings = {**settings, "compiled": True}
        kept = self._kept(name, settings, seeds)
        if missing := [seed for seed in seeds if seed not in kept]:
            half = self._file(f"{name}.half-trained", settings, missing)
            with locked(half.parent, self._waiting(), name=f".{half.stem}.lock"):
                kept = self._kept(name, settings, seeds)  # somebody else may have made them meanwhile
                if missing := [seed for seed in seeds if seed not in kept]:
                    kept |= self._made(name, settings, missing, half, train, steps)
                if not _alike(kept):  # what was kept is of no use
                    kept = self._made(name, settings, seeds, half, train, steps)
        ordered = [kept[seeds[0] if shared else seed] for seed in self.seeds]
        return {key: torch.stack([params[key] for params in ordered]) for key in ordered[0]}

    def _kept(self, name: str, settings: Mapping[str, Any], seeds: Sequence[int]) -> dict[int, Params]:
        """The models that the cache holds, by seed."""
        cached = {seed: _read(self._file(name, settings, seed), name, seed) for seed in seeds}
        kept = {seed: params for seed, params in cached.items() if params is not None}
        return kept if _alike(kept) else {}  # who knows which is damaged

    def _made(
        self,
        name: str,
        settings: Mapping[str, Any],
        seeds: Sequence[int],
        half: Path,
        train: Callable[[Sequence[int], Pretraining], Params],
        steps: int,
    ) -> dict[int, Params]:
        """Train models, by seed, and put them into the cache."""
        pretraining = KeptPretraining(half, self.device, name, steps)
        bar = Progress(name, steps, pretraining.done, self.progress)
        again = f" from {pretraining.done:,} on" if pretraining.done else ""
        bar.say(f"{name}: training, up to {steps:,} minibatches{again}; kept in the cache for later runs")
        with bar as pretraining.progress, tuned(self.device, pretraining.products):
            trained = train(seeds, pretraining)
        made = {seed: {key: t[place].cpu() for key, t in trained.items()} for place, seed in enumerate(seeds)}
        for seed, params in made.items():
            header = {"name": name, "seed": seed, "settings": dict(settings)}
            checkpoint.write(self._file(name, settings, seed), header, params)
        pretraining.finish()
        return made

    def _waiting(self) -> Callable[[str], None]:
        """Say once that another process trains the same; wait until it has, or a stop is asked for."""
        said: list[str] = []

        def wait(text: str) -> None:
            if self.progress and not said:
                print(f"{text}: waiting, it trains the same model", file=sys.stderr, flush=True)
                said.append(text)
            if asked():
                stop("stopped while another process trains the model; the same call or command goes on")

        return wait

    def _file(self, name: str, settings: Mapping[str, Any], seed: int | Sequence[int]) -> Path:
        key = {
            "data": self.data.fingerprint,
            "learner space": {k: t.tolist() for k, t in self.preprocessor.state().items()},
            "settings": dict(settings),
            "seed": seed,
            "device": self.device.type,
            "version": __version__,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        return cache_folder() / f"{name.replace('/', '-')}-{digest}.npz"


def prepare(
    resolved: Resolved,
    data: Dataset,
    preprocessor: Preprocessor,
    seeds: Sequence[int],
    device: torch.device,
    progress: bool = False,
    kept: Mapping[str, Prepared] = types.MappingProxyType({}),
    *,
    compiled: bool = False,
) -> dict[str, Prepared]:
    """Prepare each adapter of a stack on the data, by its name; what is ``kept`` is not made again.

    compiled: compile the steps of models that are long in training.
    """
    spec = Spec(data.observation_dim, data.action_dim)
    preparation = BoundPreparation(
        data, preprocessor, resolved.facts, spec, tuple(seeds), resolved.learner.discount, device, progress, compiled
    )
    prepared = {
        adapter.name: kept.get(adapter.name) or adapter.prepare(preparation) or Prepared()
        for adapter in resolved.adapters
    }
    for name, made in prepared.items():
        rows = {column: len(values) for column, values in made.columns.items()}
        rows |= {column: values.shape[1] for column, values in made.seed_columns.items()}
        for column, count in rows.items():
            if count != len(data):
                raise StackError(f"{name}: its column {column!r} has {count} rows, the data has {len(data)}")
    return prepared


def _alike(models: Mapping[int, Params]) -> bool:
    """Tell whether the models of all seeds have arrays of the same names, shapes and types."""
    kinds = [{key: (t.shape, t.dtype) for key, t in params.items()} for params in models.values()]
    return all(kind == kinds[0] for kind in kinds)


def _read(file: Path, name: str, seed: int) -> Params | None:
    """The model of one seed; None where there is none, or a damaged one."""
    if not file.is_file():
        return None
    try:
        header, tensors = checkpoint.read(file)
    except CheckpointError:
        return None
    whole = all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    return tensors if whole and (header.get("name"), header.get("seed")) == (name, seed) else None
