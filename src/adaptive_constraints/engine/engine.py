"""The engine: runs the steps of a program for several seeds at once.

It owns the state tree, whose tensors have a leading axis over seeds, and says what is due and what changes the state:
stepping, averaging, advancing buffers. What it steps by is computed in `gradients`.

The gradients of a stage are one pure function of the state. It is traced once into a straight list of tensor
operations (`functions`) and replayed, so that a step pays neither for the learner's Python nor for autograd's
bookkeeping. On CUDA, and compiled on a CPU, the whole step is recorded (`recording`). ``traced=False`` runs everything
as it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Average, Draw, Params, Schedule, Stage
from adaptive_constraints.core.view import Inputs
from adaptive_constraints.engine import over_seeds
from adaptive_constraints.engine.acting import Acting
from adaptive_constraints.engine.batches import Batches, Growth, Replay, batches_of
from adaptive_constraints.engine.functions import Repeated, with_draws
from adaptive_constraints.engine.gradients import Losses, Scalars, StageGradients
from adaptive_constraints.engine.meta_step import OuterStepper
from adaptive_constraints.engine.metrics import Metrics
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.engine.optimizers import Optimizers
from adaptive_constraints.engine.oracles import derivative_by
from adaptive_constraints.engine.recording import Graph, Recorded, Recorder, graphs_for
from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.engine.state import InitialState, prefixed, under
from adaptive_constraints.engine.timetable import Due, Timetable
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import Precision, product_precision


class Execution(NamedTuple):
    """How steps are executed."""

    traced: bool = True
    """Stages as straight lists of operations, on CUDA whole steps as graphs; otherwise all as it is written."""
    precision: Precision = "float32"
    """Of matrix products."""
    compiled: bool = False
    """On a CPU whole steps compiled to native programs, on CUDA the stages, by torch's inductor."""


class _Running:
    """A stage and its pure functions."""

    def __init__(self, stage: Stage, number: int, losses: Losses, execution: Execution) -> None:
        """``number`` is its place in the step; names of stages need not differ."""
        self.stage, self.number = stage, number
        traced, compiled = execution.traced, execution.compiled
        self.gradients: Repeated[Inputs, StageGradients] = Repeated(
            lambda x: losses.gradients(stage, x), traced=traced, compiled=compiled
        )
        # What runs so seldom does not earn its compiling.
        self.outer_gradients: Repeated[Inputs, StageGradients] = Repeated(
            lambda x: losses.gradients(stage, x, outer=True), traced=traced
        )


