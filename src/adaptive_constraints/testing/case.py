"""A stack on a small made data set, run and looked at: what the laws are tried on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Phase, Spec
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.refusals import NotPureError
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.errors import AdaptiveConstraintsError, AnswerError
from adaptive_constraints.pretraining.preparation import prepare

State = dict[str, Tensor]
PHASES: tuple[Phase, ...] = ("offline", "online")


def made_data(rows: int = 160, observation_dim: int = 3, action_dim: int = 2) -> Dataset:
    """Random transitions in episodes of 20 rows, every second of which truly ends."""
    draw, number = np.random.default_rng(0), np.arange(rows)
    last = number % 20 == 19
    states = draw.normal(size=(rows + 1, observation_dim))
    after_the_last = draw.normal(size=(rows, observation_dim))
    return Dataset.from_arrays(
        observations=states[:-1],
        actions=draw.uniform(-0.9, 0.9, size=(rows, action_dim)),
        rewards=draw.normal(size=rows),
        next_observations=np.where(last[:, None], after_the_last, states[1:]),
        terminals=last & (number % 40 < 20),
        timeouts=last & (number % 40 >= 20),
        name="made",
    )


@dataclass(frozen=True)
class Case:
    """A stack and the data it is tried on."""

    learner: Learner
    adapters: tuple[Adapter, ...]
    data: Dataset
    _ran: dict[tuple[Any, ...], Engine] = field(default_factory=dict)
    """By its options, every engine that `ran` gave."""

    @property
    def name(self) -> str:
        return Stack(self.learner, self.adapters).name

    @property
    def steps(self) -> int:
        """Enough for two runs of every stage, in either phase."""
        stages = [stage for phase in PHASES for stage in Stack(self.learner, self.adapters).resolve(phase).stages]
        return 2 * math.lcm(*(stage.every for stage in stages if stage.every <= 10))

    def plus(self, *adapters: Adapter) -> Case:
        return Case(self.learner, self.adapters + adapters, self.data)

    def engine(
        self,
        seeds: Sequence[int] = (0, 1),
        dtype: torch.dtype = torch.float32,
        traced: bool = False,
        phase: Phase = "offline",
    ) -> Engine:
        resolved = Stack(self.learner, self.adapters).resolve(phase)
        preprocessor = Preprocessor.fit(self.data)
        prepared = prepare(resolved, self.data, preprocessor, seeds, torch.device("cpu"))
        spec = Spec(self.data.observation_dim, self.data.action_dim)
        initial = initial_state(resolved, spec, seeds, prepared)
        table = preprocessor.table(self.data, self.learner.columns())
        program = program_of(resolved, spec, 100)
        return Engine(program, initial, table, horizon=100, execution=Execution(traced=traced), dtype=dtype)

    def ran(
        self,
        steps: int | None = None,
        *,
        seeds: Sequence[int] = (0, 1),
        dtype: torch.dtype = torch.float32,
        traced: bool = False,
    ) -> Engine:
        """An engine after some steps, to look at: several laws share it."""
        options = (self.steps if steps is None else steps, seeds, dtype, traced)
        if options not in self._ran:
            engine = self.engine(*options[1:])
            engine.run(options[0])
            self._ran[options] = engine
        return self._ran[options]

    def after(self, **options: Any) -> State:
        """The tensors that are learned after some steps."""
        return learned(self.ran(**options))


def learned(engine: Engine) -> State:
    """Clones of parameters, targets and buffers."""
    kept = ("params/", "targets/", "buffers/")
    return {name: tensor.clone() for name, tensor in engine.state().items() if name.startswith(kept)}


def different(one: State, two: State) -> list[str]:
    """Names of tensors of both that differ in any bit."""
    return [name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])]


@contextmanager
def said_plainly(case: Case) -> Iterator[None]:
    """Put what torch says of a broken law into the words of the law."""
    try:
        yield
    except (NotPureError, AnswerError) as error:
        raise AssertionError(f"{case.name}: {error}") from error
    except (AssertionError, AdaptiveConstraintsError):
        raise
    except Exception as error:
        text = str(error)
        said = f"running it fails ({type(error).__name__}: {text.splitlines()[0] if text else 'no message'})"
        raise AssertionError(f"{case.name}: {said}") from error


__all__ = ["PHASES", "Case", "State", "different", "learned", "made_data", "said_plainly"]
