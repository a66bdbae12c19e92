"""Evaluating a run: the environment that fits it, and the score that means something there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.references import SUCCESS, ReferenceScore, reference_score, task_of_env
from adaptive_constraints.environments.making import EnvSource, RecordedEnv, named
from adaptive_constraints.environments.specs import alterations, plain_env_spec
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation import Evaluation, Evaluator
from adaptive_constraints.evaluation.expected import OPTION
from adaptive_constraints.evaluation.film import Take, check_filmable, film
from adaptive_constraints.runs.identity import DataFacts
from adaptive_constraints.runs.run import Run
from adaptive_constraints.support.stopping import Stopped

LONGEST_EVALUATION = 1 << 20
"""Environment steps that one evaluation may take before its noise is that of the next training step's policy."""


def evaluator_of(run: Run, source: EnvSource, episodes: int, seed: int = 0, max_steps: int | None = None) -> Evaluator:
    """An evaluator in an environment that fits a run; doubts about it, and a score that would mean nothing, are said.

    Raises `EvaluationError` where the environment has other sizes or bounds of actions than the run's data.
    """
    evaluator = Evaluator(source, episodes, seed, max_steps, run.expected)
    if (doubt := _score_doubt(run.data, evaluator)) is not None:
        evaluator.doubt(doubt.text)
    evaluator.warn()
    return evaluator


def evaluate(
    run: Run,
    evaluator: Evaluator,
    stopping: Callable[[], bool] = lambda: False,
    taken: list[NDArray[np.float32]] | None = None,
) -> Evaluation:
    """Roll all seeds' policies out, on noise of their own.

    stopping: asked before each step; once it says so, the evaluation is left by `Stopped`.
    taken: what policies answer is appended to it, [S, E, A] at each step.
    """
    first = run.engine.step * LONGEST_EVALUATION

    def policy(observations: NDArray[Any], step: int) -> NDArray[np.float32]:
        if stopping():
            raise Stopped
        actions = run.act(observations, first + step)
        if taken is not None:
            taken.append(actions)
        return actions

    rollout = evaluator.run(policy, len(run.engine.seeds))
    doubt = _score_doubt(run.data, evaluator)
    reference = None if doubt is not None and doubt.certain else run.data.reference
    if run.data.reference is None and rollout.success is not None:
        reference = SUCCESS
    return Evaluation(run.engine.step, rollout.returns, reference, rollout.success)


def record(run: Run, evaluator: Evaluator, path: Path, position: int, filmed: int) -> Evaluation:
    """Evaluate, and film the first episodes of the policy at a position."""
    if not 1 <= filmed <= evaluator.episodes:
        raise EvaluationError(
            f"of {evaluator.episodes} episodes, 1 to {evaluator.episodes} can be filmed, not {filmed}"
        )
    check_filmable(path, evaluator.source)
    taken: list[NDArray[np.float32]] = []
    evaluation = evaluate(run, evaluator, taken=taken)
    actions = np.stack(taken[: evaluator.limit.end])[:, position]
    seeds, returns = evaluator.reset_seeds, evaluation.returns[position]
    film(path, evaluator.source, [Take(seeds[i], actions[:, i], returns[i]) for i in range(filmed)])
    return evaluation


def described(evaluator: Evaluator) -> dict[str, Any]:
    """Describe an environment for ``config.json``: its specification, and what bounds its episodes."""
    limit, spec = evaluator.limit, evaluator.spec
    name = {"env": evaluator.name} if named(evaluator.source) else {}
    return {
        **name,
        "env_spec": None if spec is None else plain_env_spec(spec),
        "max_steps": limit.steps,
        "bounded_by": limit.by,
        "notes": evaluator.notes,
    }


class _Doubt(NamedTuple):
    text: str
    certain: bool
    """There is no score; otherwise there is one, which may mean nothing."""


def _score_doubt(data: DataFacts, evaluator: Evaluator) -> _Doubt | None:
    """Why the data's reference returns do not hold, or may not hold, in an environment; None where they do.

    Reference returns are of one task. Those of the table hold in the ids that the table knows, as they are registered;
    those that the data carries hold in the environment that the data names. Of ids that the table does not know, it is
    doubtful where they are made otherwise than registered. What is not registered at all is taken for the right one.
    """
    reference, spec, limit = data.reference, evaluator.spec, evaluator.limit
    if reference is None or spec is None:
        return None
    shortened = limit.by == OPTION and (spec.max_episode_steps is None or (limit.steps or 0) < spec.max_episode_steps)
    other, certain = _other_task(data, reference, evaluator)
    if shortened:
        other, certain = other | {"max_steps": limit.steps}, True
    if not other:
        return None
    what = ", ".join(f"{name} is {value}" for name, value in other.items())
    score = "there is no normalised score" if certain else "the normalised score may mean nothing"
    return _Doubt(f"{score}: its reference returns are of {reference.task!r}, and in {evaluator.name} {what}", certain)


def _other_task(data: DataFacts, reference: ReferenceScore, evaluator: Evaluator) -> tuple[dict[str, Any], bool]:
    """Differences between an environment and that of the reference returns, and whether they are certain."""
    env_id, changed = evaluator.spec.id, alterations(evaluator.spec)
    if reference_score(reference.task) != reference:  # carried by the data
        if isinstance(evaluator.source, RecordedEnv):
            return {}, True
        if data.env_spec is not None:
            recorded, wanted = data.env_spec["id"], alterations(data.env_spec)
            other = {"id": env_id} if env_id != recorded else {}
            names = [name for name in {**wanted, **changed} if wanted.get(name) != changed.get(name)]
            return other | {name: changed.get(name, "as registered") for name in names}, True
    task = task_of_env(env_id)
    if task not in (None, reference.task):
        return {"id": env_id}, True
    return changed, task is not None