class Engine:
    """Trains all seeds of a program; owns the whole state tree."""

    def __init__(
        self,
        program: Program,
        initial: InitialState,
        table: Mapping[str, Tensor] | None,
        *,
        horizon: int,
        execution: Execution | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        namespace: str = "",
        phase_start: int = 0,
        growth: Growth | None = None,
        graphs: type[Graph] | None = None,
    ) -> None:
        """``table`` holds the data's columns [N, ...] in learner space; without one it can act but not train.

        ``horizon`` is the planned number of steps. ``namespace`` stands before every site of noise, so that two
        engines of one seed draw apart. ``phase_start`` is the step after which this phase begins. ``growth`` lets the
        table grow by rows added to ``batches``. ``graphs`` is the kind of graph that steps are recorded in; by default
        CUDA's, on CUDA, or a compiled step elsewhere, if that is asked for.
        """
        device = torch.device(device)
        self.program, self.seeds, self.horizon = program, initial.seeds, horizon
        self.spec, self.phase_start = initial.spec, phase_start
        self.execution = execution = execution or Execution()
        self.step = 0

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)

        self.params, self.buffers, self.frozen, targets = pytree.tree_map(
            place, (initial.params, initial.buffers, initial.frozen, initial.targets)
        )
        averaged = sorted({average.group for stage in program.stages for average in stage.averages})
        self.targets = {group: {name: t.clone() for name, t in self.params[group].items()} for group in averaged}
        self.targets |= targets
        self.metrics = Metrics(len(self.seeds), device)
        self._clock = {
            "step": torch.zeros((), dtype=torch.int64, device=device),
            "phase_step": torch.zeros((), dtype=torch.int64, device=device),
            "horizon": torch.full((), horizon, dtype=torch.int64, device=device),
        }
        self.choices = initial.choices
        """Words that the data decided, by adapter name."""
        self._losses = Losses(program, len(self.seeds), self.choices)
        kind = graphs or (graphs_for(device, execution.compiled) if execution.traced else None)
        in_one_piece = kind is not None and kind.in_one_piece
        inside = execution._replace(traced=False, compiled=False) if in_one_piece else execution
        self.optimizers = Optimizers(self.params, captured=kind is not None, written_out=in_one_piece)
        self._outer: OuterStepper | None = None
        if program.outer is not None:
            assert program.constrained is not None
            backend = program.outer.step.backend
            derivative = derivative_by(backend, self._losses, self.optimizers, program.constrained)
            if in_one_piece and not derivative.recordable:
                raise StackError(f"meta_step={backend!r} cannot be compiled: leave compiled at False, or closed_form")
            kind = kind if derivative.recordable else None
            self._outer = OuterStepper(
                program.outer, self._losses, self.params, self.optimizers, derivative, inside.traced
            )
        recorded = kind is not None
        self._noise = NoiseTables(self.seeds, device, dtype, namespace, self._clock["step"] if recorded else None)
        acting_noise = NoiseTables(self.seeds, device, dtype, namespace)
        self._acting = Acting(self._losses, lambda: self._inputs({}), acting_noise, execution.traced)
        self._recorder = Recorder(kind, self._noise, self._changing) if kind is not None else None
        self._foresees = in_one_piece
        self.say: Callable[[str], None] = lambda text: None
        """Where to say what takes long."""
        self._batches: Batches | None = None
        self._data: Tensor | None = None
        if table is not None:
            more = {name: column for name, column in initial.columns.items() if name not in table}
            columns, size = {**table, **more}, program.batch_size
            numbered = program.reads_data
            self._batches = batches_of(
                columns, initial.seed_columns, self._noise, size, device, dtype, growth, numbered=numbered
            )
            if program.reads_data:
                self._data, self._losses.unpack = self._batches.data, self._batches.unpack
        self._batch: dict[str, Tensor] | None = {}
        self._timetable = Timetable(program)
        self._stages = [
            _Running(stage, number, self._losses, inside) for number, stage in enumerate(program.stages, start=1)
        ]
        self._draws: dict[str, dict[Draw, None]] = {}

    @property
    def draws(self) -> frozenset[Draw]:
        """Every draw of noise that the steps so far were found to make."""
        repeated = [function for running in self._stages for function in (running.gradients, running.outer_gradients)]
        several = [*self._draws.values(), *self._acting.draws.values(), *(function.draws for function in repeated)]
        if self._outer is not None:
            several += [self._outer.loss.draws, self._outer.through.draws]
        return frozenset(draw for draws in several for draw in draws)

    @property
    def traced(self) -> dict[str, bool]:
        """Which of the functions that have run were traced, by name."""
        named: dict[str, Repeated[Any, Any]] = {
            f"{running.number}.{running.stage.name}": running.gradients for running in self._stages
        }
        named |= {f"{running.number}.{running.stage.name}+meta": running.outer_gradients for running in self._stages}
        if self._outer is not None:
            named |= {"outer loss": self._outer.loss, "through the trade-off": self._outer.through}
        return {name: function.traced for name, function in named.items() if function.met}

    @property
    def recorded(self) -> Mapping[Hashable, Recorded]:
        """The steps that were recorded so far, by what was due."""
        return {} if self._recorder is None else self._recorder.recorded

    @property
    def batch(self) -> dict[str, Tensor]:
        """Columns [S, B, ...] of the last minibatch."""
        if self._batch is None:  # a compiled step keeps its own to itself
            self._gather()
        return self._batch or {}

    @property
    def batches(self) -> Batches:
        """Where minibatches come from; there must be a table."""
        assert self._batches is not None
        return self._batches

    # -- steps ----------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Run this many steps; on CUDA, it does not wait for the device."""
        self.record_ahead()
        with product_precision(self.execution.precision):
            for _ in range(steps):
                self.step += 1
                due = self._timetable.at(self.step)
                self._set_rates(due)
                if self._recorder is None or due.rare:
                    self._run_step(due)
                else:
                    run = lambda due=due: self._run_step(due)  # noqa: E731
                    self._batch = self._recorder.replay(due, self.step, self.batches, run) or None
                for number in due.stages:
                    self.metrics.count(self._metric_group(self._stages[number - 1], due))

    def record_ahead(self) -> None:
        """Record every kind of step that is to come, where they are compiled, so that they compile side by side.

        `run` does so by itself; what runs against a clock calls it before.
        """
        if not self._foresees or self._recorder is None or self._batches is None:
            return
        self._foresees, started, at = False, time.perf_counter(), self.step
        dues = self._timetable.ahead(self.step, self.horizon)
        kinds = "1 kind" if len(dues) == 1 else f"{len(dues)} kinds"
        self.say(f"recording {kinds} of steps, and compiling what no earlier run compiled")
        with product_precision(self.execution.precision):
            for due in dues:
                self.step += 1  # one that is run, so that its rates are set
                self._set_rates(due)
                self._recorder.record(due, lambda due=due: self._run_step(due))  # type: ignore[misc]
                self.step = at
        for due in dues:
            self._recorder.recorded[due].graph.ready()
        self._batch = None
        self.say(f"steps are compiled ({time.perf_counter() - started:.0f} s)")

    def _run_step(self, due: Due) -> dict[str, Tensor]:
        """Everything that the device does in a step; its minibatch."""
        self._clock["step"].add_(1)
        self._clock["phase_step"].add_(1)
        self._gather()
        for number in due.stages:
            self._run_stage(self._stages[number - 1], due)
        for name in due.advancing:
            self._assign(self.buffers[name], self.ask(name, self.program.advancing[name].advance))
        return self.batch

    def _gather(self) -> None:
        if self._batches:  # and there is a row
            self._batch = self._batches.at(self.step)

    def _run_stage(self, running: _Running, due: Due) -> None:
        stage, constrained = running.stage, self.program.constrained
        outer = self._outer if due.outer and self._timetable.is_constrained(stage) else None
        gradients = (running.gradients if outer is None else running.outer_gradients)(self._inputs)
        # The constrained group steps first and the trade-off at once, while every other group holds its old value.
        for update in sorted(stage.updates, key=lambda update: update.group != constrained):
            own = gradients.by_group[update.group]
            factor = over_seeds.clip(own, update.clip)
            if outer is not None and update.group == constrained:
                scaled = gradients._replace(mixed=over_seeds.scale(gradients.mixed, factor))
                result = outer.take(update, scaled, self._inputs)
                self._assign(self.buffers[outer.owner], result.buffers)
                gradients.scalars.update(result.scalars)
            else:
                self.optimizers.step(update.group, own)
        for group, values in gradients.kept.items():
            self._assign(self.params[group], values)
        self._average([stage.averages[number] for place, number in due.averages if place == running.number])
        self.metrics.add(self._metric_group(running, due), gradients.scalars, self._clock["step"])

    def _metric_group(self, running: _Running, due: Due) -> str:
        """A word without a slash: what a stage logs differs with whether the trade-off steps."""
        outer = due.outer and self._timetable.is_constrained(running.stage)
        return f"{running.number}{'+meta' if outer else ''}"

    def synchronize(self) -> None:
        """Wait until the device has done all steps."""
        if self._clock["step"].is_cuda:
            torch.cuda.synchronize(self._clock["step"].device)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _set_rates(self, due: Due) -> None:
        """The learning rates of this step's updates."""
        for number in due.stages:
            for update in self._stages[number - 1].stage.updates:
                self.optimizers.set_rate(update.group, self._rate(update.learning_rate))
        period = self._timetable.outer_period
        if due.outer and self.program.outer is not None and period is not None:
            step = self.program.outer.step
            rate = step.learning_rate(self.step // period - 1, max(1, self.horizon // period))
            self.optimizers.set_rate(step.group, rate)

    def _rate(self, schedule: Schedule) -> float:
        return schedule(self.step, self.horizon) if callable(schedule) else schedule

    @torch.no_grad()
    def _average(self, averages: Sequence[Average]) -> None:
        for average in averages:
            targets, source = self.targets[average.group], self.params[average.group]
            torch._foreach_lerp_(list(targets.values()), list(source.values()), average.rate)

    @torch.no_grad()
    def _assign(self, tensors: Params, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            tensors[name].copy_(value)

    # -- asking and acting ----------------------------------------------------------------------------------------

    def diagnose(self) -> Scalars:
        """What the adapters want logged at this step, by 'adapter/quantity'; each [S]."""
        logged = {
            f"{adapter}/{name}": value
            for adapter, diagnostics in self.program.diagnostics.items()
            for name, value in self.ask(adapter, diagnostics).items()
        }
        for name, value in logged.items():
            if value.dim() != 1:
                raise StackError(
                    f"the diagnostic {name!r} must be one number, not of the shape {list(value.shape[1:])}"
                )
        return logged

    @torch.no_grad()
    def ask(self, name: str, answer: Callable[[Any], Mapping[str, Tensor]]) -> Scalars:
        """What ``answer`` of one seed's view says, for all seeds; ``name`` keys the noise it was found to draw."""
        first, draws = name not in self._draws, self._draws.setdefault(name, {})
        with product_precision(self.execution.precision):
            return with_draws(draws, lambda x: self._losses.answers(answer, x), self._inputs, first=first)

    @torch.no_grad()
    def act(self, observations: Tensor, step: int, way: Literal["act", "explore"] = "act") -> Tensor:
        """Actions [S, N, A] of all seeds at observations [S, N, D], both in learner space.

        A policy that draws noise draws it by (seed, ``way``, site, ``step``), at sites apart from those of training.
        """
        with product_precision(self.execution.precision):
            return self._acting(observations, step, way)

    def _inputs(self, draws: Mapping[Draw, None]) -> Inputs:
        inputs: Inputs = {
            "params": dict(self.params),
            "targets": self.targets,
            "buffers": self.buffers,
            "frozen": self.frozen,
            "batch": self.batch,
            "noise": {draw: self._noise.at(self.step, *draw) for draw in draws},
            "clock": self._clock,
        }
        return inputs if self._data is None else inputs | {"data": self._data}

    # -- saving ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The whole state by name, such as "params/actor/weight0"; the tensors are the live ones."""
        rows = self._batches.state() if isinstance(self._batches, Replay) else {}
        return self._entries() | prefixed("metrics", self.metrics.state()) | prefixed("replay", rows)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], step: int) -> None:
        """Take over a saved state of the same program, seeds and data.

        Raises `ValueError`, with everything as it was, where one of its arrays is missing, or has another shape or
        dtype.
        """
        entries = self._entries()
        check_like(entries, state)
        self.metrics.load(under("metrics", state))
        if isinstance(self._batches, Replay):
            self._batches.load(under("replay", state))
        for name, tensor in entries.items():
            tensor.copy_(state[name])
        if self._recorder is not None:
            self._recorder.forget()  # the sums of metrics are new tensors
        self.set_step(step)

    def set_step(self, step: int) -> None:
        """Stand at this step, with its minibatch, without running any."""
        self.step = step
        self._clock["step"].fill_(step)
        self._clock["phase_step"].fill_(step - self.phase_start)
        self._gather()

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a step changes, by name."""
        yield from self.state().items()
        yield from self._clock.items()

    def _entries(self) -> dict[str, Tensor]:
        """The state that is there from the beginning."""
        trees = {"params": self.params, "targets": self.targets, "buffers": self.buffers, "frozen": self.frozen}
        entries: dict[str, Tensor] = {}
        for kind, tree in trees.items():
            for group, tensors in tree.items():
                entries |= prefixed(f"{kind}/{group}", tensors)
        return entries | prefixed("adam", dict(self.optimizers.entries()))
