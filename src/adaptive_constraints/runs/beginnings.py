"""Begin runs: at step 0 with data, again with data, and with an online phase before them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import Prepared, Spec
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import InitialState, initial_state
from adaptive_constraints.environments.making import EnvSource
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.pretraining.preparation import prepare
from adaptive_constraints.runs.collector import Collector
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import DataFacts
from adaptive_constraints.runs.online import (
    Online,
    PreparedColumn,
    empty_table,
    growth,
    offline_rows,
    prepared_columns,
)
from adaptive_constraints.runs.run import Run
from adaptive_constraints.runs.settings import OnlineSettings
from adaptive_constraints.support.cpu import Products, check_compiler, fastest_products, warn_if_slower


def fresh_run(
    stack: Stack,
    dataset: Dataset,
    *,
    steps: int,
    seeds: Sequence[int],
    device: torch.device,
    execution: Execution,
    products: Products | None = None,
    progress: bool = False,
    kept: Mapping[str, Prepared] | None = None,
) -> Run:
    """Begin a run at step 0; ``products`` are by default the fastest here, and what is ``kept`` is not prepared."""
    warn_if_slower(execution.precision, device)
    if execution.compiled:
        check_compiler(device)
    learner, given = stack.learner, dataset
    dataset = learner.training_data(given)
    preprocessor = Preprocessor.fit(
        dataset,
        normalize_observations=learner.normalize_observations,
        reward_scale=learner.reward_scale,
        reward_shift=learner.reward_shift,
        action_margin=learner.action_margin,
    )
    spec = Spec(dataset.observation_dim, dataset.action_dim)
    resolved = stack.resolve()
    prepared = prepare(
        resolved, dataset, preprocessor, seeds, device, progress, kept or {}, compiled=execution.compiled
    )
    initial = initial_state(resolved, spec, seeds, prepared)
    table = preprocessor.packed_table(dataset, learner.columns(), initial.columns)
    program = program_of(resolved, spec, steps)
    return Run(
        stack,
        Engine(program, initial, table, horizon=steps, execution=execution, device=device),
        preprocessor.to(device),
        DataFacts.of(given),
        steps,
        History(tuple(seeds)),
        columns=prepared_columns(prepared),
        dataset=given,
        products=products or fastest_products(device),
    )


def with_data(run: Run, dataset: Dataset, traced: bool, progress: bool = False) -> Run:
    """Copy a run, at its step, with its data at hand, so that it can go on."""
    twin = _fresh_twin(run, dataset, traced, progress)
    twin.engine.load({name: t.clone() for name, t in run.engine.state().items()}, run.engine.step)
    twin.history = run.history
    return twin


def go_online(
    run: Run,
    settings: OnlineSettings,
    source: EnvSource,
    dataset: Dataset | None,
    traced: bool,
    progress: bool = False,
) -> Run:
    """Copy a run with its online phase before it or, if it is online already, at its step of that phase.

    Everything learned carries over by name; ``run`` stays as it is. ``dataset`` is needed unless the buffer starts
    empty.
    """
    history = copy.deepcopy(run.history)
    if run.online is None:
        online = Online(run.online_identity(settings), Collector(run.engine.seeds), source)
        history.online_from, state = online.identity.start, run.learned()
    else:
        online = replace(run.online, collector=copy.deepcopy(run.online.collector), source=source)
        state = run.engine.state()
    columns, table, own = run.columns, None, dict[str, Tensor]()
    reading = [part.title for part in (run.stack.learner, *run.stack.adapters) if part.reads_data]
    if reading and settings.buffer == "none":
        raise TrainingError(f"{reading[0]} reads the rows of the data, of which buffer='none' keeps none: take another")
    if settings.buffer != "none":
        assert dataset is not None
        at_hand = run.dataset is not None and run.online is None
        with_rows = run if at_hand else _fresh_twin(run, dataset, traced, progress)
        columns = with_rows.columns
        table, own = with_rows.engine.batches.select(offline_rows(settings, run.stack.learner.training_data(dataset)))
    initial = InitialState(
        seeds=run.engine.seeds,
        spec=run.spec,
        params=run.engine.params,
        buffers=run.engine.buffers,
        frozen=run.engine.frozen,
        columns={},
        seed_columns=own,
        targets=run.engine.targets,
        choices=run.engine.choices,
    )
    execution = run.engine.execution._replace(traced=traced)
    engine = online_engine(run.stack, online, initial, columns, run.device, execution, table)
    engine.load(engine.state() | state, run.engine.step)
    return replace(run, engine=engine, history=history, columns=columns, dataset=dataset, online=online)


def online_engine(
    stack: Stack,
    online: Online,
    initial: InitialState,
    columns: Sequence[PreparedColumn],
    device: torch.device,
    execution: Execution,
    table: Mapping[str, Tensor] | None = None,
) -> Engine:
    """Make the engine of an online phase; without a ``table`` there are no offline rows."""
    if table is None:
        table, own = empty_table(initial.spec, stack.learner, columns, len(initial.seeds))
        initial = replace(initial, seed_columns=own)
    settings, start = online.settings, online.identity.start
    horizon = start + settings.training_steps
    return Engine(
        program_of(stack.resolve("online"), initial.spec, horizon),
        initial,
        table,
        horizon=horizon,
        execution=execution,
        device=device,
        phase_start=start,
        growth=growth(settings, stack.learner, columns),
    )


def _fresh_twin(run: Run, dataset: Dataset, traced: bool, progress: bool) -> Run:
    """The same stack, seeds and data at step 0."""
    return fresh_run(
        run.stack,
        dataset,
        steps=run.steps,
        seeds=run.engine.seeds,
        device=run.device,
        execution=run.engine.execution._replace(traced=traced),
        products=run.products,
        progress=progress,
        kept=_models(run),
    )


def _models(run: Run) -> dict[str, Prepared]:
    """The models of adapters that prepared nothing but models: a checkpoint holds those, but no prepared columns."""
    with_columns = {column.adapter for column in run.columns}
    return {
        name: Prepared(models=models, choices=run.engine.choices.get(name, {}))
        for name, models in run.engine.frozen.items()
        if models and name not in with_columns
    }


__all__ = ["fresh_run", "go_online", "online_engine", "with_data"]
