"""The engine: runs the steps of a program for several seeds at once.

It owns the state tree, whose tensors have a leading axis over seeds, and says what is due and what changes the state:
stepping, averaging, advancing buffers. What it steps by is computed in `gradients`.

The gradients of a stage are one pure function of the state. It is traced once into a straight list of tensor
operations (`functions`) and replayed, so that a step pays neither for the learner's Python nor for autograd's
bookkeeping. On CUDA the whole step around it is recorded as well (`recording`). ``traced=False`` runs everything as
it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Average, Draw, Schedule, Stage
from adaptive_constraints.core.view import Inputs
from adaptive_constraints.engine import over_seeds
from adaptive_constraints.engine.batches import Batches, Growth, Replay, batches_of
from adaptive_constraints.engine.functions import Repeated, with_draws
from adaptive_constraints.engine.gradients import Losses, Scalars, StageGradients
from adaptive_constraints.engine.meta_step import OuterStepper
from adaptive_constraints.engine.metrics import Metrics
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.engine.optimizers import Optimizers
from adaptive_constraints.engine.oracles import derivative_by
from adaptive_constraints.engine.recording import RARE, Graph, Recorded, Recorder, graphs_for
from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.engine.state import InitialState, prefixed, under
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import Precision, product_precision


class Execution(NamedTuple):
    """How steps are executed."""

    traced: bool = True
    """Stages as straight lists of operations, on CUDA whole steps as graphs; otherwise all as it is written."""
    precision: Precision = "float32"
    """Of matrix products."""
    compiled: bool = False
    """Traced stages compiled by torch's inductor, which fuses what stands between products."""


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


