"""``ope``: rank saved agents by values that are estimated from data, without an environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_constraints.cli.command import Command, Common
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.runs.settings import AUTO
from adaptive_constraints.support.files import check_file
from adaptive_constraints.support.records import write_json

if TYPE_CHECKING:
    from adaptive_constraints.agent import Agent


@dataclass(kw_only=True)
class Ope(Command):
    """Rank saved agents, seed by seed, by their estimated return on data: fitted Q evaluation, no environment.

    Agents of different data sets are ranked apart. What was fitted is kept in the cache: the same command goes on with
    what was interrupted, and with one more agent fits only that one.
    """

    paths: tuple[Path, ...]
    """Saved agents, run folders (their newest checkpoints), or results folders of bench (all their cells)."""
    data: str = AUTO
    """Reference of the data to evaluate on; auto is what each agent was trained on."""
    discount: float | None = None
    """Discount per step; by default that of the learners, which must agree."""
    steps: int | None = None
    """Minibatches that each critic is fitted on; this and the next four as `choosing.FQE` has them, if not given."""
    critics: int | None = None
    """Critics of each policy."""
    hidden: int | None = None
    """Width of the critics' two hidden layers."""
    held_out: float | None = None
    """Share of the episodes that is not fitted but tells the TD error."""
    seed: int | None = None
    """Seed of networks, minibatches, the split and the bootstrap."""
    rollouts: int | None = None
    """Also roll every policy out for so many episodes where its data was recorded, and say how good a choice a few
    rollouts make, drawn from those."""
    eval_max_steps: int | None = None
    """Steps after which the episodes of rollouts end; by default as for ``evaluate``."""
    device: str = "cpu"
    """Device that computes."""
    quiet: bool = False
    """Print the tables only."""
    json: Path | None = None
    """Write everything to this file too."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Estimate, rank and show."""
        from adaptive_constraints.agent import load_agent
        from adaptive_constraints.choosing import FQE
        from adaptive_constraints.cli.ranking import Ranking, found

        given = {name: getattr(self, name) for name in ("steps", "critics", "hidden", "held_out", "seed")}
        fqe = FQE(**{name: value for name, value in given.items() if value is not None})
        if not self.paths:
            raise EvaluationError("there is nothing to rank: name saved agents, run folders, or what bench wrote")
        if self.rollouts is not None and self.rollouts < 1:
            raise EvaluationError(f"--rollouts must be at least 1, not {self.rollouts}")
        if self.eval_max_steps is not None and (self.eval_max_steps < 1 or self.rollouts is None):
            raise EvaluationError("--eval-max-steps must be at least 1, and goes with --rollouts")
        if self.json is not None:
            check_file(self.json)
        by_data: dict[str, list[tuple[str, Agent]]] = {}
        for path in found(self.paths):
            agent = load_agent(path, self.device)
            by_data.setdefault(agent.data_name if self.data == AUTO else self.data, []).append((str(path), agent))
        ranking = Ranking(
            fqe,
            self.discount,
            self.rollouts,
            self.eval_max_steps,
            auto=self.data == AUTO,
            progress=not self.quiet,
        )
        records = [ranking.show(reference, group) for reference, group in by_data.items()]
        if self.json is not None:
            write_json(self.json, records)
            print(f"everything is in {self.json}")
        return 0


__all__ = ["Ope"]
