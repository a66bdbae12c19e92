"""Evaluating a run: the environment that fits it, and the score that means something there."""

from __future__ import annotations

from typing import Any

from adaptive_constraints.data.environments import EnvSource, RecordedEnv, alterations, plain_env_spec
from adaptive_constraints.data.references import ReferenceScore, reference_score, task_of_env
from adaptive_constraints.evaluation import Evaluation, Evaluator
from adaptive_constraints.evaluation.expected import OPTION
from adaptive_constraints.training.trained import DataFacts, Trained

ACTING_STEPS_PER_TICK = 1 << 20
"""Room for the steps of one evaluation between the noise of one tick's policy and of the next."""


def evaluator_of(
    trained: Trained, source: EnvSource, episodes: int, seed: int = 0, max_steps: int | None = None
) -> Evaluator:
    """An evaluator in an environment that fits a run; doubts about it, and a score that would mean nothing, are said.

    Raises `EvaluationError` where the environment has other sizes or bounds of actions than the run's data.
    """
    evaluator = Evaluator(source, episodes, seed, max_steps, trained.expected)
    if (why := _no_score(trained.data, evaluator)) is not None:
        evaluator.doubt(why)
    evaluator.warn()
    return evaluator


def evaluate(trained: Trained, evaluator: Evaluator) -> Evaluation:
    """Roll all seeds' policies out, on noise of their own."""
    first = trained.engine.tick * ACTING_STEPS_PER_TICK
    rollout = evaluator.run(
        lambda observations, step: trained.act(observations, first + step), len(trained.engine.seeds)
    )
    reference = None if _no_score(trained.data, evaluator) else trained.data.reference
    return Evaluation(trained.engine.tick, rollout.returns, reference)


def described(evaluator: Evaluator) -> dict[str, Any]:
    """What ``config.json`` says of an environment: its specification, and what bounds its episodes."""
    limit, spec = evaluator.limit, evaluator.spec
    named = {"env": evaluator.name} if isinstance(evaluator.source, str | RecordedEnv) else {}
    return {
        **named,
        "env_spec": None if spec is None else plain_env_spec(spec),
        "max_steps": limit.steps,
        "bounded_by": limit.by,
        "notes": evaluator.notes,
    }


def _no_score(data: DataFacts, evaluator: Evaluator) -> str | None:
    """In words, why the data's reference returns do not hold in an environment; None where they do.

    Reference returns are of one task. Those of the table hold where an environment is as it is registered; those that
    the data carries, in the environment that the data names. What is not registered at all is taken for the right one.
    """
    reference, spec = data.reference, evaluator.spec
    if reference is None or spec is None:
        return None
    other = _other_task(data, reference, spec)
    limit = evaluator.limit
    if limit.by == OPTION and (spec.max_episode_steps is None or (limit.steps or 0) < spec.max_episode_steps):
        other = other or f"episodes end after {limit.steps} steps"
    if not other:
        return None
    return f"there is no normalised score: the reference returns are of {reference.task!r}, and here {other}"


def _other_task(data: DataFacts, reference: ReferenceScore, spec: Any) -> str:
    carried = reference_score(reference.task) != reference
    if carried and data.env_spec is not None:
        mine, wanted = plain_env_spec(spec), plain_env_spec(data.env_spec)
        differing = [name for name in ("id", "kwargs", "max_episode_steps") if mine[name] != wanted[name]]
        return ", ".join(f"{name} is {mine[name]} instead of {wanted[name]}" for name in differing)
    if task_of_env(spec.id) not in (None, reference.task):
        return f"the environment is {spec.id}"
    return ", ".join(f"{name} is {value}" for name, value in alterations(spec).items())
