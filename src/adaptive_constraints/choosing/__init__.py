"""Choosing among trained policies: values estimated from data alone, and what a few rollouts add to them."""

from adaptive_constraints.choosing.fqe import FQE
from adaptive_constraints.choosing.offline import OfflineEvaluation, evaluate_offline
from adaptive_constraints.choosing.policies import Policies, policies_of
from adaptive_constraints.choosing.selection import Selection, select

__all__ = ["FQE", "OfflineEvaluation", "Policies", "Selection", "evaluate_offline", "policies_of", "select"]
