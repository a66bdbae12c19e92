"""Small builders that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints import ANQ, ASPC, ILQ, SSAR, Adapter, Dataset, Learner, Spec
from adaptive_constraints.composition.program import StackProgram, program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.view import View
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.pretraining.preparation import prepare

META_STEPS: tuple[Literal["closed_form", "autograd"], ...] = ("closed_form", "autograd")
FOUR = (
    ANQ(hidden=8, policy_every=1),
    SSAR(hidden=8, select="return", trusted_fraction=0.5, growth_every=2),
    ASPC(interval=1),
    ILQ(
        samples=2, rows=6, model_members=3, model_elites=2, model_hidden=8, model_epochs=2, behavior_steps=20,
        behavior_hidden=8, diffusion_steps=2, termination_steps=20, warm_up=0.0,
    ),
)  # fmt: skip
"""The four adapters, small and quick to act."""


def random_data(rows: int = 200, observation: int = 3, action: int = 2) -> Dataset:
    """Random transitions in episodes of 20 steps, every second of which truly ends."""
    draw, number = np.random.default_rng(0), np.arange(rows)
    last = number % 20 == 19
    return Dataset.from_arrays(
        observations=draw.normal(size=(rows, observation)),
        actions=draw.uniform(-0.9, 0.9, size=(rows, action)),
        rewards=draw.normal(size=rows),
        next_observations=draw.normal(size=(rows, observation)),
        terminals=last & (number % 40 < 20),
        timeouts=last & (number % 40 >= 20),
        name="random",
    )


def build(
    learner: Learner,
    *adapters: Adapter,
    seeds: Sequence[int] = (0,),
    horizon: int = 100,
    data: Dataset | None = None,
    dtype: torch.dtype = torch.float32,
    traced: bool = False,
    **options,
) -> Engine:
    """An engine at step 0; eager, because short runs are quicker so."""
    data = data or random_data()
    resolved = Stack(learner, adapters).resolve()
    preprocessor = Preprocessor.fit(data)
    spec = Spec(data.observation_dim, data.action_dim)
    initial = initial_state(resolved, spec, seeds, prepare(resolved, data, preprocessor, seeds, torch.device("cpu")))
    table = preprocessor.table(data, learner.columns())
    execution = Execution(traced, options.pop("precision", "float32"), options.pop("compiled", False))
    program = program_of(resolved, spec, horizon)
    return Engine(program, initial, table, horizon=horizon, execution=execution, dtype=dtype, **options)


def columns_of(engine: Engine) -> dict[str, Tensor]:
    """The columns [N, C] that an engine draws minibatches from."""
    shared, _ = engine.batches.select(torch.arange(engine.batches.rows))
    return {name: column.reshape(len(column), -1) for name, column in shared.items()}


def resolved_of(engine: Engine) -> Any:
    """The resolved stack that an engine runs."""
    assert isinstance(engine.program, StackProgram)
    return engine.program.resolved


def trained(learner: Learner, *adapters: Adapter, steps: int = 4, **options) -> Engine:
    """An engine that has run."""
    engine = build(learner, *adapters, **options)
    engine.run(steps)
    return engine


def seen(learner: Learner, *adapters: Adapter, what: Callable[[View], Tensor], steps: int = 1, **options) -> Tensor:
    """What a view shows at the end of the last step; [S, ...]."""
    return trained(learner, *adapters, steps=steps, **options).ask("seen", lambda v: {"seen": what(v)})["seen"]


def learned(engine: Engine, seed: int | None = None) -> dict[str, Tensor]:
    """Clones of all parameters, targets and buffers, of one seed (by position) or of all."""
    state = engine.state()
    kept = {name: tensor for name, tensor in state.items() if name.startswith(("params", "targets", "buffers"))}
    return {name: (tensor if seed is None else tensor[seed]).clone() for name, tensor in kept.items()}


def different(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    """The names that only one holds, or whose tensors differ in any bit."""
    return [name for name in one | two if name not in one or name not in two or not torch.equal(one[name], two[name])]


def groups(names: list[str]) -> set[str]:
    """The groups of parameters among tensors' names."""
    return {name.split("/")[1] for name in names if name.startswith("params")}


def largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Over all tensors of two trees of the same names; not a number if any is."""
    assert one.keys() == two.keys()
    return float(torch.stack([(one[name] - two[name]).abs().max().double() for name in one]).max())


def apart_from_alone(
    learner: Learner, *adapters: Adapter, seeds: Sequence[int] = (5, 0), traced: bool = False, **options
) -> float:
    """How far what seeds learn together, perhaps traced, is from what each learns alone and eager, in float64."""
    options["dtype"] = torch.float64
    together = trained(learner, *adapters, seeds=seeds, traced=traced, **options)
    alone = [learned(trained(learner, *adapters, seeds=(seed,), **options), 0) for seed in seeds]
    every = {name: torch.stack([state[name] for state in alone]) for name in alone[0]}
    return largest_difference(learned(together), every)


def outer_step(engine: Engine, key: str = "aspc/gradient") -> Tensor:
    """One step, which must hold an outer step; d(outer loss)/d(trade-off) [S]."""
    engine.metrics.flush()
    engine.run(1)
    return torch.tensor(engine.metrics.flush()[key], dtype=torch.float64)


def put(engine: Engine, other: Engine) -> Engine:
    """``engine`` at the state of ``other``."""
    engine.load({name: tensor.clone() for name, tensor in other.state().items()}, other.step)
    return engine


def deviation(computed: list[Tensor], expected: list[Tensor]) -> float:
    """The largest, relative to the largest expected."""
    one, two = torch.stack(computed), torch.stack(expected)
    return float((one - two).abs().max() / two.abs().max())


def meta_gradients(
    learner: Learner, *adapters: Adapter, rounds: int, horizon: int = 100, seeds: Sequence[int] = (0, 1)
) -> tuple[list[Tensor], list[Tensor]]:
    """d(outer loss)/d(trade-off) [S] of some outer steps: in closed form, and by autograd from the same states."""
    closed, autograd = (
        build(learner, *adapters, ASPC(interval=1, meta_step=name), seeds=seeds, horizon=horizon, dtype=torch.float64)
        for name in META_STEPS
    )
    outer_step(closed)
    in_closed_form, expected = [], []
    for _ in range(rounds):
        expected.append(outer_step(put(autograd, closed)))
        in_closed_form.append(outer_step(closed))
    return in_closed_form, expected
