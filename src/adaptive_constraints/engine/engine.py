"""The engine: runs the ticks of a resolved stack for several seeds at once.

It owns the state tree, whose tensors have a leading axis over seeds, and everything that changes it: stepping,
averaging, advancing buffers. What it steps by is computed in `losses.py`.

The gradients of a stage are one pure function of the state. It is traced once into a straight list of tensor
operations (`tracing.py`) and replayed, so that a tick pays neither for the learner's Python nor for autograd's
bookkeeping. On CUDA the whole tick around it is recorded as well (`capture.py`). ``traced=False`` runs everything as
it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adaptive_constraints.composition.bound_view import Inputs
from adaptive_constraints.composition.resolved import Resolved
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Average, MetaStep, Params, Schedule, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.engine import meta_step as meta
from adaptive_constraints.engine import over_seeds as stacked
from adaptive_constraints.engine.batches import Batches, Growth, Replay, batches_of
from adaptive_constraints.engine.gradients import MIXED, Draw, Found, Losses, MissingDraw, Scalars
from adaptive_constraints.engine.metrics import Metrics
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.engine.recording import RARE, Graph, Recorded, graphs_for
from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.engine.state import InitialState
from adaptive_constraints.engine.tracing import trace
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import Precision, product_precision

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")
WithNoise: TypeAlias = Callable[[Mapping[Draw, None]], Arguments]
"""The arguments of a pure function, with these draws of noise."""


class Execution(NamedTuple):
    """How ticks are executed."""

    traced: bool = True
    """Stages as straight lists of operations, on CUDA whole ticks as graphs; otherwise all as it is written."""
    precision: Precision = "float32"
    """Of matrix products."""
    compiled: bool = False
    """Traced stages compiled by torch's inductor, which fuses what stands between products."""


@dataclass
class _Known:
    """What the engine knows of a pure function of the state that it runs again and again."""

    draws: dict[Draw, None] = field(default_factory=dict)
    graph: Callable[[Any], Any] | None = None
    met: bool = False
    """It has run once, so its draws are known and it can be traced."""


@dataclass
class _Running:
    """A stage and what the engine knows of running it."""

    stage: Stage
    number: int
    """Its place in the tick; names of stages need not differ."""
    gradients: _Known = field(default_factory=_Known)
    meta_gradients: _Known = field(default_factory=_Known)
    """Of meta ticks, which want more of them."""
    outer: _Known = field(default_factory=_Known)
    """The outer loss's gradient."""
    through: _Known = field(default_factory=_Known)
    """From the trade-off to the parameters that it is a function of."""


class _Due(NamedTuple):
    """What runs in a tick. Ticks of which this is the same do the same operations."""

    stages: tuple[int, ...]
    """Places of the stages in the tick."""
    averages: tuple[tuple[int, int], ...]
    """(place of the stage, number of the average)."""
    meta: bool
    advancing: tuple[str, ...]
    """Adapters whose buffers advance."""
    rare: bool
    """Something in it runs too seldom for the tick to be recorded."""


