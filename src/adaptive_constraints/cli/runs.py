"""``train`` and ``finetune``: the commands that make a run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptive_constraints.cli.command import INTERRUPTED, Command, Common, RunOptions
from adaptive_constraints.data import load_dataset
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.runs.settings import AUTO, Buffer

if TYPE_CHECKING:
    from adaptive_constraints.agent import Agent
    from adaptive_constraints.runs.history import History


@dataclass(kw_only=True)
class Train(Command):
    """Train a stack on a data set, all seeds at once; the same command goes on with a run that was interrupted."""

    options_only: ClassVar[bool] = True
    data: str
    """Data reference: bundled:NAME, scripted:pointmaze/NAME, minari:NAMESPACE/NAME-v0,
    ogbench:NAME-singletask-v0, d4rl:FILE.hdf5, npz:FILE.npz or table:FILE#obs=..., and what is derived from
    them, such as 'bundled:hopper | fraction(0.1)'. One that is refused can be mended with the command repair
    (adaptive-constraints repair --help)."""
    learner: tuple[str, ...]
    """Learner and its settings, such as: TD3BC critic=robust alpha=3."""
    adapters: tuple[str, ...] = ()
    """Adapters, each with its settings, such as: ASPC interval=5 rate=published."""
    steps: int
    """Length of the run in steps (one minibatch per seed each); schedules depend on it."""
    seeds: int = 1
    """How many seeds: 0, 1, ..."""
    seed_list: tuple[int, ...] = ()
    """Which seeds, instead of how many."""
    out: Path | None = None
    """Run folder; by default runs/<data>-<stack>-<steps>."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of matrix products. bf16 pays on hardware with such instructions only."""
    compiled: Literal["auto", "on", "off"] = "auto"
    """Compile before training: about a minute, kept for later runs, and faster from then on; needs a C++ compiler (on
    CUDA, Triton). auto: on a CPU, for 50,000 steps or more, or where a run like it was compiled before."""
    download: bool = False
    """Fetch a data set of Minari or OGBench that is not here yet."""
    running: RunOptions = field(default_factory=RunOptions)
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Train, then say how it went."""
        from adaptive_constraints.agent import Agent
        from adaptive_constraints.cli.show import announce
        from adaptive_constraints.cli.stacks import folder_of, stack_of
        from adaptive_constraints.runs.identity import Identity

        if self.seed_list and self.seeds != 1:
            raise TrainingError("give --seeds (how many) or --seed-list (which), not both")
        if self.seeds < 1:
            raise TrainingError(f"--seeds must be at least 1, not {self.seeds}")
        _check_steps(self.steps)
        self.running.set_threads()
        stack, data = stack_of(self.learner, self.adapters), load_dataset(self.data, download=self.download)
        seeds = self.seed_list or tuple(range(self.seeds))
        out = self.out or folder_of(self.data, stack, self.steps)
        wanted = Identity(stack.to_spec(), self.steps, seeds, data.fingerprint, self.precision)
        if not self.running.quiet:
            announce(stack, data, wanted, out)
        agent = Agent(stack)
        return _run(
            agent,
            out,
            lambda: agent.fit(
                data,
                steps=self.steps,
                seeds=seeds,
                precision=self.precision,
                compiled=self.compiled if self.compiled == "auto" else self.compiled == "on",
                device=self.running.torch_device,
                **vars(self.running.settings(out)),
            ),
        )


@dataclass(kw_only=True)
class Finetune(Command):
    """Train a saved agent on in an environment; the same command goes on with a run that was interrupted."""

    path: Path
    """Saved agent, or run folder (its newest checkpoint)."""
    env: str = AUTO
    """Gymnasium id, to collect in; auto is the one the data was recorded in."""
    steps: int = 250_000
    """Environment steps of each seed: a training step follows each, but for those that only collect."""
    buffer: Buffer = "all"
    """Beside the collected rows: all of the data; half, the data in half of every minibatch; part, its best episodes;
    none."""
    warm_up: int | None = None
    """Steps at the beginning that only collect; by default 2 % of all, at most 5,000."""
    part_episodes: int = 50
    """Episodes that buffer part keeps."""
    data: str = AUTO
    """Reference of the data that the agent was trained on, should it have moved; auto is where it was."""
    out: Path | None = None
    """Run folder; by default <path>-online-<buffer>-<steps>."""
    running: RunOptions = field(default_factory=RunOptions)
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Fine-tune, then say how it went."""
        from adaptive_constraints.agent import load_agent

        _check_steps(self.steps)
        self.running.set_threads()
        agent = load_agent(self.path, self.running.torch_device)
        out = self.out or Path(f"{str(self.path).removesuffix('.npz')}-online-{self.buffer}-{self.steps}")
        if not self.running.quiet:
            print(f"{agent.name} from {self.path}, step {agent.step}, seeds {', '.join(map(str, agent.seeds))}")
            print(f"{self.steps} environment steps per seed, buffer {self.buffer}; run folder {out}")
        reference = agent.data_name if self.data == AUTO else self.data
        return _run(
            agent,
            out,
            lambda: agent.finetune(
                self.env,
                steps=self.steps,
                buffer=self.buffer,
                warm_up=self.warm_up,
                part_episodes=self.part_episodes,
                dataset=None if self.buffer == "none" else reference,
                **vars(self.running.settings(out)),
            ),
        )


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise TrainingError(f"steps must be at least 1, not {steps}")


def _run(agent: Agent, out: Path, train: Callable[[], History]) -> int:
    """Train the agent, then say how it went; the exit code."""
    from adaptive_constraints.cli.show import interrupted, show_run

    before = agent.step
    try:
        history = train()
    except KeyboardInterrupt as error:
        print(str(error) or interrupted(out), file=sys.stderr)
        return INTERRUPTED
    if agent.step == before:
        print(f"it was complete at step {before}: there was nothing to train")
    show_run(agent, history, out)
    return 0


__all__ = ["Finetune", "Train"]
