"""``evaluate``: roll a saved agent out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_constraints.cli.command import Command, Common
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.runs.settings import AUTO
from adaptive_constraints.support.files import check_file
from adaptive_constraints.support.records import write_json

if TYPE_CHECKING:
    from adaptive_constraints.agent import Agent
    from adaptive_constraints.evaluation import Evaluation


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
    eval_max_steps: int | None = None
    """Steps after which episodes end; by default where the environment ends them or, if it has no time limit, after as
    many as the data's longest episode has."""
    device: str = "cpu"
    """Device that the policy runs on."""
    video: Path | None = None
    """Film the first episode of the first seed that is not lost, to this file (NAME.mp4, extra video)."""
    filmed: int | None = None
    """With --video: how many of its episodes to film, by default 1."""
    json: Path | None = None
    """Write every episode's return to this file too."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Evaluate and show."""
        from adaptive_constraints.agent import load_agent
        from adaptive_constraints.cli.show import show_evaluation

        if self.episodes < 1:
            raise EvaluationError(f"--episodes must be at least 1, not {self.episodes}")
        if self.eval_max_steps is not None and self.eval_max_steps < 1:
            raise EvaluationError(f"--eval-max-steps must be at least 1, not {self.eval_max_steps}")
        if self.video is None and self.filmed is not None:
            raise EvaluationError("--filmed says how many episodes to film: give --video, the file to film them to")
        if self.json is not None:
            check_file(self.json)
        agent = load_agent(self.path, self.device)
        options: dict[str, Any] = {"episodes": self.episodes, "seed": self.seed, "eval_max_steps": self.eval_max_steps}
        filmed = 1 if self.filmed is None else self.filmed
        if self.video is None:
            evaluation = agent.evaluate(self.env, **options)
        else:
            evaluation = agent.record(self.video, self.env, filmed=filmed, **options)
        print(
            f"{agent.name} at step {agent.step}: {self.episodes} episodes per seed, starting states of seed {self.seed}"
        )
        show_evaluation(agent, evaluation)
        if self.video is not None:
            print(f"{'an episode is' if filmed == 1 else f'{filmed} episodes are'} in {self.video}")
        if self.json is not None:
            write_json(self.json, self._record(agent, evaluation))
            print(f"every return is in {self.json}")
        return 0

    def _record(self, agent: Agent, evaluation: Evaluation) -> dict[str, Any]:
        return {
            "agent": self.path,
            "stack": agent.name,
            "step": agent.step,
            "env": agent.env_id if self.env == AUTO else self.env,
            "env_spec": agent.env_spec if self.env == AUTO else None,
            "eval_max_steps": self.eval_max_steps,
            "seed": self.seed,
            "seeds": agent.seeds,
            "returns": evaluation.returns,
            "mean_return": evaluation.mean_return,
            "score": evaluation.score,
            "success": evaluation.success,
            "success_rate": evaluation.success_rate,
            "reference": evaluation.reference and asdict(evaluation.reference),
        }


__all__ = ["Evaluate"]
