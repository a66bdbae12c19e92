"""The output of commands: plain lines in a pipe, tables fitted to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_constraints.agent import Agent, load_agent
from adaptive_constraints.composition import text as settings
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.part import Part
from adaptive_constraints.data import Dataset
from adaptive_constraints.data.checks.provenance import columns_text
from adaptive_constraints.data.references import SUCCESS
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.runs.file import read_run
from adaptive_constraints.runs.folder import CHECKPOINT
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import Identity


def announce(stack: Stack, data: Dataset, wanted: Identity, out: Path) -> None:
    """Say what is going to be trained, and whether it was begun before."""
    print(f"{stack.name} on {data!r}")
    if columns := columns_text(data):
        print(columns)
    print(f"seeds {', '.join(map(str, wanted.seeds))}; {wanted.steps} steps; run folder {out}")
    if (out / CHECKPOINT).is_file():
        saved = read_run(out / CHECKPOINT, torch.device("cpu"))
        if replace(saved.identity, compiled=wanted.compiled) == wanted:
            then = "it is complete" if saved.engine.step == wanted.steps else "going on from there"
            print(f"{out} holds this run at step {saved.engine.step} of {wanted.steps}: {then}")


def interrupted(out: Path) -> str:
    """Explain how a run that Ctrl-C ended goes on."""
    if not (out / CHECKPOINT).is_file():
        return "interrupted before the first checkpoint: the same command starts anew (trained models are kept)"
    step = load_agent(out, "cpu").step
    return f"interrupted: the same command goes on from step {step}, the last checkpoint in {out}"


def show_run(agent: Agent, history: History, out: Path) -> None:
    """Show how a run went, and what it left in its folder."""
    speed = f"{history.steps_per_second:.0f} steps/s, {history.seconds:.0f} s of training"
    print(f"\n{agent.name} at step {agent.step}: {speed}")
    if history.counted:
        show_summary(agent, history)
    else:
        print("not evaluated" if history.online_from is None else "not evaluated online")
        for seed in history.failures:
            print(f"seed {seed} was {history.lost(seed)}")
    files = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
    print(f"in {out}: {', '.join(files)}")


def show_summary(agent: Agent, history: History) -> None:
    """The evaluations of a run, seed by seed."""
    columns = history.summary().columns
    rows = [
        [str(seed), *(f"{values[i]:.1f}" for values in columns.values()), history.lost(seed)]
        for i, seed in enumerate(agent.seeds)
    ]
    rows.append(["mean", *(f"{_mean(values, agent):.1f}" for values in columns.values()), ""])
    table(["seed", *columns, ""], rows)


def show_evaluation(agent: Agent, evaluation: Evaluation) -> None:
    """Returns and scores, seed by seed, and what a score means."""
    scores = np.full(len(agent.seeds), np.nan) if evaluation.score is None else evaluation.score
    rate = evaluation.success_rate
    rows = [
        [
            str(seed),
            f"{evaluation.mean_return[i]:.1f} +- {evaluation.returns[i].std():.1f}",
            f"{scores[i]:.1f}",
            *([] if rate is None else [f"{rate[i]:.0f} %"]),
            agent.history.lost(seed),
        ]
        for i, seed in enumerate(agent.seeds)
    ]
    means = [f"{_mean(evaluation.mean_return, agent):.1f}", f"{_mean(scores, agent):.1f}"]
    rows.append(["mean", *means, *([] if rate is None else [f"{_mean(rate, agent):.0f} %"]), ""])
    table(["seed", "return", "score", *([] if rate is None else ["success"]), ""], rows)
    if evaluation.reference == SUCCESS:
        print(f"score: {SUCCESS.source}, in percent; no reference returns are known here")
    elif evaluation.reference is None:
        print("no reference returns are known here, so there is no score")
    else:
        low, high = evaluation.reference.random, evaluation.reference.expert
        print(f"score: 0 is a return of {low:g}, 100 one of {high:g} ({evaluation.reference.source})")


def _mean(values: NDArray[np.float64], agent: Agent) -> float:
    """Over the seeds that are not lost."""
    kept = [value for seed, value in zip(agent.seeds, values, strict=True) if seed not in agent.history.failures]
    return float(np.mean(kept)) if kept else float("nan")


def show_parts(title: str, parts: Mapping[str, type[Learner] | type[Adapter]]) -> None:
    """Learners or adapters in one line each."""
    print(f"\n{title}")
    table(["name", "paper", ""], [[name, cls.paper, settings.summary(cls)] for name, cls in sorted(parts.items())])


def show_settings(cls: type[Learner] | type[Adapter]) -> None:
    """The settings and presets of a learner or an adapter."""
    paper = f" ({cls.paper})" if cls.paper else ""
    print(f"\n{cls.__name__}{paper}: {settings.summary(cls)}")
    table(["setting", "default", "values", ""], [list(setting) for setting in settings.describe(cls)])
    if cls.presets:
        print("\npreset=NAME takes these published settings:")
        table(["preset", "differs from the defaults in"], [[name, _changes(cls, name)] for name in cls.presets])


def show_preset(name: str, parts: Mapping[str, type[Part]]) -> None:
    """The learners and adapters that have published settings of this name, and what those change."""
    rows = [
        [part, preset, _changes(cls, preset)]
        for part, cls in sorted(parts.items())
        for preset in cls.presets
        if preset.lower() == name.lower()
    ]
    print(f"\n{name} is a preset, published settings that NAME preset={rows[0][1]} takes:")
    table(["learner or adapter", "preset", "differs from the defaults in"], rows)


def _changes(cls: type[Any], preset: str) -> str:
    default = {entry.name: entry.default for entry in fields(cls)}
    return " ".join(f"{key}={value}" for key, value in cls.presets[preset].items() if value != default[key]) or "-"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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


__all__ = [
    "announce",
    "interrupted",
    "show_evaluation",
    "show_parts",
    "show_run",
    "show_settings",
    "show_summary",
    "table",
]
