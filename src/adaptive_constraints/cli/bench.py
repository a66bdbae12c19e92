"""``bench``: a suite of stacks on data sets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_constraints.cli.command import FAILED, INTERRUPTED, TERMINATED, Command, Common
from adaptive_constraints.data import load_dataset
from adaptive_constraints.errors import SuiteError
from adaptive_constraints.support.stopping import Terminated

if TYPE_CHECKING:
    from adaptive_constraints.experiments.cell import Cell
    from adaptive_constraints.experiments.runner import Outcome, Workers


@dataclass(kw_only=True)
class Bench(Command):
    """Train a suite's stacks on its data sets; the same command goes on with a run that was interrupted."""

    suite: str
    """Name of a suite that ships (smoke, quick, ...), or a file of your own, NAME.toml."""
    where: tuple[str, ...] = ()
    """Only some cells: KEY=PATTERN with KEY learner, adapter, data or stack, such as: adapter=ASPC data=*hopper*."""
    only: tuple[str, ...] = ()
    """Only the cells of these ids, or patterns of ids."""
    seeds: int | None = None
    """How many seeds (0, 1, ...) instead of the suite's."""
    seed_list: tuple[int, ...] = ()
    """Which seeds, instead of how many."""
    steps: int | None = None
    """Steps of every cell instead of the suite's."""
    eval_env: str | None = None
    """Gymnasium id to evaluate in instead of the suite's choice."""
    eval_max_steps: int | None = None
    """Steps after which evaluated episodes end instead of the suite's choice."""
    list: bool = False
    """Show the cells and run nothing."""
    out: Path | None = None
    """Results folder; by default runs/bench/<suite>."""
    workers: int = 1
    """Cells at work at one time, each in a process of its own. Does not count with --ray."""
    threads: int = 1
    """CPU threads of each cell."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    ray: tuple[str, ...] | None = None
    """Run the cells on the Ray cluster of this address (auto: this machine's), or without one on a local cluster."""
    gpus: float = 0.0
    """With --ray: GPUs that each cell takes; cells share one at less than 1."""
    download: bool = False
    """Fetch data sets of Minari and OGBench that are not here yet."""
    quiet: bool = False
    """Print the final table only."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Run what is not finished yet, then show what there is."""
        from adaptive_constraints.experiments.runner import bench
        from adaptive_constraints.experiments.suite import load_suite

        suite = load_suite(self.suite, self.common.imports)
        cells = self._narrowed(suite.cells)
        if self.list:
            _show_cells(cells)
            return 0
        if self.download:
            for reference in dict.fromkeys(cell.data for cell in cells):
                load_dataset(reference, download=True)
        out = self.out or Path("runs") / "bench" / suite.name
        if not self.quiet:
            print(f"{suite.name}: {suite.about}\n{len(cells)} cells; results folder {out}", flush=True)
        try:
            outcome = bench(suite, cells, out, self.make_workers(), command=self._command(), progress=not self.quiet)
        except (KeyboardInterrupt, Terminated) as end:
            print(f"interrupted: the same command goes on with what is in {out}", file=sys.stderr)
            return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
        _show_outcome(outcome)
        return FAILED if outcome.failed else 0

    def _narrowed(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        from adaptive_constraints.experiments.suite import narrow

        if self.seed_list and self.seeds is not None:
            raise SuiteError("give --seeds (how many) or --seed-list (which), not both")
        for name in ("seeds", "steps", "eval_max_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SuiteError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        seeds = self.seed_list or (None if self.seeds is None else range(self.seeds))
        return narrow(
            cells,
            where=self.where,
            only=self.only,
            seeds=seeds,
            steps=self.steps,
            eval_env=self.eval_env,
            eval_max_steps=self.eval_max_steps,
        )

    def make_workers(self) -> Workers:
        from adaptive_constraints.experiments.ray_runner import RayWorkers
        from adaptive_constraints.experiments.runner import LocalWorkers

        device = None if self.device == "auto" else self.device
        if self.ray is None:
            return LocalWorkers(self.workers, self.threads, device)
        if len(self.ray) > 1:
            raise SuiteError(f"--ray takes one address or none, not {' '.join(self.ray)}")
        return RayWorkers(*self.ray, threads=self.threads, gpus=self.gpus, device=device)

    def _command(self) -> str:
        """The command that makes these results, wherever they are computed."""
        words = ["adaptive-constraints", "bench", self.suite]
        for name in ("where", "only", "seeds", "seed_list", "steps", "eval_env", "eval_max_steps"):
            value = getattr(self, name)
            if value not in (None, ()):
                words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join([*words, *(["--imports", *self.common.imports] if self.common.imports else [])])


def _show_cells(cells: Sequence[Cell]) -> None:
    from adaptive_constraints.cli.show import table

    rows = [[cell.id, cell.stack, cell.data, str(len(cell.seeds)), f"{cell.steps:,}"] for cell in cells]
    table(["cell", "stack", "data", "seeds", "steps"], rows)
    print(f"{len(cells)} cells")


def _show_outcome(outcome: Outcome) -> None:
    from adaptive_constraints.cli.show import table
    from adaptive_constraints.experiments.board import score_table

    if outcome.rows:
        print("\nlast score, or return where no reference is known: mean +- standard deviation over seeds")
        table(*score_table(outcome.rows))
    for cell, reason in outcome.failed.items():
        print(f"failed: {cell}: {reason}", file=sys.stderr)
    print(f"in {outcome.folder}: rows.jsonl, suite.json, cells")


__all__ = ["Bench"]
