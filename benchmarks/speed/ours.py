"""Any stack of this package, through its engine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

from adaptive_constraints import ANQ, ASPC, ILQ, SSAR, Adapter, Dataset, Spec
from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.composition.text import read_learner
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.pretraining.preparation import prepare
from adaptive_constraints.support.cpu import fastest_products, tuned
from adaptive_constraints.support.files import CACHE_VARIABLE

from .contestant import EPISODE, Contestant, Loop, Shape, transitions
from .plain_loop import device_memory, synchronize

HORIZON = 1_000_000
ADAPTERS: dict[str, Adapter] = {
    "ASPC": ASPC(),
    "SSAR": SSAR(),
    "ANQ": ANQ(),
    # Its models are of full size but hardly trained, since that is aside; the rule has these shapes.
    "ILQ": ILQ(model_epochs=1, behavior_steps=1, termination="walker2d"),
}


def engine(contestant: Contestant, device: str, **options: Any) -> Engine:
    """The engine of a contestant at step 0; ``options`` are the engine's."""
    shape = contestant.shape
    sizes = (f"batch_size={shape.batch}", f"hidden={shape.width}")  # every learner here has both
    learner = read_learner([*contestant.learner.split(), *sizes])
    stack = Stack(learner, tuple(ADAPTERS[name] for name in contestant.adapters))
    data, place = dataset(shape), torch.device(device)
    resolved, preprocessor = stack.resolve(), Preprocessor.fit(data)
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        prepared = prepare(resolved, data, preprocessor, range(contestant.seeds), place)
    spec = Spec(shape.state, shape.action)
    initial = initial_state(resolved, spec, range(contestant.seeds), prepared)
    table = preprocessor.table(data, learner.columns())
    program = program_of(resolved, spec, HORIZON)
    return Engine(program, initial, table, horizon=HORIZON, device=place, **options)


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Keep models that are hardly trained out of the user's cache; this process is the contestant's own."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = before


def dataset(shape: Shape) -> Dataset:
    """The transitions that all contestants have, as episodes."""
    ends = np.arange(shape.rows) % EPISODE == EPISODE - 1
    columns: dict[str, Any] = dict(transitions(shape))
    return Dataset.from_arrays(**columns, timeouts=ends, name="made")


def as_trained(device: str) -> AbstractContextManager[None]:
    """The process settings under which `Agent.fit` runs steps."""
    where = torch.device(device)
    return tuned(where, fastest_products(where))


def execution(contestant: Contestant) -> Execution:
    """How the steps of a contestant run."""
    return Execution(contestant.traced, contestant.precision, contestant.compiled)


def build(contestant: Contestant, device: str) -> Loop:
    """The engine, run a step at a time as `Agent.fit` runs it."""
    running = engine(contestant, device, execution=execution(contestant))

    def run(steps: int) -> int:
        with as_trained(device):
            running.run(steps)
        synchronize(device)
        return steps

    return Loop(run, lambda: device_memory(device))


def compiled(contestant: Contestant, device: str) -> float:
    """Compile the steps of a contestant, or find them in the cache; the seconds that it took, models trained aside."""
    running = engine(contestant, device, execution=execution(contestant))
    started = time.perf_counter()
    with as_trained(device):
        running.record_ahead()
    return time.perf_counter() - started
