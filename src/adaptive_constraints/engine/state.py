"""The state of all seeds: how it begins, and how its arrays are named.

Before step 1 each seed is made alone, from generators of its own, then stacked. Wherever a state is held in one flat
mapping, a name is a path that begins with the kind of the array: "params/actor/weight0", "adam/actor/weight0/step",
"replay/reward".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.core.types import Params, Prepared, Spec
from adaptive_constraints.errors import StackError

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
    """Prepared columns [N] or [N, C] by '<adapter>.<column>'; the only ones without an axis over seeds."""
    seed_columns: dict[str, Tensor]
    """Prepared columns [S, N] or [S, N, C], likewise."""
    targets: Groups = field(default_factory=dict)
    """Polyak averages by group; those that are needed but missing start at the parameters."""
    choices: dict[str, dict[str, str]] = field(default_factory=dict)
    """`Prepared.choices` by adapter name."""


def initial_state(
    resolved: Resolved, spec: Spec, seeds: Sequence[int], prepared: Mapping[str, Prepared]
) -> InitialState:
    """Initialise every seed; ``prepared`` is what the adapters made of the data, by name."""
    return InitialState(
        seeds=tuple(seeds),
        spec=spec,
        params=stack_seeds([_params(resolved, spec, seed) for seed in seeds]),
        buffers=stack_seeds([{a.name: a.buffers(spec, resolved.facts) for a in resolved.adapters} for _ in seeds]),
        frozen={name: dict(own.models) for name, own in prepared.items()},
        columns={f"{name}.{key}": c for name, own in prepared.items() for key, c in own.columns.items()},
        seed_columns={f"{name}.{key}": c for name, own in prepared.items() for key, c in own.seed_columns.items()},
        choices={name: dict(own.choices) for name, own in prepared.items() if own.choices},
    )


def _params(resolved: Resolved, spec: Spec, seed: int) -> Groups:
    learner = resolved.learner
    groups = checked_groups(learner.title, learner.init(spec, generator(seed, "learner")))
    if resolved.shared_value is not None:
        groups["value"] = resolved.shared_value.init(spec, generator(seed, "value"))
    for adapter in resolved.adapters:
        own = checked_groups(adapter.title, adapter.init(spec, resolved.facts, generator(seed, adapter.name)))
        groups |= {adapter.group(short): params for short, params in own.items()}
    return groups


MODULES = "declare Modules by networks.from_modules, and let init return self.nets.init(spec, generator)"


def checked_groups(owner: str, groups: Any) -> Groups:
    """What an ``init`` returned, without gradients; `StackError` where it is not groups of named tensors."""
    if not isinstance(groups, Mapping):
        raise StackError(f"{owner}: init must return a dict of groups, not {_kind(groups)}")
    checked: Groups = {}
    for group, params in groups.items():
        what = f"{owner}: init, group {group!r}"
        if isinstance(params, torch.nn.Module):
            raise StackError(f"{what}: it is a Module, which seeds cannot share: {MODULES}")
        if not isinstance(params, Mapping) or not params:
            raise StackError(f"{what}: it must be a dict of tensors, with one at least, not {_kind(params)}")
        for name, tensor in params.items():
            if not isinstance(tensor, Tensor):
                hint = f": {MODULES}" if isinstance(tensor, torch.nn.Module) else ""
                raise StackError(f"{what}: {name!r} must be a tensor, not {_kind(tensor)}{hint}")
            if not tensor.is_floating_point():
                raise StackError(f"{what}: {name!r} must hold floating-point numbers to be stepped, not {tensor.dtype}")
        if slashed := [name for name in (group, *params) if not isinstance(name, str) or "/" in name]:
            raise StackError(f"{what}: a name must be text without a slash, not {slashed[0]!r}")
        checked[group] = {name: tensor.detach() for name, tensor in params.items()}
    return checked


def _kind(value: object) -> str:
    return "an empty one" if value == {} else f"{value.__class__.__name__}"


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with ``prefix`` and a slash before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `prefixed` named so, by the names that they had before."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def grouped(tensors: Mapping[str, Tensor]) -> Groups:
    """The tensors by the first word of their names, then by the rest."""
    groups: Groups = {}
    for name, tensor in tensors.items():
        group, _, short = name.partition("/")
        groups.setdefault(group, {})[short] = tensor
    return groups


def stack_seeds(seeds: Sequence[Groups]) -> Groups:
    """One tree of the seeds' trees, each tensor with a leading axis over seeds."""
    return {
        group: {name: torch.stack([one[group][name] for one in seeds]) for name in params}
        for group, params in seeds[0].items()
    }
