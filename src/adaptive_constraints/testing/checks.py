"""The three checks: which laws a learner, an adapter and a stack are held to."""

from __future__ import annotations

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.data import Dataset
from adaptive_constraints.testing import adapter_laws, learner_laws, stack_laws
from adaptive_constraints.testing.case import Case, made_data, said_plainly


def check_learner(learner: Learner, *, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this learner keeps every law of a learner.

    Its facts are true, its functions have the right shapes and are defined off the data too; every seam it says it asks
    is asked and matters, and a neutral answer changes nothing; its trade-off scales what it says, its constraint counts
    dimensions as it says, and it is differentiable in the trade-off; its steps online are finite and move what they
    step; and it keeps the laws of `check_stack`.
    """
    case = Case(learner, (), data or made_data())
    with said_plainly(case):
        learner_laws.facts_fit_the_parameters(case)
        learner_laws.functions_have_their_shapes(case)
        for seam in sorted(learner.facts().seams):
            learner_laws.seam_is_heard(case, seam)
            learner_laws.neutral_answer_changes_nothing(case, seam)
        learner_laws.tradeoff_scales_what_it_says(case)
        learner_laws.dimensions_are_summed_as_said(Case(learner, (), data or made_data(action_dim=3)))
        learner_laws.meta_gradient_agrees_with_automatic_differentiation(case)
        stack_laws.presets_can_be_made(learner)
        check_stack(learner, data=data)
        stack_laws.runs_online(case)
        stack_laws.a_lost_seed_is_alone(case)
        stack_laws.traced_is_eager(case)


def check_adapter(adapter: Adapter, learner: Learner, *, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this adapter keeps every law of an adapter on ``learner``.

    It answers seams that exist, in both phases; it draws noise under its own name; what it adds keeps seeds apart; two
    of it do not share state; its steps online are finite and move what they step; and it keeps the laws of
    `check_stack`. Raises `StackError` where it refuses the learner.
    """
    case = Case(learner, (adapter,), data or made_data())
    with said_plainly(case):
        adapter_laws.answers_seams_that_exist(case)
        adapter_laws.diagnoses_numbers(case)
        adapter_laws.draws_under_its_own_name(case)
        adapter_laws.two_of_a_kind_stay_apart(case)
        stack_laws.presets_can_be_made(adapter)
        check_stack(learner, adapter, data=data)
        stack_laws.runs_online(case)
        stack_laws.a_lost_seed_is_alone(case)
        stack_laws.traced_is_eager(case)


def check_stack(learner: Learner, *adapters: Adapter, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this stack trains from step 1, survives its serialized form, resumes and acts.

    Every loss and parameter is finite, every group that a stage steps moves and no other does, a run that is saved and
    loaded half-way equals one that was not, a loaded agent acts as the saved one, within the action bounds, and a seed
    learns beside another what it learns alone.
    """
    case = Case(learner, adapters, data or made_data())
    with said_plainly(case):
        stack_laws.survives_its_spec(case)
        stack_laws.resumes_and_acts(case, stack_laws.is_finite_and_moves_what_it_steps(case))
        stack_laws.together_is_alone(case)


__all__ = ["check_adapter", "check_learner", "check_stack"]