class Due(NamedTuple):
    """The work due in a step; steps of which this is the same do the same operations."""

    stages: tuple[int, ...]
    """Places of the stages in the step."""
    averages: tuple[tuple[int, int], ...]
    """(place of the stage, number of the average)."""
    outer: bool
    """The trade-off steps."""
    advancing: tuple[str, ...]
    """Adapters whose buffers advance."""
    rare: bool
    """Something in it runs too seldom for the step to be recorded."""


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
        graphs: Callable[[], Graph] | None = None,
    ) -> None:
        """``table`` holds the data's columns [N, ...] in learner space; without one it can act but not train.

        ``horizon`` is the planned number of steps. ``namespace`` stands before every site of noise, so that two
        engines of one seed draw apart. ``phase_start`` is the step after which this phase begins. ``growth`` lets the
        table grow by rows added to ``batches``. ``graphs`` makes the graphs that steps are recorded in; by default
        CUDA's, on CUDA, if traced.
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
        self._losses = Losses(program, len(self.seeds))
        new_graph = graphs or (graphs_for(device) if execution.traced else None)
        self.optimizers = Optimizers(self.params, captured=new_graph is not None)
        self._outer: OuterStepper | None = None
        if program.outer is not None:
            assert program.constrained is not None
            derivative = derivative_by(program.outer.step.backend, self._losses, self.optimizers, program.constrained)
            new_graph = new_graph if derivative.recordable else None
            self._outer = OuterStepper(
                program.outer, self._losses, self.params, self.optimizers, derivative, execution.traced
            )
        recorded = new_graph is not None
        self._noise = NoiseTables(self.seeds, device, dtype, namespace, self._clock["step"] if recorded else None)
        self._acting_noise = NoiseTables(self.seeds, device, dtype, namespace)
        self._recorder = Recorder(new_graph, self._noise, self._changing) if new_graph is not None else None
        self._batches: Batches | None = None
        if table is not None:
            more = {name: column for name, column in initial.columns.items() if name not in table}
            columns, size = {**table, **more}, program.batch_size
            self._batches = batches_of(columns, initial.seed_columns, self._noise, size, device, dtype, growth)
        self.batch: dict[str, Tensor] = {}
        """Columns [S, B, ...] of the last minibatch."""
        self._stages = [
            _Running(stage, number, self._losses, execution) for number, stage in enumerate(program.stages, start=1)
        ]
        self._draws: dict[str, dict[Draw, None]] = {}

    @property
    def draws(self) -> frozenset[Draw]:
        """Every draw of noise that the steps so far were found to make."""
        repeated = [each for running in self._stages for each in (running.gradients, running.outer_gradients)]
        found = [*self._draws.values(), *(each.draws for each in repeated)]
        if self._outer is not None:
            found += [self._outer.loss.draws, self._outer.through.draws]
        return frozenset(draw for draws in found for draw in draws)

    @property
    def traced(self) -> dict[str, bool]:
        """Which of the functions that have run were traced, by name."""
        named: dict[str, Repeated[Any, Any]] = {
            f"{each.number}.{each.stage.name}": each.gradients for each in self._stages
        }
        named |= {f"{each.number}.{each.stage.name}+meta": each.outer_gradients for each in self._stages}
        if self._outer is not None:
            named |= {"outer loss": self._outer.loss, "through the trade-off": self._outer.through}
        return {name: each.traced for name, each in named.items() if each.met}

    @property
    def recorded(self) -> Mapping[Hashable, Recorded]:
        """The steps that were recorded so far, by what was due."""
        return {} if self._recorder is None else self._recorder.recorded

    @property
    def batches(self) -> Batches:
        """Where minibatches come from; there must be a table."""
        assert self._batches is not None
        return self._batches

    # -- steps ----------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Run this many steps; on CUDA, it does not wait for the device."""
        with product_precision(self.execution.precision):
            for _ in range(steps):
                self.step += 1
                due = self._due()
                self._set_rates(due)
                if self._recorder is None or due.rare:
                    self._run_step(due)
                else:
                    run = lambda due=due: self._run_step(due)  # noqa: E731
                    self.batch = self._recorder.replay(due, self.step, self.batches, run)
                for number in due.stages:
                    self.metrics.count(self._metric_group(self._stages[number - 1], due))

    def _due(self) -> Due:
        step, period = self.step, self._outer_period()
        stages = [running for running in self._stages if step % running.stage.every == 0]
        averages = [
            (running.number, number, average)
            for running in stages
            for number, average in enumerate(running.stage.averages)
            if step % average.every == 0 and step >= average.start
        ]
        advancing = {name: each.every for name, each in self.program.advancing.items() if step % each.every == 0}
        outer_due = period is not None and step % period == 0
        intervals = [*(s.stage.every for s in stages), *(a.every for *_, a in averages), *advancing.values()]
        return Due(
            stages=tuple(running.number for running in stages),
            averages=tuple((place, number) for place, number, _ in averages),
            outer=outer_due,
            advancing=tuple(advancing),
            rare=max([*intervals, period if outer_due and period else 1]) > RARE,
        )

    def _outer_period(self) -> int | None:
        """Training steps between two outer steps, if there are any."""
        if self.program.outer is None:
            return None
        constrained = next(s.stage for s in self._stages if self._is_constrained(s.stage))
        return constrained.every * self.program.outer.step.interval

    def _is_constrained(self, stage: Stage) -> bool:
        return any(update.group == self.program.constrained for update in stage.updates)

    def _run_step(self, due: Due) -> dict[str, Tensor]:
        """Everything that the device does in a step; its minibatch."""
        self._clock["step"].add_(1)
        self._clock["phase_step"].add_(1)
        self._gather()
        for number in due.stages:
            self._run_stage(self._stages[number - 1], due)
        for name in due.advancing:
            self._assign(name, self.ask(name, self.program.advancing[name].advance))
        return self.batch

    def _gather(self) -> None:
        if self._batches:  # and there is a row
            self.batch = self._batches.at(self.step)

    def _run_stage(self, running: _Running, due: Due) -> None:
        stage, constrained = running.stage, self.program.constrained
        outer = self._outer if due.outer and self._is_constrained(stage) else None
        found = (running.gradients if outer is None else running.outer_gradients)(self._inputs)
        # The constrained group steps first and the trade-off at once, while every other group holds its old value.
        for update in sorted(stage.updates, key=lambda update: update.group != constrained):
            own = found.by_group[update.group]
            factor = over_seeds.clip(own, update.clip)
            if outer is not None and update.group == constrained:
                scaled = found._replace(mixed=over_seeds.scale(found.mixed, factor))
                result = outer.take(update, scaled, self._inputs)
                self._assign(outer.owner, result.buffers)
                found.scalars.update(result.scalars)
            else:
                self.optimizers.step(update.group, own)
        self._average([stage.averages[number] for place, number in due.averages if place == running.number])
        self.metrics.add(self._metric_group(running, due), found.scalars, self._clock["step"])

    def _metric_group(self, running: _Running, due: Due) -> str:
        """A word without a slash: what a stage logs differs with whether the trade-off steps."""
        outer = due.outer and self._is_constrained(running.stage)
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
        period = self._outer_period()
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
    def _assign(self, name: str, values: Mapping[str, Tensor]) -> None:
        for buffer, value in values.items():
            self.buffers[name][buffer].copy_(value)

    # -- asking and acting ----------------------------------------------------------------------------------------

    def diagnose(self) -> Scalars:
        """What the adapters want logged at this step, by 'adapter/quantity'; each [S]."""
        found = {
            f"{adapter}/{name}": value
            for adapter, diagnostics in self.program.diagnostics.items()
            for name, value in self.ask(adapter, diagnostics).items()
        }
        for name, value in found.items():
            if value.dim() != 1:
                raise StackError(
                    f"the diagnostic {name!r} must be one number, not of the shape {list(value.shape[1:])}"
                )
        return found

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

        def inputs(wanted: Mapping[Draw, None]) -> Inputs:
            noise = self._acting_noise
            drawn = {draw: noise.at(step, draw.kind, f"{way}/{draw.site}", draw.shape) for draw in wanted}
            return self._inputs({}) | {"noise": drawn}

        first, draws = f"/{way}" not in self._draws, self._draws.setdefault(f"/{way}", {})
        with product_precision(self.execution.precision):
            return with_draws(draws, lambda x: self._losses.actions(way, x, observations), inputs, first=first)

    def _inputs(self, draws: Mapping[Draw, None]) -> Inputs:
        return {
            "params": dict(self.params),
            "targets": self.targets,
            "buffers": self.buffers,
            "frozen": self.frozen,
            "batch": self.batch,
            "noise": {draw: self._noise.at(self.step, *draw) for draw in draws},
            "clock": self._clock,
        }

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
