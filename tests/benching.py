"""What the tests of bench runs share: a tiny suite, and rows without what differs between equal runs."""

from __future__ import annotations

from pathlib import Path

from adaptive_constraints.data import Dataset, save_npz
from adaptive_constraints.experiments.cell import run_cell
from adaptive_constraints.experiments.rows import ResultRow
from adaptive_constraints.experiments.suite import Suite, load_suite

from .helpers import random_data

HERE = Path(__file__).parent
"""To be on the import path, so that the environment is found by its module."""

_VARYING = ("steps_per_second", "seconds", "wall_seconds", "peak_memory", "commit")

TINY = """
about = "Two stacks that learn the same: a scale that is the learner's own changes nothing."
learners = "TD3BC hidden=8 batch_size=16"
adapters = ["none", "FixedTradeoff"]
data = "npz:{data}"
seeds = 2
steps = 60
evaluation = {{ every = 10, episodes = 1, env = "fatal_env:Point-v0" }}
"""


def tiny_suite(folder: Path, more: str = "") -> Suite:
    """A suite of cells that take a second each."""
    random, names = random_data(), ("observations", "actions", "rewards", "terminals", "timeouts")
    data = Dataset.from_arrays(**{name: getattr(random, name) for name in names})  # next observations that follow
    save_npz(data, folder / "random.npz")
    path = folder / "tiny.toml"
    path.write_text(TINY.format(data=folder / "random.npz") + more)
    return load_suite(path, ["fatal_env"])


def same(rows: list[ResultRow]) -> list[dict[str, object]]:
    """Rows less times and memory."""
    return [{name: value for name, value in row.items() if name not in _VARYING} for row in rows]


class InlineWorkers:
    """Runs a cell where it is started; the least that `bench` needs."""

    def __init__(self, *lost: str) -> None:
        self.lost, self.done, self.closed, self.started = lost, [], False, []

    @property
    def room(self):
        return not self.done

    @property
    def busy(self):
        return bool(self.done)

    def start(self, cell, folder):
        self.started.append(cell.id)
        self.done.append(cell)
        if cell.id not in self.lost:
            run_cell(folder, "cpu")

    def ended(self, seconds):
        done, self.done = self.done, []
        return [(cell, "its worker was lost" if cell.id in self.lost else "") for cell in done]

    def close(self):
        self.closed = True
