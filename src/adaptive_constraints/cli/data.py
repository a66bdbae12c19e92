"""``doctor`` and ``collect``: data sets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_constraints.cli.command import FOUND_ERRORS, Command, Common
from adaptive_constraints.data import doctor, load_dataset


@dataclass(kw_only=True)
class Doctor(Command):
    """Look for everything that commonly goes wrong with offline data; the exit code is 1 if it must be mended.

    What it finds can be mended with ``repair``.
    """

    data: str
    """Data reference: bundled:NAME, scripted:pointmaze/NAME, minari:NAMESPACE/NAME-v0,
    ogbench:NAME-singletask-v0, d4rl:FILE.hdf5, npz:FILE.npz or table:FILE#obs=..., and what is derived from
    them, such as 'bundled:hopper | fraction(0.1)'. What is wrong with it can be mended with repair."""
    download: bool = False
    """Fetch a data set of Minari or OGBench that is not here yet."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Diagnose."""
        data = load_dataset(self.data, download=self.download)
        diagnosis = doctor(data)
        print(repr(data))
        print(diagnosis)
        if diagnosis.errors:
            print(f"mend them: adaptive-constraints repair {self.data} OUT.npz (its --help lists the repairs)")
        return FOUND_ERRORS if diagnosis.errors else 0


@dataclass(kw_only=True)
class Collect(Command):
    """Record a data set: SAC while it learns (Ctrl-C ends it early), a random policy, or a scripted one in a maze."""

    source: str
    """sac:ENV_ID, random:ENV_ID, pointmaze/umaze, pointmaze/medium or pointmaze/large."""
    out: Path | None = None
    """File to write (.npz), by default such as sac-Hopper-v5.npz; a manifest (.json) is written beside it."""
    steps: int | None = None
    """Environment steps to record; by default 200,000, in a maze 100,000."""
    keep: int | None = None
    """Rows to keep at most: whole episodes, evenly spaced; by default 50,000, in a maze all that are recorded."""
    seed: int = 0
    """Seed of environment and agent."""
    licence: str = "MIT"
    """Licence of the data, named in the manifest."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Record and write."""
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        from adaptive_constraints.cli.stacks import file_name
        from adaptive_constraints.data.collecting.collect import collect, default_size

        steps, keep = default_size(self.source, self.steps)
        out = self.out or Path(f"{file_name(self.source)}.npz")
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(self.source, total=steps)
            data = collect(
                self.source,
                out,
                steps,
                keep if self.keep is None else self.keep,
                self.seed,
                licence=self.licence,
                progress=lambda done, steps: bar.update(task, completed=done, total=steps),
            )
        print(repr(data))
        print(f"written to {out} and described in {out.with_suffix('.json')}")
        print(f"look at it: adaptive-constraints doctor npz:{out}")
        return 0


__all__ = ["Collect", "Doctor"]
