"""The command line: ``adaptive-constraints train | finetune | evaluate | explain | list | doctor | collect``.

A stack is named as ``--learner TD3BC critic=robust --adapters ASPC interval=5 FixedScale``: a setting belongs to the
name before it. tyro and rich (extra ``cli``) are imported when a command runs.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_constraints import registry, settings
from adaptive_constraints.adapter import Adapter
from adaptive_constraints.agent import AUTO, Agent, load_agent
from adaptive_constraints.data import Dataset, doctor, list_datasets, load_dataset
from adaptive_constraints.errors import AdaptiveConstraintsError, DependencyError, StackError, TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.learner import Learner
from adaptive_constraints.stack import Stack
from adaptive_constraints.training.fitting import CHECKPOINT, LostSeedWarning
from adaptive_constraints.training.history import History
from adaptive_constraints.training.online import Buffer
from adaptive_constraints.training.records import write_json
from adaptive_constraints.training.trained import Identity, Trained

FOUND_ERRORS, FAILED, INTERRUPTED = 1, 2, 130
"""Exit codes: the doctor found errors, a command failed, Ctrl-C ended it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _refuse_repeated(words)
        command = _parse(words)
    except SystemExit as end:  # --help, or words that are no command
        return end.code if isinstance(end.code, int) else FAILED
    except AdaptiveConstraintsError as error:
        return _failed(error, debug=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LostSeedWarning)  # said by the progress display and by the final table
            _import(command.common.imports)
            return command.run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (AdaptiveConstraintsError, OSError) as error:
        return _failed(error, command.common.debug)


def _parse(words: Sequence[str]) -> Command:
    try:
        import tyro
    except ImportError as error:
        raise DependencyError(
            "the command line needs tyro, which is not installed: pip install 'adaptive-constraints[cli]'"
        ) from error
    kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in _OF_OPTIONS.items()]
    kinds += [
        Annotated[kind, tyro.conf.subcommand(name), tyro.conf.PositionalRequiredArgs]
        for name, kind in _OF_POSITIONS.items()
    ]
    any_of: Any = Union[tuple(kinds)]  # noqa: UP007
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    command: Command = tyro.cli(any_of, prog="adaptive-constraints", description=_TITLE, args=words, config=config)
    return command


def _refuse_repeated(words: Sequence[str]) -> None:
    """An option given twice would silently lose its first values."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    for option in options:
        if options.count(option) > 1:
            raise TrainingError(f"{option} is given twice; name all its values after one {option}")


def _import(modules: Sequence[str]) -> None:
    """Import what defines own learners and adapters, from the working directory too."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DependencyError(f"--imports {module}: {error}; give a module's dotted name, not a file") from error
        except Exception as error:
            text = f"--imports {module}: it fails while being imported ({type(error).__name__}: {error})"
            raise DependencyError(f"{text}; import it in Python to see where") from error


