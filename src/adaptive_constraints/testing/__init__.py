"""The laws that learners and adapters keep, for your own: each check raises `AssertionError` saying which one broke.

Where training says it already (an answer of the wrong shape), the library's own error is let through.

    from adaptive_constraints.testing import check_adapter, check_learner

    def test_my_learner():
        check_learner(MyLearner(hidden=16))

    def test_my_adapter():
        check_adapter(MyAdapter(), TD3BC(hidden=16))

Nothing here needs a test framework. Checks run some dozens of steps on a small made data set, so give small networks,
short intervals (an adapter that acts every 10 steps is not seen in 4) and short trainings before step 1.
"""

from __future__ import annotations

from adaptive_constraints.testing.case import made_data
from adaptive_constraints.testing.checks import check_adapter, check_learner, check_stack
from adaptive_constraints.testing.probe import Probe

__all__ = ["Probe", "check_adapter", "check_learner", "check_stack", "made_data"]
