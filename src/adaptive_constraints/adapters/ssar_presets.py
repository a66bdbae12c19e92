"""Published settings of SSAR by data set (D4RL, version 2): on TD3+BC by its name, on CQL as "cql-" and its name.

Returns of the best episodes, for comparison: halfcheetah-medium 5309, -medium-replay 4985, -expert 11252; hopper-medium
3222, -expert 3759; walker2d-medium 4227, -expert 5012.
"""

from __future__ import annotations

from typing import Any

Table = dict[str, dict[str, Any]]


def _by_return(threshold: float, n_end: float = 3.0) -> dict[str, Any]:
    return {"select": "return", "return_threshold": threshold, "n_end": n_end, "loosen_bound": True}


def _by_advantage(expectile: float, n_end: float = 3.0, loosen_bound: bool = True) -> dict[str, Any]:
    return {"select": "advantage", "selection_expectile": expectile, "n_end": n_end, "loosen_bound": loosen_bound}


def _antmaze(n_start: float, n_end: float, annealing: str = "none") -> dict[str, Any]:
    schedule = {"n_start": n_start, "n_end": n_end, "annealing": annealing, "published_steps": 2_000_000}
    return {"select": "success", "loosen_bound": False, **schedule}


_ANTMAZE: Table = {
    "antmaze-umaze": _antmaze(1.0, 5.0, "linear"),
    "antmaze-umaze-diverse": _antmaze(1.0, 3.0, "linear"),
    "antmaze-medium-play": _antmaze(5.0, 5.0),
    "antmaze-medium-diverse": _antmaze(5.0, 5.0),
    "antmaze-large-play": _antmaze(5.0, 5.0),
    "antmaze-large-diverse": _antmaze(5.0, 5.0),
}
# Whole families, for data sets that the tables do not have, are inferred: the rule for mixed data, and a medium maze.
ON_TD3BC: Table = _ANTMAZE | {
    "gym": _by_advantage(0.7),
    "antmaze": _antmaze(5.0, 5.0),
    "halfcheetah-medium": _by_return(5200),
    "halfcheetah-medium-replay": _by_advantage(0.7),
    "halfcheetah-medium-expert": _by_advantage(0.7, 1.5, loosen_bound=False),
    "halfcheetah-expert": _by_return(10500, 1.5),
    "hopper-medium": _by_return(1800),
    "hopper-medium-replay": _by_advantage(0.7),
    "hopper-medium-expert": _by_advantage(0.5, 1.5),
    "hopper-expert": _by_return(3500, 1.5),
    "walker2d-medium": _by_return(2500),
    "walker2d-medium-replay": _by_advantage(0.7),
    "walker2d-medium-expert": _by_advantage(0.7, 1.5),
    "walker2d-expert": _by_return(4500, 1.5),
}
ON_CQL: Table = ON_TD3BC | {
    # The published configurations of these two trust episodes of a return above 6000, but their best ones return 5309
    # and 4985: nothing is trusted or constrained, and what ran there was soft actor-critic without any conservatism.
    # Not reproduced; instead, the rules that the paper has for TD3+BC on the same data.
    "halfcheetah-medium": _by_return(5200),
    "halfcheetah-medium-replay": _by_advantage(0.7),
    "halfcheetah-medium-expert": _by_return(11000),
    "halfcheetah-expert": _by_return(11000),
    "hopper-medium": _by_return(2500),
    "walker2d-medium": _by_return(3600),
    "walker2d-medium-expert": _by_advantage(0.7),
    "walker2d-expert": _by_return(4800),
}

PRESETS: Table = {
    **ON_TD3BC,
    **{f"cql-{name}": {**settings, "annealing": "cosine"} for name, settings in ON_CQL.items()},
}
