"""The engine: runs the ticks of a resolved stack for several seeds at once.

Parameters of all seeds are stacked along a leading axis. ``torch.func.vmap`` maps the *forward* of a one-seed loss
over that axis and ordinary automatic differentiation takes the gradient of the sum over seeds: seeds do not touch
each other, so that is each seed's own gradient. At one seed the function is called as it is.

The gradients of a stage are one pure function of the state. It is traced once into a straight list of tensor
operations (``make_fx``) and replayed, so that a tick pays neither for the learner's Python nor for autograd's
bookkeeping; ``traced=False`` runs it as written. Meta ticks are never traced. Stepping and averaging happen here,
outside that function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from adaptive_constraints.adapter import MetaStep
from adaptive_constraints.learner import Average, Params, Schedule, Stage, Terms, Update
from adaptive_constraints.stack import Resolved
from adaptive_constraints.training import meta, stacked
from adaptive_constraints.training.batches import Batches, Growth, Replay
from adaptive_constraints.training.initial import InitialState
from adaptive_constraints.training.metrics import Metrics
from adaptive_constraints.training.noise import NoiseTables
from adaptive_constraints.view import Inputs, View

Draw = tuple[str, str, tuple[int, ...]]
"""(kind, site, shape) of one draw of noise."""
Gradients = dict[str, Params]
Scalars = dict[str, Tensor]
Found = tuple[Gradients, tuple[Tensor, ...], Scalars]
Result = TypeVar("Result")

MIXED = "d/dk"
"""Where the gradients of a meta tick hold d(gradient of the constrained group)/d(trade-off)."""


class MissingDraw(Exception):
    """A function asked for noise that it had not asked for before: it is run again with it."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.draw = draw


