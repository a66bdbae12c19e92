"""A stack in training: its engine, its map into learner space, and what happened so far; saved and loaded whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import Prepared, Spec
from adaptive_constraints.data import Dataset, Preprocessor, ReferenceScore
from adaptive_constraints.engine.batches import Replay
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import InitialState, initial_state
from adaptive_constraints.environments.specs import EnvSource, plain_env_spec
from adaptive_constraints.errors import CheckpointError, DatasetError, StackError
from adaptive_constraints.evaluation import Expected
from adaptive_constraints.networks import Precision
from adaptive_constraints.pretraining.preparation import prepare
from adaptive_constraints.runs.collector import Collector, CollectorHeader
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import DataFacts, Identity
from adaptive_constraints.runs.online import (
    Online,
    OnlineSettings,
    PreparedColumn,
    empty_table,
    fingerprint,
    growth,
    offline_rows,
    prepared_columns,
)
from adaptive_constraints.runs.reading import (
    check_finite,
    check_nothing_else,
    check_numbers,
    check_space,
    groups,
    under,
    unfilled_state,
)
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.cpu import Products, check_compiler, fastest_products, warn_if_slower
from adaptive_constraints.support.records import versions
from adaptive_constraints.support.typed import check, damage


@dataclass
class Trained:
    """One run of a stack, at whatever tick it stands."""

    stack: Stack
    engine: Engine
    preprocessor: Preprocessor
    data: DataFacts
    steps: int
    """Ticks planned offline."""
    history: History
    columns: Sequence[PreparedColumn] = ()
    """What the adapters prepared, beside the columns themselves."""
    dataset: Dataset | None = None
    """The data, where it is at hand."""
    products: Products = "default"
    """Whose matrix products, on a CPU; a run keeps to them, so that it goes on bit for bit."""
    online: Online | None = None
    """The online phase, once there is one."""

    @property
    def identity(self) -> Identity:
        """What a continuation must agree with."""
        execution, online = self.engine.execution, None if self.online is None else self.online.identity
        return Identity(
            stack=self.stack.to_spec(),
            steps=self.steps,
            seeds=self.engine.seeds,
            fingerprint=self.data.fingerprint,
            precision=execution.precision,
            compiled=execution.compiled,
            online=online,
        )

    @property
    def origin(self) -> str:
        """The fingerprint of the state in which the online phase began, or would begin now."""
        if self.online is not None:
            return self.online.origin
        learned = {name: t for name, t in self.engine.state().items() if not name.startswith("metrics.")}
        return fingerprint(learned | {"tick": torch.tensor(self.engine.tick)})

    @property
    def progress(self) -> tuple[int, int]:
        """How far it is, to be compared with that of the same run elsewhere: ticks, and steps in environments."""
        return self.engine.tick, 0 if self.online is None else self.online.collector.steps

    @property
    def begun(self) -> bool:
        """Whether its phase has been going on already."""
        return self.progress > (self.engine.phase_start, 0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there is to say against this stack in the phase it is in."""
        resolved = self.stack.resolve("offline" if self.online is None else "online")
        return tuple(map(str, resolved.warnings))

    @property
    def spec(self) -> Spec:
        """Dimensions of the data."""
        return self.engine.spec

    @property
    def expected(self) -> Expected:
        """What an environment must be like to be that of the data."""
        center, half = (
            tensor.detach().cpu().double().numpy()
            for tensor in (self.preprocessor.action_center, self.preprocessor.action_half_range)
        )
        return Expected(
            observation_size=self.spec.observation_dim,
            action_size=self.spec.action_dim,
            action_low=center - half,
            action_high=center + half,
            longest=self.data.longest,
            time_limit=(self.data.env_spec or {}).get("max_episode_steps"),
        )

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
        execution: Execution,
        products: Products | None = None,
        progress: bool = False,
        kept: Mapping[str, Prepared] | None = None,
    ) -> Trained:
        """At tick 0, with data; ``products`` are by default the fastest here, and what is ``kept`` is not prepared."""
        warn_if_slower(execution.precision, device)
        if execution.compiled:
            check_compiler(device)
        learner = stack.learner
        preprocessor = Preprocessor.fit(
            dataset,
            normalize_observations=learner.normalize_observations,
            reward_scale=learner.reward_scale,
            reward_shift=learner.reward_shift,
            action_margin=learner.action_margin,
        )
        spec = Spec(dataset.observation_dim, dataset.action_dim)
        resolved = stack.resolve()
        prepared = prepare(resolved, dataset, preprocessor, seeds, device, progress, kept or {})
        initial = initial_state(resolved, spec, seeds, prepared)
        table = preprocessor.packed_table(dataset, stack.learner.columns(), initial.columns)
        program = program_of(resolved, spec, steps)
        engine = Engine(program, initial, table, horizon=steps, execution=execution, device=device)
        return Trained(
            stack,
            engine,
            preprocessor.to(device),
            DataFacts.of(dataset),
            steps,
            History(),
            columns=prepared_columns(prepared),
            dataset=dataset,
            products=products or fastest_products(device),
        )

    @staticmethod
    def read(path: str | Path, device: torch.device) -> Trained:
        """As a file has it, without data: it can act, but not train on.

        Raises `CheckpointError` for a file that is not wholly what `write` made, `StackError` for an unknown stack.
        """
        header, tensors = checkpoint.read(path)
        with damage(
            CheckpointError, f"{path}: its parts do not fit together", "use an older checkpoint or train again"
        ):
            try:
                return _read(header, tensors, device)
            except StackError as error:
                raise StackError(f"{path}: {error}") from error

    def with_data(self, dataset: Dataset, traced: bool, progress: bool = False) -> Trained:
        """The same run at the same tick, with its data at hand, so that it can go on."""
        twin = self._fresh_twin(dataset, traced, progress)
        twin.engine.load({name: t.clone() for name, t in self.engine.state().items()}, self.engine.tick)
        twin.history = self.history
        return twin

    def _fresh_twin(self, dataset: Dataset, traced: bool, progress: bool) -> Trained:
        """The same stack, seeds and data at tick 0."""
        return Trained.fresh(
            self.stack,
            dataset,
            steps=self.steps,
            seeds=self.engine.seeds,
            device=self.device,
            execution=self.engine.execution._replace(traced=traced),
            products=self.products,
            progress=progress,
            kept=self._models(),
        )

    def _models(self) -> dict[str, Prepared]:
        """What adapters prepared that made models alone, which a checkpoint holds; columns it does not."""
        with_columns = {column.adapter for column in self.columns}
        return {
            name: Prepared(models=models)
            for name, models in self.engine.frozen.items()
            if models and name not in with_columns
        }

    def go_online(
        self,
        settings: OnlineSettings,
        source: EnvSource,
        dataset: Dataset | None,
        traced: bool,
        progress: bool = False,
    ) -> Trained:
        """The same run with its online phase before it, or at the same tick of that phase.

        Everything learned carries over by name; this run stays as it is. ``dataset`` is needed unless the buffer starts
        empty.
        """
        state, history = self.engine.state(), copy.deepcopy(self.history)
        if self.online is None:
            start = history.online_from = self.engine.tick
            online = Online(settings, self.origin, Collector(self.engine.seeds), source)
            state = {name: tensor for name, tensor in state.items() if not name.startswith("metrics.")}
        else:
            start = self.engine.phase_start
            online = replace(self.online, collector=copy.deepcopy(self.online.collector), source=source)
        with_rows, table = self, None
        own: dict[str, Tensor] = {}
        if settings.buffer != "none":
            assert dataset is not None
            if self.dataset is None or self.online is not None:
                with_rows = self._fresh_twin(dataset, traced, progress)
            table, own = with_rows.engine.batches.select(offline_rows(settings, dataset))
        columns = with_rows.columns
        initial = InitialState(
            seeds=self.engine.seeds,
            spec=self.spec,
            params=self.engine.params,
            buffers=self.engine.buffers,
            frozen=self.engine.frozen,
            columns={},
            seed_columns=own,
            targets=self.engine.targets,
        )
        execution = self.engine.execution._replace(traced=traced)
        engine = _online_engine(self.stack, settings, initial, columns, start, self.device, execution, table)
        engine.load(engine.state() | state, self.engine.tick)
        return replace(self, engine=engine, history=history, columns=columns, dataset=dataset, online=online)

    def write(self, path: str | Path) -> None:
        """Save everything, so that the run can go on from here bit for bit."""
        header = {
            "stack": self.stack.to_spec(),
            "steps": self.steps,
            "seeds": list(self.engine.seeds),
            "precision": self.engine.execution.precision,
            "compiled": self.engine.execution.compiled,
            "products": self.products,
            "tick": self.engine.tick,
            "data": asdict(self.data),
            "spec": self.spec._asdict(),
            "history": self.history.to_json(),
            "versions": versions(),
            "columns": [asdict(column) for column in self.columns],
            "online": None,
        }
        extra = {f"preprocessor/{name}": tensor for name, tensor in self.preprocessor.state().items()}
        if self.online is not None:
            header["online"] = {
                "settings": asdict(self.online.settings),
                "origin": self.online.origin,
                "start": self.engine.phase_start,
                "collector": self.online.collector.header(),
            }
            extra |= {f"collector/{name}": tensor for name, tensor in self.online.collector.tensors().items()}
        checkpoint.write(path, header, self.engine.state() | extra)

    # -- going on -------------------------------------------------------------------------------------------------

    def run(self, ticks: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """Run some ticks; online, each after a step in every seed's environment, the first after the warm-up.

        stopping: asked before each tick and step; once it says so, the rest is left out.
        """
        for _ in range(ticks):
            if self.online is not None:
                tick = self.engine.tick + 1 - self.engine.phase_start
                while self.online.collector.steps < self.online.settings.warm_up + tick and not stopping():
                    self._collect(self.online.collector)
            if stopping():
                return
            self.engine.run(1)

    def environments(self) -> AbstractContextManager[list[str]]:
        """What must be open while it runs; inside, what should be known about it, in words."""
        if self.online is None:
            return nullcontext([])
        self.online.collector.observation_type = self.preprocessor.observation_type
        return self.online.environments(self.expected)

    def _collect(self, collector: Collector) -> None:
        """One more row of every seed, in learner space."""
        step = collector.step(lambda observations, number: self.act(observations, number, "explore"))
        observation, action, reward, following, terminal, follows = (
            torch.as_tensor(array, device=self.device) for array in step
        )
        space, replay = self.preprocessor, self.engine.batches
        assert isinstance(replay, Replay)
        action = space.actions(action)
        mask = torch.ones_like(reward)
        if wanted := self.stack.learner.columns():
            found = {"next_action": action, "next_action_mask": mask}
            replay.amend({name: found[name] for name in wanted}, follows)
        replay.add(
            {
                "observation": space.observations(observation),
                "action": action,
                "reward": space.rewards(reward),
                "next_observation": space.observations(following),
                "terminal": terminal,
                "next_action": space.actions(torch.zeros_like(action)),
                "next_action_mask": 0 * mask,
            }
        )

    # -- acting ---------------------------------------------------------------------------------------------------

    def act(self, observations: NDArray[Any], step: int, way: Literal["act", "explore"] = "act") -> NDArray[np.float32]:
        """Raw actions [S, N, A] of all seeds at raw observations [S, N, D]; ``step`` keys a random policy's noise."""
        raw = torch.as_tensor(np.asarray(observations, self.preprocessor.observation_type), device=self.device)
        actions = self.engine.act(self.preprocessor.observations(raw), step, way)
        found: NDArray[np.float32] = self.preprocessor.raw_actions(actions).cpu().numpy()
        return found


class _OnlineHeader(TypedDict):
    settings: OnlineSettings
    origin: str
    start: int
    collector: CollectorHeader


class _Header(TypedDict):
    """What `Trained.write` says beside the arrays."""

    format: int
    arrays: dict[str, Any]
    stack: dict[str, Any]
    steps: int
    seeds: list[int]
    precision: Precision
    compiled: bool
    products: Products
    tick: int
    data: DataFacts
    spec: Spec
    history: dict[str, Any]
    versions: dict[str, str]
    columns: list[PreparedColumn]
    online: _OnlineHeader | None


def _read(header: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Trained:
    """A run of a file's content; `ValueError` where that does not fit together."""
    check(header, _Header, "the header", finite=False)
    stack, spec, online = Stack.from_spec(header["stack"]), Spec(**header["spec"]), header["online"]
    check_numbers(header)
    facts = dict(header["data"])
    reference = facts.pop("reference")
    data = DataFacts(**facts, reference=ReferenceScore(**reference) if reference else None)
    if data.env_spec is not None:
        try:
            plain_env_spec(data.env_spec)
        except DatasetError as error:
            raise ValueError(str(error)) from error
    space = under("preprocessor", tensors)
    check_space(space, spec)
    state = unfilled_state(stack, spec, tuple(header["seeds"]), groups("frozen", tensors))
    columns = [PreparedColumn(**each) for each in header["columns"]]
    history = History.from_json(header["history"], state.seeds, header["tick"])
    if history.online_from != (online and online["start"]):
        raise ValueError("its history has another beginning of the online phase")
    execution = Execution(precision=header["precision"], compiled=header["compiled"])
    if online is None:
        program = program_of(stack.resolve(), spec, header["steps"])
        engine = Engine(program, state, None, horizon=header["steps"], execution=execution, device=device)
    else:
        settings = OnlineSettings(**online["settings"])
        engine = _online_engine(stack, settings, state, columns, online["start"], device, execution)
    engine.load(tensors, header["tick"])
    check_nothing_else(tensors, engine, ("preprocessor/",) if online is None else ("preprocessor/", "collector/"))
    check_finite(engine, history)
    trained = Trained(stack, engine, Preprocessor.from_state(space).to(device), data, header["steps"], history, columns)
    trained.products = header["products"]
    if online is not None:
        collector = Collector.read(state.seeds, online["collector"], under("collector", tensors), spec)
        if engine.batches.collected != collector.steps:
            raise ValueError(f"it has {engine.batches.collected} collected rows of {collector.steps} steps")
        trained.online = Online(settings, online["origin"], collector)
    return trained


def _online_engine(
    stack: Stack,
    settings: OnlineSettings,
    initial: InitialState,
    columns: Sequence[PreparedColumn],
    start: int,
    device: torch.device,
    execution: Execution,
    table: Mapping[str, Tensor] | None = None,
) -> Engine:
    """The engine of a phase that begins after tick ``start``; without a ``table``, of one without offline rows."""
    if table is None:
        table, own = empty_table(initial.spec, stack.learner, columns, len(initial.seeds))
        initial = replace(initial, seed_columns=own)
    return Engine(
        program_of(stack.resolve("online"), initial.spec, start + settings.ticks),
        initial,
        table,
        horizon=start + settings.ticks,
        execution=execution,
        device=device,
        phase_start=start,
        growth=growth(settings, stack.learner, columns),
    )
