"""A run as one file: a header in JSON and the arrays of its engine, its map into learner space and its episodes.

What is read is held to what its stack has: names, shapes, numbers. `ValueError` says what differs, and `read_run` turns
it into a `CheckpointError` that names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import Spec
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import Groups, InitialState, grouped, initial_state, prefixed, under
from adaptive_constraints.errors import CheckpointError, StackError
from adaptive_constraints.runs.beginnings import online_engine
from adaptive_constraints.runs.collector import Collector, CollectorHeader
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import DataFacts, Identity, PlainIdentity
from adaptive_constraints.runs.online import Online, PreparedColumn
from adaptive_constraints.runs.run import Run
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.cpu import Products
from adaptive_constraints.support.records import versions
from adaptive_constraints.support.typed import check, damage

BESIDE = ("preprocessor", "collector")
"""Kinds of arrays that are not the engine's."""


class _Header(PlainIdentity):
    """The header of a file, beside its arrays."""

    format: int
    arrays: dict[str, Any]
    products: Products
    step: int
    data: dict[str, Any]
    spec: Spec
    history: dict[str, Any]
    versions: dict[str, str]
    columns: list[PreparedColumn]
    choices: dict[str, dict[str, str]]
    collector: CollectorHeader | None


def write_run(run: Run, path: str | Path) -> None:
    """Save everything, so that the run can go on from here bit for bit."""
    collector = None if run.online is None else run.online.collector
    header = run.identity.to_json() | {
        "products": run.products,
        "step": run.engine.step,
        "data": asdict(run.data),
        "spec": run.spec._asdict(),
        "history": run.history.to_json(),
        "versions": versions(),
        "columns": [asdict(column) for column in run.columns],
        "choices": run.engine.choices,
        "collector": collector and collector.header(),
    }
    space = prefixed("preprocessor", run.preprocessor.state())
    episodes = {} if collector is None else prefixed("collector", collector.tensors())
    checkpoint.write(path, header, run.engine.state() | space | episodes)


def read_run(path: str | Path, device: torch.device) -> Run:
    """The run as a file has it, without data: it can act, but not train on.

    Raises `CheckpointError` for a file that is not wholly what `write_run` made, `StackError` for an unknown stack.
    """
    header, tensors = checkpoint.read(path)
    with damage(CheckpointError, f"{path}: its parts do not fit together", "use an older checkpoint or train again"):
        try:
            return _read(header, tensors, device)
        except StackError as error:
            raise StackError(f"{path}: {error}") from error


def _read(header: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Run:
    check(header, _Header, "the header", finite=False)
    identity, spec = Identity.from_json(header), Spec(**header["spec"])
    stack = Stack.from_spec(identity.stack)
    _check_numbers(identity, spec, header["step"])
    data = DataFacts.from_json(header["data"])
    space = under("preprocessor", tensors)
    _check_space(space, spec)
    state = _unfilled_state(stack, spec, identity.seeds, grouped(under("frozen", tensors)), header["choices"])
    columns = [PreparedColumn(**column) for column in header["columns"]]
    online = _read_online(identity, header["collector"], under("collector", tensors), spec)
    execution = Execution(precision=identity.precision, compiled=identity.compiled)
    if online is None:
        program = program_of(stack.resolve(), spec, identity.steps)
        engine = Engine(program, state, None, horizon=identity.steps, execution=execution, device=device)
    else:
        engine = online_engine(stack, online, state, columns, device, execution)
    engine.load(tensors, header["step"])
    _check_nothing_else(tensors, engine)
    run = Run(
        stack,
        engine,
        Preprocessor.from_state(space).to(device),
        data,
        identity.steps,
        History.from_json(header["history"], identity.seeds, header["step"]),
        columns=columns,
        products=header["products"],
        online=online,
    )
    _check_whole(run)
    return run


def _read_online(
    identity: Identity, header: CollectorHeader | None, episodes: Mapping[str, Tensor], spec: Spec
) -> Online | None:
    if (identity.online is None) != (header is None) or (header is None and episodes):
        raise ValueError("it has episodes but no online phase, or the other way round")
    if identity.online is None or header is None:
        return None
    return Online(identity.online, Collector.read(identity.seeds, header, episodes, spec))


def _unfilled_state(
    stack: Stack, spec: Spec, seeds: tuple[int, ...], frozen: Groups, choices: dict[str, dict[str, str]]
) -> InitialState:
    """A state of the names and shapes that a stack's run has, whatever its numbers; of models, those that are given."""
    names = [adapter.name for adapter in stack.adapters]
    for name in [*frozen, *choices]:
        if name not in names:
            raise ValueError(f"it has models or choices of an adapter {name!r}, which is not in the stack")
    for name, models in frozen.items():
        for key, tensor in models.items():
            if tensor.shape[:1] != (len(seeds),):
                raise ValueError(f"the model array {name}/{key} is not of {len(seeds)} seeds")
    resolved = stack.resolve()
    fresh = initial_state(resolved, spec, seeds, {})
    averaged = {average.group for stage in resolved.stages for average in stage.averages}
    return replace(
        fresh,
        frozen={name: {} for name in names} | frozen,
        choices=choices,
        targets={group: fresh.params[group] for group in averaged},
    )


# -- checks -------------------------------------------------------------------------------------------------------


def _check_numbers(identity: Identity, spec: Spec, step: int) -> None:
    """Raise `ValueError` for numbers that no run has."""
    seeds, steps, first, last = identity.seeds, identity.steps, 0, identity.steps
    if identity.online is not None:
        settings, first = identity.online.settings, identity.online.start
        last = first + settings.training_steps
        if not 0 <= settings.warm_up < settings.steps or settings.capacity < 1:
            raise ValueError("its online phase has a length that none has")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("its seeds must be different numbers, one at least")
    if min(spec) < 1:
        raise ValueError("its dimensions must be at least 1")
    if not (steps >= max(1, first) and 0 <= first <= step <= last):
        raise ValueError(f"step {step} does not lie between {first} and {last}")


def _check_space(space: Mapping[str, Tensor], spec: Spec) -> None:
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


def _check_nothing_else(tensors: Mapping[str, Tensor], engine: Engine) -> None:
    """Raise `ValueError` for arrays that neither an engine has nor what stands beside it."""
    known, beside = engine.state(), tuple(f"{kind}/" for kind in BESIDE)
    if unknown := [name for name in tensors if name not in known and not name.startswith(beside)]:
        raise ValueError(f"it has arrays of unknown meaning: {', '.join(unknown[:5])}")


def _check_whole(run: Run) -> None:
    """Raise `ValueError` where parts of a run contradict each other, or a seed that counts is not finite."""
    engine, history, online = run.engine, run.history, run.online
    if history.online_from != (online and online.identity.start):
        raise ValueError("its history has another beginning of the online phase")
    if online is not None and engine.batches.collected != online.collector.steps:
        raise ValueError(f"it has {engine.batches.collected} collected rows of {online.collector.steps} steps")
    for name, positions in run.not_finite().items():
        for position in positions:
            if engine.seeds[position] not in history.failures:
                raise ValueError(f"{name} of seed {engine.seeds[position]}, which is not lost, is not finite")


__all__ = ["read_run", "write_run"]
