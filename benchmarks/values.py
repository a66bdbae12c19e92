"""Do critics say what policies return? Q of the policy's action beside its discounted return, from cells of `bench`.

    adaptive-constraints bench backbones --where "stack=CQL*alpha=0*"
    python -m benchmarks.values runs/bench/backbones --where "CQL(*alpha=0*"      # a minute
    python -m benchmarks.values --show benchmarks/results/values.jsonl

The policies of each cell are rolled out from the states in which evaluations begin. At those states, what the critics
say of the policy's action is set beside the return that the rollout had from there on, discounted, and in units of the
learner's reward. A pendulum never ends; 200 steps at a discount of 0.97 hold 99.8 % of a return.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from adaptive_constraints import Agent, load_agent
from adaptive_constraints.data.sources.scripted import undrawn
from adaptive_constraints.evaluation import Evaluator
from adaptive_constraints.experiments.rows import CELLS, ResultRow, read_rows
from benchmarks.ope import own_values, read, write

OUT = Path(__file__).parent / "results" / "values.jsonl"
EPISODES = 64
KEPT = ("stack", "learner", "adapters", "data", "seed", "step", "last", "commit", "versions", "device", "command")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="results folder of bench")
    parser.add_argument("--where", default="*", help="stacks, as the rows name them; with * for any text")
    parser.add_argument("--out", type=Path, default=OUT, help="file that keeps the rows")
    parser.add_argument("--show", type=Path, help="print the figures of kept rows, and run nothing")
    options = parser.parse_args(arguments)
    if options.show is None:
        if options.folder is None:
            parser.error("give a results folder, or --show FILE")
        words = ["python", "-m", "benchmarks.values", *(sys.argv[1:] if arguments is None else arguments)]
        chosen = [row for row in read_rows(options.folder) if fnmatch(row["stack"], options.where)]
        if not chosen:
            parser.error(f"no row of {options.folder} is of a stack like {options.where}")
        write(options.out, {"command": " ".join(words), "episodes": EPISODES}, of_cells(options.folder, chosen))
    show(read(options.show or options.out)[1])


# -- measuring ----------------------------------------------------------------------------------------------------


def of_cells(folder: Path, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """A row for each seed: the mean value that its critics state, and the mean discounted return."""
    found = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        agent = load_agent(folder / CELLS / cell, "cpu")
        stated, had = stated_and_had(agent)
        for row in (row for row in rows if row["cell"] == cell):
            i = agent.seeds.index(row["seed"])
            kept = {name: row[name] for name in KEPT}  # type: ignore[literal-required]
            error = np.sqrt(np.mean((stated[i] - had[i]) ** 2))
            found.append(kept | {"value": stated[i].mean(), "return": had[i].mean(), "error": error})
        print(f"{cell}: stated {stated.mean():.4g}, had {had.mean():.4g}", flush=True)
    return found


def stated_and_had(agent: Agent) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values by the critics, and discounted returns, [S, E] both: of each seed at the same E states."""
    source, learner = agent.run.data.env_id, agent.stack.learner
    scale, shift = (float(getattr(agent.run.preprocessor, f"reward_{name}")) for name in ("scale", "shift"))

    def discounted() -> gymnasium.Env[Any, Any]:
        return Discounted(gymnasium.make(str(source)), learner.discount, scale, shift)

    starts: list[NDArray[Any]] = []

    def policy(observations: NDArray[Any], step: int) -> NDArray[Any]:
        if not step:
            starts.append(observations[0])
        return agent.run.act(observations, step)

    evaluator = Evaluator(discounted, EPISODES)
    try:
        returns = evaluator.run(policy, len(agent.seeds)).returns
    finally:
        evaluator.close()
    return own_values(agent, starts[0]), returns


class Discounted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards as the learner sees them, each discounted from the episode's start, so that their sum is the return."""

    def __init__(self, env: gymnasium.Env[Any, Any], discount: float, scale: float, shift: float) -> None:
        super().__init__(env)
        self._discount, self._scale, self._shift, self._weight = discount, scale, shift, 1.0

    def reset(self, **options: Any) -> Any:
        self._weight = 1.0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        counted = self._weight * (self._scale * float(reward) + self._shift)
        self._weight *= self._discount
        return observation, counted, *rest


# -- figures ------------------------------------------------------------------------------------------------------


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print `table`."""
    print("\n".join(table(rows)))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """By data set and stack, over draws and seeds: value stated, return had, and the error, as a table in Markdown."""
    lines = [
        "| data | stack | runs | score | Q says | return, discounted | error (root of mean square) |",
        "| --- " * 7 + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((undrawn(row["data"]["reference"]), row["stack"]), []).append(row)
    for (data, stack), of in sorted(groups.items()):
        said, had, error, score = (np.array([r[name] for r in of]) for name in ("value", "return", "error", "last"))
        cells = [data, f"`{stack}`", str(len(of)), f"{score.mean():.1f}", f"{said.mean():.2f}", f"{had.mean():.2f}"]
        lines.append(f"| {' | '.join(cells)} | {error.mean():.2f} (median {np.median(error):.2f}) |")
    return lines


if __name__ == "__main__":
    main()
