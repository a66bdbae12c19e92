"""The ranking that ``ope`` shows: saved agents by values that are estimated from data, and by rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adaptive_constraints.agent import Agent
from adaptive_constraints.choosing import FQE, OfflineEvaluation, Selection, evaluate_offline, policies_of, select
from adaptive_constraints.cli.show import table
from adaptive_constraints.data import Dataset, load_dataset
from adaptive_constraints.errors import CheckpointError, EvaluationError, TrainingError
from adaptive_constraints.runs.folder import CHECKPOINT
from adaptive_constraints.runs.requests import trained_on

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of rollouts of which the table of choices has a line."""


class Candidate(NamedTuple):
    """One policy of one agent, and its estimate."""

    name: str
    seed: int
    lost: str
    value: float
    low: float
    high: float
    td_error: float
    loss: float
    returns: NDArray[np.float64] | None
    """[E] of rollouts; None where there were none."""


@dataclass(frozen=True)
class Ranking:
    """How agents are ranked."""

    fqe: FQE
    discount: float | None
    """Discount per step; None: that of the learners."""
    rollouts: int | None
    """Episodes that every policy is also rolled out for; None: none are."""
    eval_max_steps: int | None
    """Steps after which their episodes end; None: as `Agent.evaluate` has it."""
    auto: bool
    """The agents are evaluated on what they were trained on."""
    progress: bool

    def show(self, reference: str, agents: Sequence[tuple[str, Agent]]) -> dict[str, Any]:
        """Evaluate the agents of one data set, show them and describe them."""
        data = load_dataset(reference)
        if self.auto:
            _check_unchanged(data, agents)
        device = agents[0][1].run.device
        estimates = evaluate_offline(
            [policies_of(agent.run, name) for name, agent in agents],
            data,
            discount=self.discount,
            fqe=self.fqe,
            device=device,
            progress=self.progress,
        )
        returns = [self._returns(agent) for _, agent in agents]
        candidates = [one for pair in zip(estimates, returns, strict=True) for one in _candidates(*pair)]
        ranked = sorted(candidates, key=lambda one: (np.isnan(one.value), -one.value))
        first = estimates[0]
        print(
            f"\n{data.name}: return discounted by {first.discount:g} from {data.episodes} initial states, in units of "
            f"reward, estimated by fitted Q evaluation ({self.fqe.steps:,} steps, {first.held_out} episodes held out)"
        )
        _show_ranked(ranked)
        for note in dict.fromkeys(note for estimate in estimates for note in estimate.notes):
            print(f"note: {note}")
        selection = _selected(ranked)
        if selection is not None:
            _show_selection(selection, ranked)
        return {
            "data": reference,
            "fingerprint": data.fingerprint,
            "discount": first.discount,
            "fqe": asdict(self.fqe),
            "held_out_episodes": first.held_out,
            "notes": {estimate.name: estimate.notes for estimate in estimates},
            "candidates": [one._asdict() for one in ranked],
            "selection": selection and {n: v for n, v in asdict(selection).items() if n != "chosen"},
        }

    def _returns(self, agent: Agent) -> NDArray[np.float64] | None:
        if self.rollouts is None:
            return None
        return agent.evaluate(episodes=self.rollouts, seed=self.fqe.seed, eval_max_steps=self.eval_max_steps).returns


def _check_unchanged(data: Dataset, agents: Sequence[tuple[str, Agent]]) -> None:
    """Raise `EvaluationError` where data of this name is not what an agent was trained on."""
    for name, agent in agents:
        try:
            trained_on(agent.run, data)
        except TrainingError as error:
            raise EvaluationError(f"{name}: {error}; name the data to evaluate on by --data") from error


def found(paths: Sequence[Path]) -> Iterator[Path]:
    """Saved agents and run folders, those of the cells of results folders among them."""
    from adaptive_constraints.experiments.rows import CELLS, SUITE, read_suite

    for path in paths:
        if not (path / SUITE).is_file():
            yield path
            continue
        cells = [path / CELLS / cell["cell"] for cell in read_suite(path)["cells"]]
        begun = [cell for cell in cells if (cell / CHECKPOINT).is_file()]
        if not begun:
            raise CheckpointError(f"{path} keeps no trained agent: name where `bench` trained, with its folder {CELLS}")
        yield from begun


def _candidates(estimate: OfflineEvaluation, returns: NDArray[np.float64] | None) -> Iterator[Candidate]:
    for i, seed in enumerate(estimate.seeds):
        names = ("value", "low", "high", "td_error", "loss")
        value, low, high, td_error, loss = (float(getattr(estimate, name)[i]) for name in names)
        own = None if returns is None else returns[i]
        yield Candidate(estimate.name, seed, estimate.lost.get(seed, ""), value, low, high, td_error, loss, own)


def _show_ranked(ranked: Sequence[Candidate]) -> None:
    rolled = ranked[0].returns is not None
    rows = []
    for place, one in enumerate(ranked, start=1):
        words = ["-" if np.isnan(number) else f"{number:.4g}" for number in one[3:8]]
        value, low, high, td_error, loss = words
        interval = "-" if "-" in (low, high) else f"{low} .. {high}"
        returns = [] if one.returns is None else [f"{one.returns.mean():.4g}"]
        rows.append([str(place), one.name, str(one.seed), value, interval, td_error, loss, *returns, one.lost])
    heads = ["", "agent", "seed", "value", "95 % interval", "TD error held out", "fitted"]
    table([*heads, *(["return of rollouts"] if rolled else []), ""], rows)


def _selected(ranked: Sequence[Candidate]) -> Selection | None:
    """What a bandit chooses among the policies that were rolled out without failing."""
    pool = [one.returns for one in ranked if one.returns is not None and np.isfinite(one.returns).all()]
    return select(pool, max(COUNTS[3], 5 * len(pool))) if len(pool) > 1 else None


def _show_selection(selection: Selection, ranked: Sequence[Candidate]) -> None:
    last = len(selection.expected)
    rows = [
        [str(n), f"{selection.expected[n - 1]:.4g}", f"{selection.low[n - 1]:.4g} .. {selection.high[n - 1]:.4g}"]
        for n in (*(count for count in COUNTS if count < last), last)
    ]
    print("\nmean return of the policy that a bandit chooses by so many rollouts in all")
    table(["rollouts", "return", "95 % interval"], rows)
    first = next(one.returns for one in ranked if one.returns is not None and np.isfinite(one.returns).all())
    print(
        f"of the one with the highest value: {first.mean():.4g}; of the best: {selection.best:.4g}; of one chosen "
        f"blindly: {selection.typical:.4g}"
    )


__all__ = ["Ranking", "found"]
