"""Parts of a saved run, held to what its stack has: names, shapes, numbers. `ValueError` says what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import Spec
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.state import Groups, InitialState, initial_state
from adaptive_constraints.runs.history import History


def unfilled_state(stack: Stack, spec: Spec, seeds: tuple[int, ...], frozen: Groups) -> InitialState:
    """A state of the names and shapes that a stack's run has, whatever its numbers; of models, those that are given."""
    names = [adapter.name for adapter in stack.adapters]
    for name, models in frozen.items():
        if name not in names:
            raise ValueError(f"it has models of an adapter {name!r}, which is not in the stack")
        for key, tensor in models.items():
            if tensor.shape[:1] != (len(seeds),):
                raise ValueError(f"the model array {name}/{key} is not of {len(seeds)} seeds")
    resolved = stack.resolve()
    fresh = initial_state(resolved, spec, seeds, {})
    averaged = {average.group for stage in resolved.stages for average in stage.averages}
    return replace(
        fresh,
        frozen={name: {} for name in names} | frozen,
        targets={group: fresh.params[group] for group in averaged},
    )


def check_numbers(header: Mapping[str, Any]) -> None:
    """Raise `ValueError` for numbers of a header that no run has."""
    seeds, online, first, last = header["seeds"], header["online"], 0, header["steps"]
    if online is not None:
        settings, first = online["settings"], online["start"]
        last = first + settings["steps"] - settings["warm_up"]
        if not 0 <= settings["warm_up"] < settings["steps"] or settings["capacity"] < 1:
            raise ValueError("its online phase has a length that none has")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("its seeds must be different numbers, one at least")
    if min(header["spec"].values()) < 1:
        raise ValueError("its dimensions must be at least 1")
    if not (header["steps"] >= max(1, first) and 0 <= first <= header["tick"] <= last):
        raise ValueError(f"tick {header['tick']} does not lie between {first} and {last}")


def check_space(space: Mapping[str, Tensor], spec: Spec) -> None:
    """Raise `ValueError` unless the constants of a `Preprocessor` are usable numbers of these dimensions."""
    sizes = {"observation": spec.observation_dim, "action": spec.action_dim}
    wanted = {entry.name for entry in fields(Preprocessor)}
    if set(space) != wanted:
        raise ValueError(f"its map into learner space needs {sorted(wanted)}, but holds {sorted(space)}")
    for name, tensor in space.items():
        limit = name == "action_limit"
        size = None if limit else sizes.get(name.partition("_")[0])
        if tensor.shape != (() if size is None else (size,)) or not tensor.is_floating_point():
            raise ValueError(f"{name} has the shape {list(tensor.shape)} and the type {tensor.dtype}")
        divides = name.endswith(("_std", "_range", "_limit")) or name == "reward_scale"
        if tensor.isnan().any() or not (limit or tensor.isfinite().all()) or (divides and (tensor == 0).any()):
            raise ValueError(f"{name} holds {tensor.tolist()}, which no data gives")


def check_nothing_else(tensors: Mapping[str, Tensor], engine: Engine, beside: tuple[str, ...]) -> None:
    """Raise `ValueError` for arrays that neither an engine has nor what stands beside it."""
    known = set(engine.state())
    if unknown := [name for name in tensors if name not in known and not name.startswith(beside)]:
        raise ValueError(f"it has arrays of unknown meaning: {', '.join(unknown[:5])}")


def check_finite(engine: Engine, history: History) -> None:
    """Raise `ValueError` where a seed that counts has a parameter that is not a number."""
    for name, positions in not_finite(engine).items():
        for position in positions:
            if engine.seeds[position] not in history.failures:
                raise ValueError(f"{name} of seed {engine.seeds[position]}, which is not lost, is not finite")


def not_finite(engine: Engine) -> dict[str, list[int]]:
    """By name of a parameter or an average: the positions of the seeds in which it is not finite."""
    found = {}
    for name, tensor in engine.state().items():
        if name.startswith(("params/", "targets/")) and not tensor.isfinite().all():
            bad = ~tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else ~tensor.isfinite()
            found[name] = bad.nonzero().flatten().tolist()
    return found


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays below a prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def groups(prefix: str, tensors: Mapping[str, Tensor]) -> Groups:
    """The arrays below a prefix, by group."""
    found: Groups = {}
    for name, tensor in under(prefix, tensors).items():
        group, _, short = name.partition("/")
        found.setdefault(group, {})[short] = tensor
    return found


__all__ = [
    "check_finite",
    "check_nothing_else",
    "check_numbers",
    "check_space",
    "groups",
    "not_finite",
    "under",
    "unfilled_state",
]