class Engine:
    """Trains all seeds of a stack; owns the whole state tree."""

    def __init__(
        self,
        resolved: Resolved,
        initial: InitialState,
        table: Mapping[str, Tensor] | None,
        *,
        horizon: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        traced: bool = True,
        precision: Precision = "float32",
        compiled: bool = False,
        namespace: str = "",
        phase_start: int = 0,
        growth: Growth | None = None,
        graphs: Callable[[], Graph] | None = None,
    ) -> None:
        """``table`` holds the data's columns [N, ...] in learner space; without one it can act but not train.

        ``horizon`` is the planned number of ticks; ``traced``, ``precision`` and ``compiled`` are those of
        `Execution`. ``namespace`` stands before every site of noise, so that two engines of one seed draw apart.
        ``phase_start`` is the tick after which this phase begins. ``growth`` lets the table grow by rows added to
        ``batches``. ``graphs`` makes the graphs that ticks are recorded in; by default CUDA's, on CUDA, if ``traced``.
        """
        device = torch.device(device)
        self.resolved, self.seeds, self.horizon = resolved, initial.seeds, horizon
        self.spec, self.phase_start = initial.spec, phase_start
        self.execution = Execution(traced, precision, compiled)
        self.tick = 0
        self._losses = Losses(resolved, initial.spec, len(initial.seeds))
        closed_form = resolved.meta is None or resolved.meta[1].backend == "closed_form"
        if resolved.meta is not None:
            meta.check_backend(resolved.meta[1].backend)
        graphs = graphs or (graphs_for(device) if traced else None)
        self._new_graph = graphs if closed_form else None
        self._recorded: dict[_Due, Recorded] = {}
        self._rates: dict[str, float] = {}

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)

        self.params, self.buffers, self.frozen, targets = pytree.tree_map(
            place, (initial.params, initial.buffers, initial.frozen, initial.targets)
        )
        averaged = sorted({average.group for stage in resolved.stages for average in stage.averages})
        self.targets = {group: {name: t.clone() for name, t in self.params[group].items()} for group in averaged}
        self.targets |= targets
        captured = self._new_graph is not None
        self.optimizers = {group: stacked.adam(params, captured) for group, params in self.params.items()}
        self.metrics = Metrics(len(self.seeds), device)
        self._clock = {
            "tick": torch.zeros((), dtype=torch.int64, device=device),
            "phase_tick": torch.zeros((), dtype=torch.int64, device=device),
            "horizon": torch.full((), horizon, dtype=torch.int64, device=device),
        }
        self._noise = NoiseTables(self.seeds, device, dtype, namespace, self._clock["tick"] if captured else None)
        self._acting_noise = NoiseTables(self.seeds, device, dtype, namespace)
        self._batches: Batches | None = None
        if table is not None:
            more = {name: column for name, column in initial.columns.items() if name not in table}
            columns, size = {**table, **more}, resolved.learner.batch_size
            self._batches = batches_of(columns, initial.seed_columns, self._noise, size, device, dtype, growth)
        self._batch: dict[str, Tensor] = {}
        self._stages = [_Running(stage, number) for number, stage in enumerate(resolved.stages, start=1)]
        self._advancing = {
            adapter: adapter.advance_every(resolved.facts, horizon)
            for adapter in resolved.adapters
            if type(adapter).advance is not Adapter.advance
        }
        self._draws: dict[str, dict[Draw, None]] = {}

    @property
    def draws(self) -> frozenset[Draw]:
        """Every draw of noise that the ticks so far were found to make."""
        known = [each for s in self._stages for each in (s.gradients, s.meta_gradients, s.outer, s.through)]
        return frozenset(draw for asked in (*self._draws.values(), *(each.draws for each in known)) for draw in asked)

    @property
    def batches(self) -> Batches:
        """Where minibatches come from; there must be a table."""
        assert self._batches is not None
        return self._batches

    # -- ticks ----------------------------------------------------------------------------------------------------

    def run(self, ticks: int) -> None:
        """Run this many ticks; on CUDA, it does not wait for the device."""
        with product_precision(self.execution.precision):
            for _ in range(ticks):
                self.tick += 1
                due = self._due()
                self._set_rates(due)
                if self._new_graph is None or due.rare:
                    self._run_tick(due)
                else:
                    self._replay(due)
                for number in due.stages:
                    self.metrics.count(self._metric_group(self._stages[number - 1], due))

    def _due(self) -> _Due:
        """What runs in this tick."""
        tick, period = self.tick, self._meta_period()
        stages = [running for running in self._stages if tick % running.stage.every == 0]
        averages = [
            (running.number, number, average)
            for running in stages
            for number, average in enumerate(running.stage.averages)
            if tick % average.every == 0 and tick >= average.start
        ]
        advancing = {adapter.name: every for adapter, every in self._advancing.items() if tick % every == 0}
        meta_due = period is not None and tick % period == 0
        intervals = [*(s.stage.every for s in stages), *(a.every for *_, a in averages), *advancing.values()]
        return _Due(
            stages=tuple(running.number for running in stages),
            averages=tuple((place, number) for place, number, _ in averages),
            meta=meta_due,
            advancing=tuple(advancing),
            rare=max([*intervals, period if meta_due and period else 1]) > RARE,
        )

    def _meta_period(self) -> int | None:
        """Ticks between two meta steps, if there are any."""
        if self.resolved.meta is None:
            return None
        return self._constrained_stage().every * self.resolved.meta[1].interval

    def _constrained_stage(self) -> Stage:
        constrained = self.resolved.facts.constrained
        return next(s.stage for s in self._stages if any(update.group == constrained for update in s.stage.updates))

    def _run_tick(self, due: _Due) -> None:
        """Everything that the device does in a tick."""
        self._clock["tick"].add_(1)
        self._clock["phase_tick"].add_(1)
        self._gather()
        for number in due.stages:
            self._run_stage(self._stages[number - 1], due)
        for adapter in self._advancing:
            if adapter.name in due.advancing:
                self._assign(adapter.name, self.ask(adapter.name, adapter.advance))

    def _gather(self) -> None:
        if self._batches:  # and there is a row
            self._batch = self._batches.at(self.tick)

    def _set_tick(self, tick: int) -> None:
        self.tick = tick
        self._clock["tick"].fill_(tick)
        self._clock["phase_tick"].fill_(tick - self.phase_start)
        self._gather()

    def _run_stage(self, running: _Running, due: _Due) -> None:
        stage, constrained = running.stage, self.resolved.facts.constrained
        step = self._meta_due(running, due)
        gradients, before, scalars = self._gradients(running, meta_tick=step is not None)
        # The constrained group steps first and the trade-off at once, while every other group holds its old value.
        for update in sorted(stage.updates, key=lambda update: update.group != constrained):
            own = gradients[update.group]
            factor = stacked.clip(own, update.clip)
            if step is not None and update.group == constrained:
                mixed = stacked.scale(gradients[MIXED], factor)
                scalars |= self._meta_step(running, update, own, mixed, before, step)
            else:
                self._step(update.group, own)
        self._average([stage.averages[number] for place, number in due.averages if place == running.number])
        self.metrics.add(self._metric_group(running, due), scalars, self._clock["tick"])

    def _metric_group(self, running: _Running, due: _Due) -> str:
        return f"{running.number}.{running.stage.name}{'+meta' if self._meta_due(running, due) else ''}"

    def _meta_due(self, running: _Running, due: _Due) -> MetaStep | None:
        if not due.meta or self.resolved.meta is None or running.stage is not self._constrained_stage():
            return None
        return self.resolved.meta[1]

    # -- recording ------------------------------------------------------------------------------------------------

    def _replay(self, due: _Due) -> None:
        if due not in self._recorded:
            self._recorded[due] = self._record(due)
        recorded = self._recorded[due]
        self._noise.refill(self.tick, recorded.draws)
        self.batches.refill(self.tick)
        recorded.graph.replay()
        self._batch = recorded.batch

    def _record(self, due: _Due) -> Recorded:
        """Record a tick, leaving the state as it is."""
        assert self._new_graph is not None
        saved = {name: tensor.clone() for name, tensor in self._changing()}
        graph = self._new_graph()
        for _ in range(2):  # the first finds out which noise is drawn, the second traces what the third will run
            self._run_tick(due)
            self._restore(saved)
        self._noise.read.clear()
        graph.record(lambda: self._run_tick(due))
        self._restore(saved)
        return Recorded(graph, frozenset(self._noise.read), self._batch)

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a tick changes, by name."""
        yield from self.state().items()
        yield from self._clock.items()

    @torch.no_grad()
    def _restore(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in self._changing():
            if name in saved:
                tensor.copy_(saved[name])
            else:  # sums of metrics that nobody had added to before
                tensor.zero_()

    def synchronize(self) -> None:
        """Wait until the device has done all ticks."""
        if self._clock["tick"].is_cuda:
            torch.cuda.synchronize(self._clock["tick"].device)

    # -- gradients ------------------------------------------------------------------------------------------------

    def _gradients(self, running: _Running, meta_tick: bool) -> Found:
        """Gradients [S, ...] of a stage's updates by group, the constrained group's terms, and scalars to log."""
        known = running.meta_gradients if meta_tick else running.gradients
        compiled = self.execution.compiled and not meta_tick  # what runs so seldom does not earn its compiling
        return self._run(known, lambda x: self._losses.gradients(running.stage, x, meta_tick), self._inputs, compiled)

    def _run(
        self, known: _Known, run: Callable[[Arguments], Result], inputs: WithNoise[Arguments], compiled: bool = False
    ) -> Result:
        """``run`` a pure function: the first time as it is written, from then on as the trace of it."""
        if known.graph is None:
            if not (self.execution.traced and known.met):
                known.met = True
                found = self._with_draws(known.draws, run, inputs)
                if not compiled:  # compiled operations round differently, so all ticks are
                    return found
            graph = trace(run, inputs(known.draws))
            known.graph = torch.compile(graph, fullgraph=True, dynamic=False) if compiled else graph
        with torch.no_grad():
            replayed: Result = known.graph(inputs(known.draws))
        return replayed

    # -- the meta step --------------------------------------------------------------------------------------------

    def _meta_step(
        self, running: _Running, update: Update, g: Params, h: Params, terms: tuple[Tensor, ...], step: MetaStep
    ) -> Scalars:
        """The real constrained step from gradient ``g``, then the outer step of the trade-off through it."""
        assert self.resolved.meta is not None
        adapter, group = self.resolved.meta[0], update.group
        before = {name: tensor.clone() for name, tensor in self.params[group].items()}
        oracle = step.backend != "closed_form"
        moments = pytree.tree_map(torch.clone, self._moments(group)) if oracle else {}
        self._step(group, g)
        adam = self._adam(group)

        def inputs(draws: Mapping[Draw, None]) -> tuple[Params, tuple[Tensor, ...], Inputs]:
            state = self._inputs(draws)
            return self.params[group], terms, state | {"params": state["params"] | {group: before}}

        by_theta, buffers, scalars = self._run(running.outer, lambda x: self._losses.outer_gradient(*x), inputs)
        if oracle:
            counted = meta.Adam(float(adam.learning_rate), float(adam.step))
            derivative = self._with_draws(
                self._draws.setdefault(f"{step.group}/oracle", {}),
                lambda x: self._losses.by_oracle(step.backend, update, moments, counted, terms, x[-1]),
                inputs,
            )
        else:
            derivative = self._along_tangent(group, adam, g, h, by_theta)
        through = self._run(
            running.through,
            lambda x: self._losses.through_tradeoff(step.group, *x),
            lambda draws: (derivative, self._inputs(draws)),
        )
        self._step(step.group, through)
        self._assign(adapter.name, buffers)
        found = {**scalars, "gradient": derivative}
        return {f"{adapter.name}/{name}": value for name, value in found.items()}

    def _along_tangent(self, group: str, adam: meta.Adam, g: Params, h: Params, by_theta: Params) -> Tensor:
        """dL/dk [S]: the outer gradient along the derivative of the real step."""
        moments = self._moments(group)
        products = [
            by_theta[name] * meta.tangent(adam, moments["first"][name], moments["second"][name], g[name], h[name])
            for name in g
        ]
        return torch.stack([product.reshape(len(product), -1).sum(1) for product in products]).sum(0)

    def _adam(self, group: str) -> meta.Adam:
        """The settings of a group's last step."""
        optimizer = self.optimizers[group]
        count: Tensor = next(iter(optimizer.state.values()))["step"]
        return meta.Adam(optimizer.param_groups[0]["lr"], count.to(torch.float64))

    # -- steps ----------------------------------------------------------------------------------------------------

    def _set_rates(self, due: _Due) -> None:
        """The learning rates of this tick's steps."""
        for number in due.stages:
            for update in self._stages[number - 1].stage.updates:
                self._set_rate(update.group, self._rate(update.learning_rate))
        period = self._meta_period()
        if due.meta and self.resolved.meta is not None and period is not None:
            step = self.resolved.meta[1]
            self._set_rate(step.group, step.learning_rate(self.tick // period - 1, max(1, self.horizon // period)))

    def _rate(self, schedule: Schedule) -> float:
        return schedule(self.tick, self.horizon) if callable(schedule) else schedule

    def _set_rate(self, group: str, rate: float) -> None:
        options = self.optimizers[group].param_groups[0]
        if isinstance(options["lr"], Tensor):
            if self._rates.get(group) != rate:
                options["lr"].fill_(rate)
                self._rates[group] = rate
        else:
            options["lr"] = rate

    def _step(self, group: str, gradients: Params) -> None:
        """Every step of an optimizer goes through here, whatever computed its gradients."""
        for name, tensor in self.params[group].items():
            tensor.grad = stacked.laid_out(gradients[name].detach(), tensor)
        self.optimizers[group].step()

    def _moments(self, group: str) -> dict[str, Params]:
        """Adam's first and second moments by parameter name, live."""
        state = self.optimizers[group].state
        return {
            "first": {name: state[tensor]["exp_avg"] for name, tensor in self.params[group].items()},
            "second": {name: state[tensor]["exp_avg_sq"] for name, tensor in self.params[group].items()},
        }

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
        """What the adapters want logged at this tick, by 'adapter/quantity'; each [S]."""
        found = {
            f"{adapter.name}/{name}": value
            for adapter in self.resolved.adapters
            for name, value in self.ask(adapter.name, adapter.diagnostics).items()
        }
        for name, value in found.items():
            if value.dim() != 1:
                raise StackError(
                    f"the diagnostic {name!r} must be one number, not of the shape {list(value.shape[1:])}"
                )
        return found

    @torch.no_grad()
    def ask(self, name: str, answer: Callable[[View], Mapping[str, Tensor]]) -> Scalars:
        """What ``answer`` of one seed's view says, for all seeds; ``name`` keys the noise it was found to draw."""
        draws = self._draws.setdefault(name, {})
        with product_precision(self.execution.precision):
            return self._with_draws(draws, lambda x: self._losses.answers(answer, x), self._inputs)

    @torch.no_grad()
    def act(self, observations: Tensor, step: int, way: Literal["act", "explore"] = "act") -> Tensor:
        """Actions [S, N, A] of all seeds at observations [S, N, D], both in learner space.

        A policy that draws noise draws it by (seed, ``way``, site, ``step``), at sites apart from those of training.
        """

        def inputs(wanted: Mapping[Draw, None]) -> Inputs:
            noise = self._acting_noise
            drawn = {(kind, site, shape): noise.at(step, kind, f"{way}/{site}", shape) for kind, site, shape in wanted}
            return self._inputs({}) | {"noise": drawn}

        draws = self._draws.setdefault(f"/{way}", {})
        with product_precision(self.execution.precision):
            return self._with_draws(draws, lambda x: self._losses.actions(way, x, observations), inputs)

    def _inputs(self, draws: Mapping[Draw, None]) -> Inputs:
        return {
            "params": dict(self.params),
            "targets": self.targets,
            "buffers": self.buffers,
            "frozen": self.frozen,
            "batch": self._batch,
            "noise": {draw: self._noise.at(self.tick, *draw) for draw in draws},
            "clock": self._clock,
        }

    def _with_draws(
        self, draws: dict[Draw, None], run: Callable[[Arguments], Result], inputs: WithNoise[Arguments]
    ) -> Result:
        """``run`` a pure function of the state, again and again until every draw that it asks for is there."""
        while True:
            try:
                return run(inputs(draws))
            except MissingDraw as missing:
                draws[missing.draw] = None

    # -- saving ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The whole state by dotted name; the tensors are the live ones."""
        metrics = {f"metrics.{name}": tensor for name, tensor in self.metrics.state().items()}
        rows = self._batches.state() if isinstance(self._batches, Replay) else {}
        return dict(self._entries()) | metrics | {f"replay.{name}": tensor for name, tensor in rows.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], tick: int) -> None:
        """Take over a saved state of the same stack, seeds and data.

        Raises `ValueError`, with everything as it was, where one of its arrays is missing, or has another shape or
        dtype.
        """
        entries = dict(self._entries())
        check_like(entries, state)
        self.metrics.load({name[8:]: tensor for name, tensor in state.items() if name.startswith("metrics.")})
        if isinstance(self._batches, Replay):
            self._batches.load({name[7:]: tensor for name, tensor in state.items() if name.startswith("replay.")})
        for name, tensor in entries.items():
            tensor.copy_(state[name])
        self._recorded.clear()  # the sums of metrics are new tensors
        self._set_tick(tick)

    def _entries(self) -> Iterator[tuple[str, Tensor]]:
        trees = {"params": self.params, "targets": self.targets, "buffers": self.buffers, "frozen": self.frozen}
        for kind, tree in trees.items():
            for group, tensors in tree.items():
                yield from ((f"{kind}/{group}/{name}", tensor) for name, tensor in tensors.items())
        for group, params in self.params.items():
            for name, tensor in params.items():
                for entry, value in self.optimizers[group].state[tensor].items():
                    yield f"adam/{group}/{name}/{entry}", value