def _failed(error: BaseException, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    return FAILED


# -- commands -----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Common:
    """What every command takes."""

    imports: tuple[str, ...] = ()
    """Modules to import first, which define learners or adapters of your own."""
    debug: bool = False
    """Show where an error came from."""


class Command(ABC):
    """A command: a dataclass of its options."""

    common: Common

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit code."""


@dataclass(kw_only=True)
class Train(Command):
    """Train a stack on a data set, all seeds at once; the same command goes on with a run that was interrupted."""

    data: str
    """Data reference: bundled:NAME, minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or npz:FILE.npz."""
    learner: tuple[str, ...]
    """Learner and its settings, such as: TD3BC critic=robust alpha=3."""
    adapters: tuple[str, ...] = ()
    """Adapters, each with its settings, such as: ASPC interval=5 rate=published."""
    steps: int
    """Length of the run in ticks (one minibatch per seed each); schedules depend on it."""
    seeds: int = 1
    """How many seeds: 0, 1, ..."""
    seed_list: tuple[int, ...] = ()
    """Which seeds, instead of how many."""
    out: Path | None = None
    """Run folder; by default runs/<data>-<stack>-<steps>."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    threads: int | None = None
    """CPU threads of torch; by default as many as torch chooses. Small networks are fastest on one or two."""
    eval_env: str = AUTO
    """Environment to evaluate in: auto (the one the data was recorded in), none, or a Gymnasium id."""
    eval_every: int = 5_000
    """Ticks between evaluations; there is one at the end too."""
    eval_episodes: int = 10
    """Episodes per seed and evaluation."""
    stop_after: int | None = None
    """Stop at this tick of the planned steps; the run can go on later."""
    log_every: int = 1_000
    """Ticks between rows of metrics."""
    checkpoint_every: int = 10_000
    """Ticks between checkpoints: at most so many are lost when a run is killed."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder too."""
    download: bool = False
    """Fetch a Minari data set that is not here yet."""
    quiet: bool = False
    """Print the final table only."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Train, then say how it went."""
        if self.seed_list and self.seeds != 1:
            raise TrainingError("give --seeds (how many) or --seed-list (which), not both")
        _set_threads(self.threads)
        stack, data = _stack(self.learner, self.adapters), load_dataset(self.data, download=self.download)
        wanted = Identity(stack.to_spec(), self.steps, self.seed_list or tuple(range(self.seeds)), data.fingerprint)
        out = self.out or _folder(self.data, stack, self.steps)
        if not self.quiet:
            _announce(stack, data, wanted, out)
        agent = Agent(stack)
        try:
            history = self._fit(agent, data, wanted.seeds, out)
        except KeyboardInterrupt:
            print(_interrupted(out), file=sys.stderr)
            return INTERRUPTED
        _show_run(agent, history, out)
        return 0

    def _fit(self, agent: Agent, data: Dataset, seeds: Sequence[int], out: Path) -> History:
        return agent.fit(
            data,
            steps=self.steps,
            seeds=seeds,
            device=None if self.device == "auto" else self.device,
            eval_env=None if self.eval_env == "none" else self.eval_env,
            eval_every=self.eval_every,
            eval_episodes=self.eval_episodes,
            stop_after=self.stop_after,
            out=out,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            tensorboard=self.tensorboard,
            progress=not self.quiet,
        )


@dataclass(kw_only=True)
class Finetune(Command):
    """Train a saved agent on in an environment; the same command goes on with a run that was interrupted."""

    path: Path
    """Saved agent, or run folder (its newest checkpoint)."""
    env: str = AUTO
    """Gymnasium id, to collect in; auto is the one the data was recorded in."""
    steps: int = 250_000
    """Environment steps of each seed: one tick after each, but for those that only collect."""
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
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    threads: int | None = None
    """CPU threads of torch; by default as many as torch chooses."""
    eval_env: str = AUTO
    """Environment to evaluate in: auto (another one of --env), none, or a Gymnasium id."""
    eval_every: int = 5_000
    """Ticks between evaluations; there is one at the end too."""
    eval_episodes: int = 10
    """Episodes per seed and evaluation."""
    stop_after: int | None = None
    """Stop after this many of the planned steps; the run can go on later."""
    log_every: int = 1_000
    """Ticks between rows of metrics."""
    checkpoint_every: int = 10_000
    """Ticks between checkpoints: at most so many are lost when a run is killed."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder too."""
    quiet: bool = False
    """Print the final table only."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Fine-tune, then say how it went."""
        _set_threads(self.threads)
        agent = load_agent(self.path, None if self.device == "auto" else self.device)
        out = self.out or Path(f"{str(self.path).removesuffix('.npz')}-online-{self.buffer}-{self.steps}")
        if not self.quiet:
            print(f"{agent.name} from {self.path}, tick {agent.tick}, seeds {', '.join(map(str, agent.seeds))}")
            print(f"{self.steps} environment steps per seed, buffer {self.buffer}; run folder {out}")
        try:
            history = self._finetune(agent, out)
        except KeyboardInterrupt:
            print(_interrupted(out), file=sys.stderr)
            return INTERRUPTED
        _show_run(agent, history, out)
        return 0

    def _finetune(self, agent: Agent, out: Path) -> History:
        reference = agent.data_name if self.data == AUTO else self.data
        return agent.finetune(
            self.env,
            steps=self.steps,
            buffer=self.buffer,
            warm_up=self.warm_up,
            part_episodes=self.part_episodes,
            dataset=None if self.buffer == "none" else reference,
            eval_env=None if self.eval_env == "none" else self.eval_env,
            eval_every=self.eval_every,
            eval_episodes=self.eval_episodes,
            stop_after=self.stop_after,
            out=out,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            tensorboard=self.tensorboard,
            progress=not self.quiet,
        )


@dataclass(kw_only=True)
class Evaluate(Command):
    """Roll a saved agent's policies out, one per seed, and show their returns."""

    path: Path
    """Saved agent, or run folder (its newest checkpoint)."""
    env: str = AUTO
    """Gymnasium id; auto is the one the data was recorded in."""
    episodes: int = 10
    """Episodes per seed."""
    seed: int = 0
    """Seed of the starting states."""
    device: str = "cpu"
    """Where the policy runs."""
    json: Path | None = None
    """Write every episode's return to this file too."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Evaluate and show."""
        agent = load_agent(self.path, self.device)
        found = agent.evaluate(self.env, episodes=self.episodes, seed=self.seed)
        print(
            f"{agent.name} at tick {agent.tick}: {self.episodes} episodes per seed, starting states of seed {self.seed}"
        )
        _show_evaluation(agent, found)
        if self.json is not None:
            write_json(self.json, self._record(agent, found))
            print(f"every return is in {self.json}")
        return 0

    def _record(self, agent: Agent, found: Evaluation) -> dict[str, Any]:
        return {
            "agent": self.path,
            "stack": agent.name,
            "tick": agent.tick,
            "env": self.env,
            "seed": self.seed,
            "seeds": agent.seeds,
            "returns": found.returns,
            "mean_return": found.mean_return,
            "score": found.score,
            "reference": found.reference and asdict(found.reference),
        }


@dataclass(kw_only=True)
class Explain(Command):
    """Say what one tick of a stack does, stage by stage, and who answers at each seam."""

    path: tuple[Path, ...]
    """Saved agents or run folders, instead of a learner and adapters."""
    learner: tuple[str, ...] = ()
    """Learner and its settings, such as: TD3BC critic=robust alpha=3."""
    adapters: tuple[str, ...] = ()
    """Adapters, each with its settings, such as: ASPC interval=5 rate=published."""
    phase: Literal["offline", "online"] = "offline"
    """online: as it is while fine-tuning."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Explain each."""
        if self.path and (self.learner or self.adapters):
            raise StackError("give saved agents, or --learner and --adapters, not both")
        agents = [load_agent(path, "cpu") for path in self.path]
        agents = agents or [Agent(_stack(self.learner, self.adapters))]
        print("\n\n".join(agent.explain(self.phase) for agent in agents))
        return 0


@dataclass(kw_only=True)
class List(Command):
    """List the learners, adapters and data sets that are here; of those named, the settings."""

    name: tuple[str, ...]
    """Learners or adapters whose settings to show."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """List."""
        for name in self.name:
            _show_settings(registry.part(name))
        if not self.name:
            _show_parts("Learners", registry.learners())
            _show_parts("Adapters", registry.adapters())
            print("\nData sets that are here")
            print("\n".join(f"  {reference}" for reference in list_datasets()))
            print("\nadaptive-constraints list NAME shows the settings of a learner or an adapter.")
        return 0


@dataclass(kw_only=True)
class Doctor(Command):
    """Look for everything that commonly goes wrong with offline data; the exit code is 1 if it must be mended."""

    data: str
    """Data reference: bundled:NAME, minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or npz:FILE.npz."""
    download: bool = False
    """Fetch a Minari data set that is not here yet."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Diagnose."""
        data = load_dataset(self.data, download=self.download)
        diagnosis = doctor(data)
        print(repr(data))
        print(diagnosis)
        return FOUND_ERRORS if diagnosis.errors else 0


@dataclass(kw_only=True)
class Collect(Command):
    """Record a data set: what SAC went through while it learned (Ctrl-C ends it early), or a random policy."""

    source: str
    """sac:ENV_ID or random:ENV_ID."""
    out: Path | None = None
    """File to write (.npz), by default such as sac-Hopper-v5.npz; a manifest (.json) is written beside it."""
    steps: int = 200_000
    """Environment steps to record."""
    keep: int = 50_000
    """Rows to keep at most: whole episodes, evenly spaced."""
    seed: int = 0
    """Seed of environment and agent."""
    licence: str = "MIT"
    """Licence of the data, named in the manifest."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Record and write."""
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        from adaptive_constraints.data.collect import collect

        out = self.out or Path(f"{_safe(self.source)}.npz")
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(self.source, total=self.steps)
            data = collect(
                self.source,
                out,
                self.steps,
                self.keep,
                self.seed,
                licence=self.licence,
                progress=lambda done, steps: bar.update(task, completed=done, total=steps),
            )
        print(repr(data))
        print(f"written to {out} and described in {out.with_suffix('.json')}")
        print(f"look at it: adaptive-constraints doctor npz:{out}")
        return 0


_TITLE = "Offline reinforcement learning with composable adapters."
_OF_OPTIONS: dict[str, type[Command]] = {"train": Train}
"""Commands that are told everything by options."""
_OF_POSITIONS: dict[str, type[Command]] = {
    "finetune": Finetune,
    "evaluate": Evaluate,
    "explain": Explain,
    "list": List,
    "doctor": Doctor,
    "collect": Collect,
}
"""Commands whose object is named without an option."""


# -- stacks and their run folders ---------------------------------------------------------------------------------


def _stack(learner: Sequence[str], adapters: Sequence[str]) -> Stack:
    """The stack of these words."""
    if not learner:
        known = ", ".join(sorted(registry.learners()))
        raise StackError(f"name a learner, such as --learner TD3BC (known are {known}), or give a saved agent")
    return Stack(settings.read_learner(learner), settings.read_adapters(adapters))


def _folder(data: str, stack: Stack, steps: int) -> Path:
    """runs/<data>-<stack>-<steps>, where the stack names every setting that is not its default."""
    adapters = "".join(f"+{_short(adapter)}" for adapter in stack.adapters)
    return (
        Path("runs") / f"{_safe(data.partition(':')[2].removesuffix('.npz'))}-{_short(stack.learner)}{adapters}-{steps}"
    )


def _short(part: Learner | Adapter) -> str:
    """Such as ``TD3BC,critic=robust``."""
    default = type(part)()
    values = {each.name: (getattr(part, each.name), getattr(default, each.name)) for each in fields(part)}
    changed = [f",{name}={_safe(str(value))}" for name, (value, usual) in values.items() if value != usual]
    return type(part).__name__ + "".join(changed)


def _safe(text: str) -> str:
    """Without what a file's name should not have."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.")


def _set_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise TrainingError(f"--threads must be at least 1, not {threads}")
    if threads is not None:
        torch.set_num_threads(threads)


# -- what is shown ------------------------------------------------------------------------------------------------


def _announce(stack: Stack, data: Dataset, wanted: Identity, out: Path) -> None:
    """What is going to be trained, and whether it was begun before."""
    print(f"{stack.name} on {data!r}")
    print(f"seeds {', '.join(map(str, wanted.seeds))}; {wanted.steps} ticks; run folder {out}")
    if (out / CHECKPOINT).is_file():
        found = Trained.read(out / CHECKPOINT, torch.device("cpu"))
        if found.identity == wanted:
            then = "it is complete" if found.engine.tick == wanted.steps else "going on from there"
            print(f"{out} holds this run at tick {found.engine.tick} of {wanted.steps}: {then}")


def _interrupted(out: Path) -> str:
    if not (out / CHECKPOINT).is_file():
        return "interrupted before the first checkpoint: the same command starts anew (trained models are kept)"
    tick = load_agent(out, "cpu").tick
    return f"interrupted: the same command goes on from tick {tick}, the last checkpoint in {out}"


def _show_run(agent: Agent, history: History, out: Path) -> None:
    speed = f"{history.ticks_per_second:.0f} ticks/s, {history.seconds:.0f} s of training"
    print(f"\n{agent.name} at tick {agent.tick}: {speed}")
    if history.evaluations:
        _show_summary(agent, history)
    else:
        print("not evaluated")
        for seed in history.failures:
            print(f"seed {seed} was {_lost(history, seed)}")
    files = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
    print(f"in {out}: {', '.join(files)}")


def _show_summary(agent: Agent, history: History) -> None:
    found = history.summary()
    columns = (found.last, found.best, found.last_ten)
    rows = [
        [str(seed), *(f"{column[i]:.1f}" for column in columns), _lost(history, seed)]
        for i, seed in enumerate(agent.seeds)
    ]
    rows.append(["mean", *(f"{_mean(column, agent):.1f}" for column in columns), ""])
    _table(["seed", f"last {found.measure}", f"best {found.measure}", "mean of last ten", ""], rows)


def _show_evaluation(agent: Agent, found: Evaluation) -> None:
    scores = np.full(len(agent.seeds), np.nan) if found.score is None else found.score
    rows = [
        [
            str(seed),
            f"{found.mean_return[i]:.1f} +- {found.returns[i].std():.1f}",
            f"{scores[i]:.1f}",
            _lost(agent.history, seed),
        ]
        for i, seed in enumerate(agent.seeds)
    ]
    rows.append(["mean", f"{_mean(found.mean_return, agent):.1f}", f"{_mean(scores, agent):.1f}", ""])
    _table(["seed", "return", "score", ""], rows)
    if found.reference is None:
        print("no reference returns are known here, so there is no score")
    else:
        low, high = found.reference.random, found.reference.expert
        print(f"score: 0 is a return of {low:g}, 100 one of {high:g} ({found.reference.source})")


def _mean(values: NDArray[np.float64], agent: Agent) -> float:
    """Over the seeds that are not lost."""
    kept = [value for seed, value in zip(agent.seeds, values, strict=True) if seed not in agent.history.failures]
    return float(np.mean(kept)) if kept else float("nan")


def _lost(history: History, seed: int) -> str:
    failure = history.failures.get(seed)
    return f"lost at tick {failure.tick}: {failure.term} was not finite" if failure else ""


def _show_parts(title: str, parts: Mapping[str, type[Learner] | type[Adapter]]) -> None:
    print(f"\n{title}")
    _table(["name", "paper", ""], [[name, cls.paper, settings.summary(cls)] for name, cls in sorted(parts.items())])


def _show_settings(cls: type[Learner] | type[Adapter]) -> None:
    paper = f" ({cls.paper})" if cls.paper else ""
    print(f"\n{cls.__name__}{paper}: {settings.summary(cls)}")
    _table(["setting", "default", "values", ""], [list(setting) for setting in settings.describe(cls)])
    if cls.presets:
        print("\npreset=NAME takes these published settings:")
        default = {entry.name: entry.default for entry in fields(cls)}
        presets = {
            name: " ".join(f"{key}={value}" for key, value in each.items() if value != default[key])
            for name, each in cls.presets.items()
        }
        _table(["preset", "differs from the defaults in"], [[name, each or "-"] for name, each in presets.items()])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; on a terminal they are fitted to its width."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for row in (heads, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


__all__ = ["main"]