@dataclass
class _Running:
    """A stage and what the engine knows of running it."""

    stage: Stage
    number: int
    """Its place in the tick; names of stages need not differ."""
    draws: dict[Draw, None] = field(default_factory=dict)
    meta_draws: dict[Draw, None] = field(default_factory=dict)
    graph: GraphModule | None = None
    met: bool = False
    """It has run once, so its draws are known and it can be traced."""


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
        namespace: str = "",
        phase_start: int = 0,
        growth: Growth | None = None,
    ) -> None:
        """``table`` holds the data's columns [N, ...] in learner space; without one it can act but not train.

        ``horizon`` is the planned number of ticks. ``namespace`` stands before every site of noise, so that two
        engines of one seed draw apart. ``phase_start`` is the tick after which this phase begins. ``growth`` lets the
        table grow by rows added to ``batches``.
        """
        if resolved.meta is not None:
            meta.check_backend(resolved.meta[1].backend)
        self.resolved, self.seeds, self.horizon, self.traced = resolved, initial.seeds, horizon, traced
        self.spec, self.phase_start = initial.spec, phase_start
        self.tick = 0

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)

        self.params, self.buffers, self.frozen, targets, seed_columns = pytree.tree_map(
            place, (initial.params, initial.buffers, initial.frozen, initial.targets, initial.seed_columns)
        )
        averaged = sorted({average.group for stage in resolved.stages for average in stage.averages})
        self.targets = {group: {name: t.clone() for name, t in self.params[group].items()} for group in averaged}
        self.targets |= targets
        self.optimizers = {group: stacked.adam(params) for group, params in self.params.items()}
        self.metrics = Metrics(len(self.seeds), torch.device(device))
        self._noise = NoiseTables(self.seeds, torch.device(device), dtype, namespace)
        self._batches: Batches | None = None
        if table is not None:
            placed = {name: place(tensor) for name, tensor in {**table, **initial.columns}.items()}
            size = resolved.learner.batch_size
            if growth is None:
                self._batches = Batches(placed, seed_columns, self._noise, size)
            else:
                self._batches = Replay(placed, seed_columns, self._noise, size, len(self.seeds), growth)
        self._batch: dict[str, Tensor] = {}
        self._stages = [_Running(stage, number) for number, stage in enumerate(resolved.stages, start=1)]
        self._draws: dict[str, dict[Draw, None]] = {}
        self._clock = {
            "tick": torch.zeros((), dtype=torch.int64, device=device),
            "phase_tick": torch.zeros((), dtype=torch.int64, device=device),
            "horizon": torch.tensor(horizon, dtype=torch.int64, device=device),
        }

    @property
    def draws(self) -> frozenset[Draw]:
        """Every draw of noise that the ticks so far were found to make."""
        asked = [*self._draws.values(), *(each for s in self._stages for each in (s.draws, s.meta_draws))]
        return frozenset(draw for each in asked for draw in each)

    @property
    def batches(self) -> Batches:
        """Where minibatches come from; there must be a table."""
        assert self._batches is not None
        return self._batches

    # -- ticks ----------------------------------------------------------------------------------------------------

    def run(self, ticks: int) -> None:
        """Run this many ticks."""
        for _ in range(ticks):
            self._set_tick(self.tick + 1)
            for running in self._stages:
                if self.tick % running.stage.every == 0:
                    self._run_stage(running)
            self._advance_buffers()

    def _set_tick(self, tick: int) -> None:
        self.tick = tick
        self._clock["tick"].fill_(tick)
        self._clock["phase_tick"].fill_(tick - self.phase_start)
        if self._batches:  # and there is a row
            self._batch = self._batches.at(tick)

    def _run_stage(self, running: _Running) -> None:
        stage, constrained = running.stage, self.resolved.facts.constrained
        due = self._meta_due(stage)
        gradients, before, scalars = self._gradients(running, due)
        # The constrained group steps first and the trade-off at once, while every other group holds its old value.
        for update in sorted(stage.updates, key=lambda update: update.group != constrained):
            own = gradients[update.group]
            factor = stacked.clip(own, update.clip)
            if due is not None and update.group == constrained:
                mixed = stacked.scale(gradients[MIXED], factor)
                scalars |= self._meta_step(running, update, own, mixed, before, due)
            else:
                self._step(update.group, own, self._rate(update.learning_rate))
        self._average(stage.averages)
        self.metrics.add(f"{running.number}.{stage.name}{'' if due is None else '+meta'}", scalars, self.tick)

    # -- gradients ------------------------------------------------------------------------------------------------

    def _gradients(self, running: _Running, due: MetaStep | None) -> Found:
        """Gradients [S, ...] of a stage's updates by group, the constrained group's terms, and scalars to log."""
        stage = running.stage
        if due is not None:
            return self._with_draws(running.meta_draws, lambda x: self._stage_gradients(stage, x, meta_tick=True))
        if not self.traced or not running.met:
            running.met = True
            return self._with_draws(running.draws, lambda x: self._stage_gradients(stage, x))
        inputs = self._inputs(running.draws)
        if running.graph is None:
            running.graph = _simplified(make_fx(lambda x: self._stage_gradients(stage, x))(inputs))
        with torch.no_grad():
            found: Found = running.graph(inputs)
        return found

    @torch.enable_grad()
    def _stage_gradients(self, stage: Stage, inputs: Inputs, meta_tick: bool = False) -> Found:
        gradients: Gradients = {}
        terms: tuple[Tensor, ...] = ()
        scalars: Scalars = {}
        for update in stage.updates:
            leaves = stacked.leaves(inputs["params"][update.group])
            if update.group == self.resolved.facts.constrained:
                k = self._map(self._tradeoff, inputs).detach().requires_grad_(meta_tick)
                loss, terms, found = self._map(self._constrained_loss(update), leaves, k, inputs)
                value, _, constraint = terms
                found = {
                    f"{update.group}/value": value.mean(-1),
                    f"{update.group}/constraint": constraint.mean(-1),
                    **found,
                }
                if meta_tick:
                    # h = d(dL/dk)/dtheta, wherever in the loss the trade-off stands.
                    (by_k,) = torch.autograd.grad(loss.sum(), k, create_graph=True, materialize_grads=True)
                    gradients[MIXED] = stacked.gradient(by_k, leaves, retain_graph=True)
            else:
                loss, found = self._map(self._loss(update), leaves, inputs)
            gradients[update.group] = stacked.gradient(loss, leaves)
            scalars |= {f"{update.group}/loss": loss.detach(), **found}
        return gradients, terms, scalars

    def _loss(self, update: Update) -> Callable[[Params, Inputs], tuple[Tensor, Scalars]]:
        def loss(p: Params, inputs: Inputs) -> tuple[Tensor, Scalars]:
            v = self._view(inputs)
            return update.loss(p, v), v.metrics

        return loss

    def _constrained_loss(
        self, update: Update
    ) -> Callable[[Params, Tensor, Inputs], tuple[Tensor, tuple[Tensor, ...], Scalars]]:
        def loss(p: Params, k: Tensor, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...], Scalars]:
            v = self._view(inputs)
            value, terms = update.loss(p, v, k)
            return value, tuple(term.detach() for term in terms), v.metrics

        return loss

    def _tradeoff(self, inputs: Inputs) -> Tensor:
        return self._view(inputs).tradeoff()

    # -- the meta step --------------------------------------------------------------------------------------------

    def _meta_due(self, stage: Stage) -> MetaStep | None:
        constrained = any(update.group == self.resolved.facts.constrained for update in stage.updates)
        if self.resolved.meta is None or not constrained:
            return None
        step = self.resolved.meta[1]
        return step if self.tick % (stage.every * step.interval) == 0 else None

    def _meta_step(
        self, running: _Running, update: Update, g: Params, h: Params, terms: tuple[Tensor, ...], step: MetaStep
    ) -> Scalars:
        """The real constrained step from gradient ``g``, then the outer step of the trade-off through it."""
        assert self.resolved.meta is not None
        adapter, group = self.resolved.meta[0], update.group
        before = {name: tensor.clone() for name, tensor in self.params[group].items()}
        moments: dict[str, Params] = {}
        if step.backend != "closed_form":
            moments = {key: {n: t.clone() for n, t in m.items()} for key, m in self._moments(group).items()}
        rate = self._rate(update.learning_rate)
        self._step(group, g, rate)
        adam = meta.Adam(rate, step=self._steps(group))

        def outer(inputs: Inputs) -> tuple[Tensor, Params, Scalars]:
            inputs["params"][group] = before
            if step.backend != "closed_form":
                derivative = self._oracle(step.backend, update, moments, adam, terms, inputs)
            with torch.enable_grad():
                theta = stacked.leaves(self.params[group])
                loss, buffers, scalars = self._map(self._outer_loss, theta, terms, inputs)
                by_theta = stacked.gradient(loss, theta)
            if step.backend == "closed_form":
                derivative = self._along_tangent(group, adam, g, h, by_theta)
            return derivative, buffers, {f"{adapter.name}/{name}": value for name, value in scalars.items()}

        derivative, buffers, scalars = self._with_draws(running.meta_draws, outer)
        period = running.stage.every * step.interval
        outer_rate = step.learning_rate(self.tick // period - 1, max(1, self.horizon // period))
        self._step(step.group, self._through_tradeoff(step.group, derivative), outer_rate)
        self._assign(adapter.name, buffers)
        return scalars | {f"{adapter.name}/gradient": derivative}

    def _outer_loss(self, p: Params, before: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, Params, Scalars]:
        """The adapter's outer loss at parameters ``p`` after the step; the view is as it was before it."""
        assert self.resolved.meta is not None
        v = self._view(inputs)
        after = self.resolved.learner.terms(p, v)
        result = self.resolved.meta[0].meta_loss(v, v.tradeoff(), Terms(*before), after)
        scalars = {"loss": result.loss, **result.metrics}
        return result.loss, dict(result.buffers), {name: value.detach() for name, value in scalars.items()}

    def _along_tangent(self, group: str, adam: meta.Adam, g: Params, h: Params, by_theta: Params) -> Tensor:
        """dL/dk [S]: the outer gradient along the derivative of the real step."""
        moments = self._moments(group)
        products = [
            by_theta[name] * meta.tangent(adam, moments["first"][name], moments["second"][name], g[name], h[name])
            for name in g
        ]
        return torch.stack([product.reshape(len(product), -1).sum(1) for product in products]).sum(0)

    def _oracle(
        self,
        backend: str,
        update: Update,
        moments: dict[str, Params],
        adam: meta.Adam,
        terms: tuple[Tensor, ...],
        inputs: Inputs,
    ) -> Tensor:
        """The same derivative [S] through a differentiable Adam, one seed after the other."""
        names = list(inputs["params"][update.group])
        constrained_loss = self._constrained_loss(update)

        def derivative(seed: int) -> Tensor:
            x, before = stacked.one_seed(inputs, seed), stacked.one_seed(terms, seed)
            theta_before = list(x["params"][update.group].values())

            def gradient(theta: Sequence[Tensor], k: Tensor) -> list[Tensor]:
                loss, _, _ = constrained_loss(dict(zip(names, theta, strict=True)), k, x)
                found = torch.autograd.grad(loss, list(theta), create_graph=True, materialize_grads=True)
                factor = stacked.clip_factor([each.detach()[None] for each in found], update.clip)
                return [each * factor[0] for each in found]

            return meta.differentiate(
                backend,
                meta.InnerStep(
                    gradient=gradient,
                    outer=lambda theta: self._outer_loss(dict(zip(names, theta, strict=True)), before, x)[0],
                    theta=theta_before,
                    first=[moments["first"][name][seed] for name in names],
                    second=[moments["second"][name][seed] for name in names],
                    adam=adam,
                    k=self._tradeoff(x),
                ),
            )

        return torch.stack([derivative(seed) for seed in range(len(self.seeds))])

    @torch.enable_grad()
    def _through_tradeoff(self, group: str, derivative: Tensor) -> Params:
        """Chain rule from the trade-off to the adapter's parameters that it is a function of."""
        leaves = stacked.leaves(self.params[group])

        def tradeoff(p: Params, x: Inputs) -> Tensor:
            return self._tradeoff(x | {"params": x["params"] | {group: p}})

        k = self._with_draws(self._draws.setdefault(group, {}), lambda x: self._map(tradeoff, leaves, x))
        return stacked.gradient(k * derivative, leaves)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _rate(self, schedule: Schedule) -> float:
        return schedule(self.tick, self.horizon) if callable(schedule) else schedule

    def _step(self, group: str, gradients: Params, rate: float) -> None:
        optimizer = self.optimizers[group]
        for name, tensor in self.params[group].items():
            tensor.grad = gradients[name].detach()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

    def _steps(self, group: str) -> int:
        """How many steps a group has taken."""
        return int(next(iter(self.optimizers[group].state.values()))["step"])

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
            if self.tick % average.every == 0 and self.tick >= average.start:
                targets, source = self.targets[average.group], self.params[average.group]
                torch._foreach_lerp_(list(targets.values()), list(source.values()), average.rate)

    def _advance_buffers(self) -> None:
        for adapter in self.resolved.adapters:
            if self.buffers[adapter.name] and self.tick % adapter.advance_every(self.resolved.facts, self.horizon) == 0:
                self._assign(adapter.name, self.ask(adapter.name, adapter.advance))

    @torch.no_grad()
    def _assign(self, name: str, values: Mapping[str, Tensor]) -> None:
        for buffer, value in values.items():
            self.buffers[name][buffer].copy_(value)

    def diagnose(self) -> Scalars:
        """What the adapters want logged at this tick, by 'adapter/quantity'; each [S]."""
        return {
            f"{adapter.name}/{name}": value
            for adapter in self.resolved.adapters
            for name, value in self.ask(adapter.name, adapter.diagnostics).items()
        }

    @torch.no_grad()
    def ask(self, name: str, answer: Callable[[View], Mapping[str, Tensor]]) -> Scalars:
        """What ``answer`` of one seed's view says, for all seeds; ``name`` keys the noise it was found to draw."""
        draws = self._draws.setdefault(name, {})
        return self._with_draws(draws, lambda inputs: self._map(lambda x: dict(answer(self._view(x))), inputs))

    # -- acting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observations: Tensor, step: int, way: Literal["act", "explore"] = "act") -> Tensor:
        """Actions [S, N, A] of all seeds at observations [S, N, D], both in learner space.

        A policy that draws noise draws it by (seed, ``way``, site, ``step``), at sites apart from those of training.
        """
        draws = self._draws.setdefault(f"/{way}", {})
        choose = getattr(self.resolved.learner, way)

        def inputs(wanted: Mapping[Draw, None]) -> Inputs:
            noise = {
                (kind, site, shape): self._noise.at(step, kind, f"{way}/{site}", shape) for kind, site, shape in wanted
            }
            return self._inputs({}) | {"noise": noise}

        def policy(x: Inputs, observation: Tensor) -> Tensor:
            return choose(self._view(x), observation)

        return self._with_draws(draws, lambda x: self._map(policy, x, observations), inputs)

    # -- views ----------------------------------------------------------------------------------------------------

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

    def _view(self, inputs: Inputs) -> View:
        def draw(*wanted: Any) -> Tensor:
            found: Tensor | None = inputs["noise"].get(wanted)
            if found is None:
                raise MissingDraw(wanted)
            return found

        return View(self.resolved, self.spec, inputs, draw)

    def _with_draws(
        self,
        draws: dict[Draw, None],
        run: Callable[[Inputs], Result],
        inputs: Callable[[Mapping[Draw, None]], Inputs] | None = None,
    ) -> Result:
        """``run`` a pure function of the state, again and again until every draw that it asks for is there."""
        while True:
            try:
                return run((inputs or self._inputs)(draws))
            except MissingDraw as missing:
                draws[missing.draw] = None

    def _map(self, function: Callable[..., Any], *trees: Any) -> Any:
        """``function`` of one seed, mapped over all of them."""
        return stacked.over_seeds(len(self.seeds), function, *trees)

    # -- saving ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The whole state by dotted name; the tensors are the live ones."""
        metrics = {f"metrics.{name}": tensor for name, tensor in self.metrics.state().items()}
        rows = self._batches.state() if isinstance(self._batches, Replay) else {}
        return dict(self._entries()) | metrics | {f"replay.{name}": tensor for name, tensor in rows.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], tick: int) -> None:
        """Take over a saved state of the same stack, seeds and data."""
        self.metrics.load({name[8:]: tensor for name, tensor in state.items() if name.startswith("metrics.")})
        if isinstance(self._batches, Replay):
            self._batches.load({name[7:]: tensor for name, tensor in state.items() if name.startswith("replay.")})
        for name, tensor in self._entries():
            tensor.copy_(state[name])
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


def _simplified(traced: GraphModule) -> GraphModule:
    """The same operations, each of them once: updates of one stage often evaluate a network at the same rows."""
    from torch._functorch.compile_utils import fx_graph_cse  # costs a second to import, and not all runs trace

    graph = traced.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    once = fx_graph_cse(graph)
    once.set_codegen(graph._codegen)
    once.eliminate_dead_code()
    return GraphModule(traced, once)
