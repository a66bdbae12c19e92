"""Every subset of a stack's adapters, to find out which of them does what."""

from __future__ import annotations

from itertools import combinations

from adaptive_constraints.agent import Agent
from adaptive_constraints.errors import StackError
from adaptive_constraints.support.arguments import checked


@checked(StackError)
def ablate(agent: Agent) -> dict[str, Agent]:
    """Untrained twins with every subset of the agent's adapters, by name, from the bare learner to the whole stack.

    They share noise and minibatches wherever they share a seed, so that their differences are paired:
    ``{name: twin.fit(data, steps=n, seeds=4) for name, twin in ablate(agent).items()}``.
    """
    names = [adapter.name for adapter in agent.adapters]
    subsets = (kept for size in range(len(names) + 1) for kept in combinations(names, size))
    twins = (agent.without(*(name for name in names if name not in kept)) for kept in subsets)
    return {twin.name: twin for twin in twins}
