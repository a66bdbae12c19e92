"""Rolling policies out in Gymnasium environments, and turning returns into scores."""

from adaptive_constraints.evaluation.rollout import Evaluator, Rollout, rollout
from adaptive_constraints.evaluation.score import Evaluation, Summary, summary

__all__ = ["Evaluation", "Evaluator", "Rollout", "Summary", "rollout", "summary"]
