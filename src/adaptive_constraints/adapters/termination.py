"""Rules by which imagined transitions end their episode: known by task, registered by users, or learned."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import torch
from torch import Tensor

from adaptive_constraints.core.types import Params
from adaptive_constraints.data import Dataset
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import mlp

Rule = Callable[[Tensor], Tensor]
"""Raw next observations [N, D] -> True (or 1) where the episode truly ends, [N]; tensor operations without a branch."""
NEVER = "none"
"""The rule by which no episode ends but at a time limit."""
_WAYS = ("auto", "known", "learned")


def hopper(x: Tensor) -> Tensor:
    """End where the hopper has fallen: height x_0, angle x_1."""
    healthy = (x[:, 0] > 0.7) & (x[:, 1].abs() < 0.2) & (x.abs() < 100).all(-1)
    return ~healthy


def walker2d(x: Tensor) -> Tensor:
    """End where the walker has fallen or jumps: height x_0, angle x_1."""
    healthy = (x[:, 0] > 0.8) & (x[:, 0] < 2.0) & (x[:, 1].abs() < 1.0)
    return ~healthy


def ant(x: Tensor) -> Tensor:
    """End where the ant has fallen or jumps: height x_0."""
    healthy = (x[:, 0] >= 0.2) & (x[:, 0] <= 1.0) & x.isfinite().all(-1)
    return ~healthy


def never(x: Tensor) -> Tensor:
    """End nowhere."""
    return torch.zeros_like(x[:, 0], dtype=torch.bool)


_OURS: dict[str, Rule] = {"hopper": hopper, "walker2d": walker2d, "ant": ant, NEVER: never}
_REGISTERED: dict[str, Rule] = {}

# Task or environment, observation dimensions (None: any), rule. D4RL's version 2 and Gymnasium's versions 4 and 5 lay
# observations out alike, the height first.
_TASKS: tuple[tuple[str, int | None, str], ...] = (
    (r"hopper(-v\d+)?", 11, "hopper"),
    (r"walker2d(-v\d+)?", 17, "walker2d"),
    (r"ant(-v\d+)?", None, "ant"),
    (r"halfcheetah(-v\d+)?", None, NEVER),
    (r"(maze2d|pointmaze).*", None, NEVER),
    (r"(pen|adroithandpen).*", None, NEVER),
)


def register_termination(name: str, rule: Rule) -> None:
    """Register a rule by which imagined episodes end, for ``ILQ(termination=name)``.

    name: a name of your own; under the name of a task or an environment, the rule is also found for its data.
    rule: maps raw next observations [N, D] to True (or 1) where the episode truly ends, [N].

    Register it again in a program that continues the training of a saved agent.
    """
    if name in _WAYS or name in _OURS:
        raise StackError(f"the name {name!r} is taken: choose another for this termination rule")
    _REGISTERED[name] = rule


def termination_rule(name: str) -> Rule:
    """The rule of this name; raises `StackError` listing those there are."""
    known = {**_OURS, **_REGISTERED}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, [*_WAYS, *known], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise StackError(f"no termination rule is named {name!r}: {hint}{_listed()}")


def find_termination(data: Dataset) -> str | None:
    """The name of the rule that belongs to the data's task or environment, if one is known."""
    places = [place for place in (data.env_id, data.task) if place]
    for place in places:
        if place in _REGISTERED:
            return place
    for place in places:
        for pattern, dimensions, name in _TASKS:
            if re.fullmatch(pattern, place.lower()) and dimensions in (None, data.observation_dim):
                return name
    return None


def choose_termination(way: str, data: Dataset) -> str:
    """The rule's name, or "learned", that a setting of `ILQ.termination` comes to on this data."""
    ends, known = bool(data.terminals.any()), find_termination(data)
    if way == "auto":
        certain = known is not None and known != NEVER
        return str(known) if certain else "learned" if ends else NEVER
    if way == "known" and known is None and ends:
        raise StackError(
            f"no termination rule is known for {data.name!r} (environment {data.env_id}, task {data.task}, "
            f"{data.observation_dim} observation dimensions), but {int(data.terminals.sum())} rows end episodes: "
            f"use termination='learned', or {_listed()}"
        )
    if way == "known":
        return known or NEVER
    if way == "learned":
        if not ends:
            raise StackError(f"termination='learned' needs terminal rows, but {data.name!r} has none: use 'none'")
        return way
    termination_rule(way)
    return way


def _listed() -> str:
    return (
        f"a rule by name ({', '.join([*_OURS, *_REGISTERED])}); "
        "add one with adaptive_constraints.register_termination(name, rule)"
    )


# -- learned ------------------------------------------------------------------------------------------------------


def termination_logit(p: Params, next_observation: Tensor) -> Tensor:
    """The log-odds [N] of an end at next observations [N, D] in learner space."""
    return mlp(p, (next_observation - p["input_mean"]) / p["input_std"]).squeeze(-1)
