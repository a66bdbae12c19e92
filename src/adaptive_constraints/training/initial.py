"""The state of all seeds before tick 1: each seed is made alone, from generators of its own, then stacked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_constraints.adapter import Adapter, Prepared
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.learner import Facts, Params, Spec
from adaptive_constraints.stack import Resolved

Groups = dict[str, Params]


@dataclass(frozen=True)
class InitialState:
    """Every tensor has a leading axis [S] over seeds."""

    seeds: tuple[int, ...]
    spec: Spec
    params: Groups
    buffers: Groups
    """By adapter name."""
    frozen: Groups
    """By adapter name."""
    columns: dict[str, Tensor]
    """Prepared columns [S, N] or [S, N, C] by '<adapter>.<column>'."""


def generator(seed: int, component: str) -> torch.Generator:
    """The generator of one component of one seed; adding a component never shifts another's numbers."""
    digest = hashlib.sha256(f"{seed}/{component}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def initial_state(
    resolved: Resolved,
    spec: Spec,
    seeds: Sequence[int],
    data: Dataset | None = None,
    preprocessor: Preprocessor | None = None,
) -> InitialState:
    """Initialise every seed, and let the adapters prepare what they make of the data, where there is any."""
    prepared = {
        adapter.name: [_prepared(adapter, data, preprocessor, seed, resolved.facts) for seed in seeds]
        for adapter in resolved.adapters
    }
    return InitialState(
        seeds=tuple(seeds),
        spec=spec,
        params=_stack([_params(resolved, spec, seed) for seed in seeds]),
        buffers=_stack([{a.name: a.buffers(spec, resolved.facts) for a in resolved.adapters} for _ in seeds]),
        frozen=_stack([{name: dict(each[i].models) for name, each in prepared.items()} for i in range(len(seeds))]),
        columns={
            f"{name}.{column}": torch.stack([one.columns[column] for one in each])
            for name, each in prepared.items()
            for column in each[0].columns
        },
    )


def _prepared(
    adapter: Adapter, data: Dataset | None, preprocessor: Preprocessor | None, seed: int, facts: Facts
) -> Prepared:
    if data is None or preprocessor is None:
        return Prepared()
    return adapter.prepare(data, preprocessor, seed, facts) or Prepared()


def _params(resolved: Resolved, spec: Spec, seed: int) -> Groups:
    groups = dict(resolved.learner.init(spec, generator(seed, "learner")))
    if resolved.shared_value is not None:
        groups["value"] = resolved.shared_value.init(spec, generator(seed, "value"))
    for adapter in resolved.adapters:
        own = adapter.init(spec, resolved.facts, generator(seed, adapter.name))
        groups |= {adapter.group(short): params for short, params in own.items()}
    return groups


def _stack(seeds: Sequence[Groups]) -> Groups:
    return {
        group: {name: torch.stack([one[group][name] for one in seeds]) for name in params}
        for group, params in seeds[0].items()
    }
