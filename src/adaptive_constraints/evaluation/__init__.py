"""Rolling policies out in Gymnasium environments, and turning returns into scores."""

from adaptive_constraints.evaluation.expected import Expected
from adaptive_constraints.evaluation.rollout import Evaluator, Rollout, rollout
from adaptive_constraints.evaluation.score import Evaluation, Summary, summary

__all__ = ["Evaluation", "Evaluator", "Expected", "Rollout", "Summary", "rollout", "summary"]
