"""TD3+BC with and without ASPC on the bundled Hopper data: train, evaluate, compare, draw, save.

    python examples/demo.py        # about five minutes on two cores

The two stacks train side by side, in one process each. What they learn is written to a run folder each, and this
program shows what it reads there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from adaptive_constraints import ASPC, Agent, Dataset, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import reference_of
from adaptive_constraints.runs.folder import CHECKPOINT, picture
from adaptive_constraints.support.records import read_metrics

DATA = "bundled:hopper"
STACKS: dict[str, Callable[[], Agent]] = {
    "td3bc": lambda: wrap(TD3BC(critic="robust")),
    "td3bc-aspc": lambda: wrap(TD3BC(critic="robust"), ASPC()),
}
Show = Callable[[str, "State"], None]


@dataclass
class Options:
    """How much of it."""

    steps: int
    seeds: int
    out: Path
    minutes: float


@dataclass
class State:
    """How far a run is, as its folder says."""

    step: int = 0
    rate: float = 0.0
    """Steps per second."""
    score: float | None = None
    """At the last evaluation, the mean over seeds."""


def main() -> int:
    options = _options()
    data = load_dataset(DATA)
    print(f"{data!r}\n{len(STACKS)} stacks, {options.seeds} seeds each, {options.steps} steps\n", flush=True)
    try:
        seconds = train_side_by_side(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if missing := [name for name in STACKS if not (options.out / name / CHECKPOINT).is_file()]:
        sys.exit(f"{' and '.join(missing)} reached no checkpoint in {options.minutes:g} minutes: give more --minutes")
    agents = {name: load_agent(options.out / name, "cpu") for name in STACKS}
    for name, agent in agents.items():
        agent.save(options.out / f"{name}.npz")
    picture({agent.name: agent.history for agent in agents.values()}, options.out / "curves.png", data.mean_return)
    print_table(agents, seconds, data)
    print_closing(agents, options)
    return 0


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8_000, help="length of each run, one minibatch per seed each")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each stack, trained together")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for runs, policies and picture")
    parser.add_argument("--minutes", type=float, default=5.5, help="stop by then, on a machine that is too slow")
    return Options(**vars(parser.parse_args()))


# -- training -----------------------------------------------------------------------------------------------------


def train_side_by_side(options: Options) -> dict[str, float]:
    """Train every stack in a process of its own; the seconds each took."""
    for name in STACKS:
        for left_behind in (CHECKPOINT, "metrics.jsonl"):
            (options.out / name / left_behind).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    processes = {name: context.Process(target=train, args=(name, options)) for name in STACKS}
    for process in processes.values():
        process.start()
    try:
        return watch(processes, options)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def train(name: str, options: Options) -> None:
    """Train one stack; runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    every = max(1, options.steps // 8)
    try:
        STACKS[name]().fit(
            DATA,
            steps=options.steps,
            seeds=options.seeds,
            device="cpu",
            eval_env="auto",
            eval_every=every,
            checkpoint_every=every,
            log_every=min(100, every),
            out=options.out / name,
            progress=False,
        )
    except KeyboardInterrupt:
        sys.exit(130)


def watch(processes: Mapping[str, BaseProcess], options: Options) -> dict[str, float]:
    """Show how far the runs are until they end or time is up; the seconds each took."""
    started = time.monotonic()
    seconds: dict[str, float] = {}
    with display(options.steps) as show:
        while len(seconds) < len(processes):
            time.sleep(0.5)
            elapsed = time.monotonic() - started
            for name, process in processes.items():
                show(name, state_of(options.out / name))
                if name not in seconds and (not process.is_alive() or elapsed > 60 * options.minutes):
                    seconds[name] = elapsed
                    if process.exitcode:
                        sys.exit(f"the run {name} failed; its message is above")
    return seconds


def state_of(run: Path) -> State:
    """How far a run is."""
    state = State()
    for row in read_metrics(run / "metrics.jsonl"):
        state.step = row["step"]
        state.rate = row.get("steps_per_second", state.rate)
        if "eval/score" in row:
            state.score = mean(row["eval/score"])
    return state


def mean(scores: Sequence[float | None]) -> float:
    """Over the seeds that have one; a lost seed has none."""
    known = [score for score in scores if score is not None and np.isfinite(score)]
    return float(np.mean(known)) if known else float("nan")


# -- what is shown ------------------------------------------------------------------------------------------------


@contextmanager
def display(steps: int) -> Iterator[Show]:
    """A bar per stack on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield lines(steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as bars:
        tasks = {name: bars.add_task(name, total=steps, note="starting") for name in STACKS}
        yield lambda name, state: bars.update(tasks[name], completed=state.step, note=note_of(state))


def lines(steps: int, every: float = 15.0) -> Show:
    """Print each run's state every so many seconds."""
    shown = dict.fromkeys(STACKS, (0.0, State()))

    def show(name: str, state: State) -> None:
        when, before = shown[name]
        if state != before and (time.monotonic() - when > every or state.step == steps):
            shown[name] = (time.monotonic(), state)
            left = (steps - state.step) / max(state.rate, 1e-9)
            print(f"{name}: step {state.step}/{steps}, {note_of(state)}, {left:.0f} s left", flush=True)

    return show


def note_of(state: State) -> str:
    """Such as ``37 steps/s, score 24.1``."""
    if not state.step:
        return "starting"
    score = "" if state.score is None else f", score {state.score:.1f}"
    return f"{state.rate:.0f} steps/s{score}"


def print_table(agents: dict[str, Agent], seconds: dict[str, float], data: Dataset) -> None:
    """Scores, trade-offs and speed of every stack, and the data's own score."""
    heads = ("stack", "score", "of each seed", "best", "alpha at the end", "steps/s", "time")
    print("\n" + _row(heads))
    for name, agent in agents.items():
        summary, history = agent.history.summary(), agent.history
        alpha = history.series("aspc/scale")[1][-1] if history.adaptive else np.array([agent.learner.facts().tradeoff])
        last, best = (" ".join(f"{value:.1f}" for value in values) for values in (summary.last, summary.best))
        scales = " ".join(f"{value:.2f}" for value in alpha)
        speed = f"{history.steps_per_second:.0f}"
        score, took = f"{mean(summary.last.tolist()):.1f}", f"{seconds[name]:.0f} s"
        print(_row((agent.name, score, last, best, scales, speed, took)))
    reference = reference_of(data)
    assert reference is not None
    print(_row(("the data itself", f"{reference.score(data.episode_returns().mean()):.1f}")))
    print("\nscore: 0 is a random policy's return, 100 an expert's; last evaluation, 10 episodes per seed")


def _row(cells: tuple[str, ...]) -> str:
    widths = (16, 7, 14, 14, 18, 9, 6)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def print_closing(agents: dict[str, Agent], options: Options) -> None:
    """Print what to do next."""
    for name, agent in agents.items():
        if agent.step < options.steps:
            print(f"{name} was stopped at step {agent.step} of {options.steps}: time was up (--minutes)")
    name = list(agents)[-1]
    print(f"learning curves: {options.out / 'curves.png'}")
    print(f"a policy acts: load_agent('{options.out / name}.npz').act(observations)")


if __name__ == "__main__":
    sys.exit(main())
