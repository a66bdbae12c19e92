"""Settings of a run: how it is watched and kept, and what an online phase does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from adaptive_constraints.environments.making import EnvSource
from adaptive_constraints.environments.naming import environment_text
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.support.files import check_folder

AUTO = "auto"
"""As an environment: the one that the data was recorded in."""
if TYPE_CHECKING:
    from adaptive_constraints.runs.loggers import Logger

Buffer = Literal["all", "half", "part", "none"]
"""Rows beside the collected ones: the whole data, the whole data in half of every minibatch, the best episodes, or
nothing."""

Tracker = Literal["wandb", "trackio"]
"""Modules that show runs on a dashboard, and the extras that bring them."""

PUBLISHED_WARM_UP, PUBLISHED_SHARE = 5_000, 50
"""Steps that only collect in SSAR's code (arXiv 2505.19923), and of how many steps they are one: 250,000."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Options for watching and keeping a run; nothing here changes what is learned.

    Intervals count steps from the beginning of the phase. Raises `TrainingError` for those below 1, `FileError` for a
    folder that cannot be written to.
    """

    eval_env: EnvSource | None = None
    """The environment to evaluate in; None: never."""
    eval_every: int = 5_000
    """Steps between two evaluations; there is one at the end of the phase too."""
    eval_episodes: int = 10
    """Episodes per seed and evaluation."""
    eval_seed: int = 0
    """Seed of the starting states of evaluations."""
    eval_max_steps: int | None = None
    """Steps after which episodes end; None: where the environment or the data ends them."""
    stop_after: int | None = None
    """How many of the phase's planned steps to take before stopping; None: all of them."""
    out: str | Path | None = None
    """The run folder; None: nothing is written."""
    log_every: int = 1_000
    """Steps between two rows of metrics."""
    checkpoint_every: int = 10_000
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder."""
    loggers: Sequence[Logger] = ()
    """Who else is told how the run goes."""
    progress: bool = True
    """Show a bar."""

    def __post_init__(self) -> None:
        for name in ("eval_every", "eval_episodes", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.eval_max_steps is not None and self.eval_max_steps < 1:
            raise TrainingError(f"eval_max_steps must be at least 1, not {self.eval_max_steps}")
        if self.folder is not None:
            check_folder(self.folder)

    @classmethod
    def of(cls, named: Mapping[str, Any], **others: Any) -> RunSettings:
        """Take the settings from among ``named`` values, such as a function's arguments, and from ``others`` first."""
        own = {entry.name: named[entry.name] for entry in fields(cls) if entry.name in named}
        return cls(**own | others)

    @property
    def folder(self) -> Path | None:
        """The run folder as a path."""
        return None if self.out is None else Path(self.out)


@dataclass(frozen=True)
class OnlineSettings:
    """Options of an online phase, which change what is learned."""

    env: str
    """Its name, settings included (`environment_text`)."""
    steps: int
    """Environment steps of each seed."""
    warm_up: int
    """How many of them, at the beginning, only collect; each later one is followed by a training step."""
    buffer: Buffer
    part_episodes: int | None
    """Episodes of the data that buffer "part" keeps; None with any other."""
    capacity: int
    """Collected rows kept per seed."""
    max_steps: int | None = None
    """Steps after which every episode ends; None: as the environment or the data has it."""

    @property
    def training_steps(self) -> int:
        """Length of the phase in training steps."""
        return self.steps - self.warm_up


def online_settings(
    env: EnvSource,
    *,
    steps: int,
    buffer: str,
    warm_up: int | None,
    part_episodes: int,
    capacity: int | None,
    batch_size: int,
    max_steps: int | None = None,
) -> OnlineSettings:
    """The settings that these options amount to; `TrainingError` says what makes no sense."""
    if buffer not in get_args(Buffer):
        raise TrainingError(f"buffer must be 'all', 'half', 'part' or 'none', not {buffer!r}")
    at_least = {"steps": steps, "part_episodes": part_episodes, "capacity": 1 if capacity is None else capacity}
    for name, value in at_least.items():
        if value < 1:
            raise TrainingError(f"{name} must be at least 1, not {value}")
    # Rows of a minibatch that only collected rows can fill.
    needed = {"all": 0, "part": 0, "half": batch_size - batch_size // 2, "none": batch_size}[buffer]
    chosen = max(needed, min(PUBLISHED_WARM_UP, steps // PUBLISHED_SHARE)) if warm_up is None else warm_up
    if chosen < needed:
        raise TrainingError(
            f"warm_up is {chosen}, but with buffer={buffer!r} a minibatch needs {needed} collected rows: give at least "
            f"{needed}, or None"
        )
    if not chosen < steps:
        raise TrainingError(
            f"steps must be more than warm_up, the {chosen} steps that only collect, but is {steps}: give more steps"
        )
    return OnlineSettings(
        env=environment_text(env),
        steps=steps,
        warm_up=chosen,
        buffer=buffer,  # type: ignore[arg-type]
        part_episodes=part_episodes if buffer == "part" else None,
        capacity=capacity or steps,
        max_steps=max_steps,
    )


__all__ = ["AUTO", "Buffer", "OnlineSettings", "RunSettings", "Tracker", "online_settings"]
