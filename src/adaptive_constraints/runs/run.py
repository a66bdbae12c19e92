"""A stack in training: its engine, its map into learner space, and what happened so far."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.types import Spec
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.batches import Replay
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.evaluation import Expected
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import DataFacts, Identity, OnlineIdentity
from adaptive_constraints.runs.online import Online, PreparedColumn, finish
from adaptive_constraints.runs.settings import OnlineSettings
from adaptive_constraints.support.cpu import Products


@dataclass
class Run:
    """One training of a stack, at whatever step it stands."""

    stack: Stack
    engine: Engine
    preprocessor: Preprocessor
    data: DataFacts
    steps: int
    """Steps planned offline."""
    history: History
    columns: Sequence[PreparedColumn] = ()
    """Columns that the adapters prepared: their descriptions, beside the columns themselves."""
    dataset: Dataset | None = None
    """The data, where it is at hand."""
    products: Products = "default"
    """Whose matrix products, on a CPU; a run keeps to them, so that it goes on bit for bit."""
    online: Online | None = None
    """The online phase, once there is one."""

    @property
    def identity(self) -> Identity:
        """The settings and data that a continuation must agree with."""
        return Identity(
            stack=self.stack.to_spec(),
            steps=self.steps,
            seeds=self.engine.seeds,
            fingerprint=self.data.fingerprint,
            precision=self.engine.execution.precision,
            compiled=self.engine.execution.compiled,
            online=None if self.online is None else self.online.identity,
        )

    def online_identity(self, settings: OnlineSettings) -> OnlineIdentity:
        """Identify the phase of these settings that began where this run went online, or would begin here and now."""
        if self.online is not None:
            return replace(self.online.identity, settings=settings)
        origin = _fingerprint(self.learned() | {"step": torch.tensor(self.engine.step)})
        return OnlineIdentity(settings, self.engine.step, origin)

    def learned(self) -> dict[str, Tensor]:
        """The engine's state less the sums of metrics: what an online phase begins with."""
        return {name: tensor for name, tensor in self.engine.state().items() if not name.startswith("metrics/")}

    @property
    def progress(self) -> tuple[int, int]:
        """Training steps and environment steps so far, to be compared with those of the same run elsewhere."""
        return self.engine.step, 0 if self.online is None else self.online.collector.steps

    @property
    def begun(self) -> bool:
        """Tell whether its phase has been going on already."""
        return self.progress > (self.engine.phase_start, 0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about this stack in the phase it is in."""
        resolved = self.stack.resolve("offline" if self.online is None else "online")
        return tuple(map(str, resolved.warnings))

    @property
    def spec(self) -> Spec:
        """Dimensions of the data."""
        return self.engine.spec

    @property
    def expected(self) -> Expected:
        """The sizes and bounds that the data's environment has."""
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
        """The device of the parameters."""
        return next(iter(next(iter(self.engine.params.values())).values())).device

    def not_finite(self) -> dict[str, list[int]]:
        """Positions of the seeds in which a parameter or an average is not finite, by its name."""
        positions = {}
        for name, tensor in self.engine.state().items():
            if name.startswith(("params/", "targets/")) and not tensor.isfinite().all():
                bad = ~tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else ~tensor.isfinite()
                positions[name] = bad.nonzero().flatten().tolist()
        return positions

    # -- going on -------------------------------------------------------------------------------------------------

    def advance(self, steps: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """Run some training steps; online, each after a step in every environment, the first after the warm-up.

        stopping: asked before each step of either kind; once it says so, the rest is left out.
        """
        for _ in range(steps):
            if self.online is not None:
                target = self.online.settings.warm_up + self.engine.step + 1 - self.engine.phase_start
                while self.online.collector.steps < target and not stopping():
                    self._collect(self.online)
            if stopping():
                return
            self.engine.run(1)

    def _collect(self, online: Online) -> None:
        replay = self.engine.batches
        assert isinstance(replay, Replay)
        explore = lambda observations, number: self.act(observations, number, "explore")  # noqa: E731
        learner = self.stack.learner
        ended = online.collect(explore, self.preprocessor, replay, learner.columns())
        finish(self.stack.adapters, replay, ended, learner.discount)

    def environments(self) -> AbstractContextManager[list[str]]:
        """Open what it needs to run; yields what should be known about that, in words."""
        if self.online is None:
            return nullcontext([])
        self.online.collector.observation_type = self.preprocessor.observation_type
        return self.online.environments(self.expected)

    # -- acting ---------------------------------------------------------------------------------------------------

    def act(self, observations: NDArray[Any], step: int, way: Literal["act", "explore"] = "act") -> NDArray[np.float32]:
        """Raw actions [S, N, A] of all seeds at raw observations [S, N, D]; ``step`` keys a random policy's noise."""
        raw = torch.as_tensor(np.asarray(observations, self.preprocessor.observation_type), device=self.device)
        actions = self.engine.act(self.preprocessor.observations(raw), step, way)
        raw_actions: NDArray[np.float32] = self.preprocessor.raw_actions(actions).cpu().numpy()
        return raw_actions


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change whenever a number of a state changes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = ["Run"]
