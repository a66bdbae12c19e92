"""The class of commands, and the options that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast, get_args

from adaptive_constraints.errors import TrainingError
from adaptive_constraints.runs.settings import AUTO, RunSettings, Tracker

if TYPE_CHECKING:
    from adaptive_constraints.runs.trackers import TrackerLogger

FOUND_ERRORS, FAILED, INTERRUPTED, PIPE_CLOSED, TERMINATED = 1, 2, 130, 141, 143
"""Exit codes: the doctor found errors, a command failed, Ctrl-C ended it, its reader has gone, SIGTERM ended it."""


class Command(ABC):
    """A command: a dataclass of its options.

    The value of a field of `Common` or `RunOptions` is a group of options without a prefix: ``--debug``, ``--device``.
    """

    options_only: ClassVar[bool] = False
    """Make required fields options too, instead of words that stand without a name."""
    common: Common

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit code."""


@dataclass(kw_only=True)
class Common:
    """Options that every command takes."""

    imports: tuple[str, ...] = ()
    """Modules to import first, which define learners or adapters of your own."""
    debug: bool = False
    """Show where an error came from."""


@dataclass(kw_only=True)
class RunOptions:
    """Options of where a run computes, and how it is watched and kept; nothing here changes what is learned."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    threads: int | None = None
    """CPU threads of torch; by default as many as torch chooses. Small networks are fastest on one or two."""
    eval_env: str = AUTO
    """Environment to evaluate in: auto (that of the run: where the data was recorded, or another one of --env), none,
    or a Gymnasium id."""
    eval_every: int = RunSettings.eval_every
    """Steps between evaluations; there is one at the end too."""
    eval_episodes: int = RunSettings.eval_episodes
    """Episodes per seed and evaluation."""
    eval_max_steps: int | None = None
    """Steps after which episodes end, those that fine-tuning collects too; by default where the environment ends them
    or, if it has no time limit, after as many as the data's longest episode has."""
    stop_after: int | None = None
    """Stop after this many of the planned steps; the run can go on later."""
    log_every: int = RunSettings.log_every
    """Steps between rows of metrics."""
    checkpoint_every: int = RunSettings.checkpoint_every
    """Steps between checkpoints: at most so many are lost when a run is killed."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder too."""
    track: tuple[str, ...] = ()
    """Show the run on a dashboard: wandb:PROJECT or trackio:PROJECT, under the name of the run folder."""
    quiet: bool = False
    """Print the final table only."""

    @property
    def torch_device(self) -> str | None:
        """The device as `Agent.fit` and `load_agent` take it."""
        return None if self.device == "auto" else self.device

    def set_threads(self) -> None:
        """Let torch use as many threads as was asked for."""
        if self.threads is not None and self.threads < 1:
            raise TrainingError(f"--threads must be at least 1, not {self.threads}")
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)

    def settings(self, out: Path) -> RunSettings:
        """The same options as `Agent.fit` and `Agent.finetune` take them."""
        eval_env = None if self.eval_env == "none" else self.eval_env
        loggers = [_tracker(text, out) for text in self.track]
        return RunSettings.of(vars(self), eval_env=eval_env, out=out, progress=not self.quiet, loggers=loggers)


def _tracker(text: str, out: Path) -> TrackerLogger:
    from adaptive_constraints.runs.trackers import TrackerLogger

    module, _, project = text.partition(":")
    if not project or module not in get_args(Tracker):
        raise TrainingError(
            f"--track takes {' or '.join(f'{name}:PROJECT' for name in get_args(Tracker))}, not {text!r}"
        )
    return TrackerLogger(cast(Tracker, module), project=project, name=out.resolve().name)


__all__ = ["FAILED", "FOUND_ERRORS", "INTERRUPTED", "PIPE_CLOSED", "TERMINATED", "Command", "Common", "RunOptions"]
