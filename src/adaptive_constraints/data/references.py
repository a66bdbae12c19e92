"""Reference returns that put scores on D4RL's scale: 0 is a random policy, 100 an expert."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.environments import pendulum
from adaptive_constraints.environments.antmaze_tasks import ANTMAZES, antmaze_id, antmaze_of_file
from adaptive_constraints.environments.maze_tasks import MAZES, maze_id, maze_task
from adaptive_constraints.environments.specs import alterations, plain_env_spec
from adaptive_constraints.errors import DatasetError

#: Rises whenever a number below changes, so that a stored score says what it was computed from.
TABLE_VERSION = "1"

_D4RL = "D4RL infos.py, REF_MIN_SCORE and REF_MAX_SCORE (Farama-Foundation/D4RL)"
_EPISODES = "1,000 episodes each, reset seeds 0 to 999"
_MAZE_EPISODES = f"{_EPISODES}, gymnasium-robotics 1.4.2, mujoco 3.11.0"


@dataclass(frozen=True)
class ReferenceScore:
    """The two undiscounted returns that a normalised score is measured against, and where they come from."""

    task: str
    random: float
    expert: float
    source: str
    table_version: str = TABLE_VERSION

    def score(self, returns: ArrayLike) -> NDArray[np.float64]:
        """100 * (return - random) / (expert - random), elementwise."""
        return 100.0 * (np.asarray(returns, np.float64) - self.random) / (self.expert - self.random)


def _table() -> dict[str, ReferenceScore]:
    returns = {  # task: (random, expert)
        "hopper": (-20.272305, 3234.3),
        "halfcheetah": (-280.178953, 12135.0),
        "walker2d": (1.629008, 4592.3),
        "ant": (-325.6, 3879.7),
        "maze2d-umaze": (23.85, 161.86),
        "maze2d-medium": (13.13, 277.39),
        "maze2d-large": (6.7, 273.99),
        "maze2d-umaze-dense": (68.537689, 193.66285642381482),
        "maze2d-medium-dense": (44.264742, 297.4552547777125),
        "maze2d-large-dense": (30.569041, 303.4857382709002),
        "antmaze": (0.0, 1.0),
        "pen": (96.262799, 3076.8331017826877),
        "door": (-56.512833, 2880.5693087298737),
        "hammer": (-274.856578, 12794.134825156867),
        "relocate": (-6.425911, 4233.877797728884),
        "kitchen": (0.0, 4.0),
    }
    d4rl = {task: ReferenceScore(task, low, high, _D4RL) for task, (low, high) in returns.items()}
    return d4rl | _scripted() | _neorl()


def _neorl() -> dict[str, ReferenceScore]:
    returns = {  # environment: (random, expert)
        "Pipeline": (-296.0, 751.0),
        "Simglucose": (9.75, 475.0),
        "RocketRecovery": (-176.0, 208.0),
        "RandomFrictionHopper": (-3.0, 503.0),
        "DMSD": (30.60, 849.51),
        "Fusion": (-107.601, 98.05),
        "SafetyHalfCheetah": (-283.0, 2507.0),
    }
    source = "NeoRL-2, envs/info.py, MIN_SCORES and MAX_SCORES (polixir/NeoRL2)"
    return {f"neorl2-{env}": ReferenceScore(f"neorl2-{env}", *ends, source) for env, ends in returns.items()}


def _scripted() -> dict[str, ReferenceScore]:
    """Our own tasks, as `benchmarks/references.py` measures them: (mean return, its standard error) of each policy."""
    measured = {  # task: random, controller
        maze_task("umaze"): ((37.40, 2.33), (239.51, 1.24)),
        maze_task("medium"): ((25.83, 2.28), (477.43, 1.81)),
        maze_task("large"): ((13.34, 1.64), (624.49, 2.71)),
        pendulum.TASK: ((-1224.16, 9.10), (-150.73, 2.86)),
    }
    table = {}
    for task, ((low, low_error), (high, high_error)) in measured.items():
        controller, episodes = (
            ("controller", _EPISODES) if task == pendulum.TASK else ("waypoint controller", _MAZE_EPISODES)
        )
        source = (
            f"this project's own, not D4RL's: uniformly random actions (standard error {low_error:g}), and the "
            f"{controller} without noise (standard error {high_error:g}); {episodes}"
        )
        table[task] = ReferenceScore(task, low, high, source)
    return table


REFERENCE_SCORES = _table()

SUCCESS = ReferenceScore("success", 0.0, 1.0, "the share of the episodes in which the environment said info['success']")
"""A score of success rates instead of returns, for tasks without reference returns."""

# Environments whose rewards are those that the table's returns were measured with. Ant-v5 is missing on purpose: it
# charges for contact forces, which D4RL's Ant did not.
TASK_OF_ENV = {
    **{f"Hopper-v{version}": "hopper" for version in (2, 3, 4, 5)},
    **{f"HalfCheetah-v{version}": "halfcheetah" for version in (2, 3, 4, 5)},
    **{f"Walker2d-v{version}": "walker2d" for version in (2, 3, 4, 5)},
    **{f"Ant-v{version}": "ant" for version in (2, 3, 4)},
    **{maze_id(name): maze_task(name) for name in MAZES},
    **{antmaze_id(name): "antmaze" for name in ANTMAZES},
}

# How D4RL names its files, and the task each belongs to.
_TASK_OF_FILE = (
    (re.compile(r"(hopper|halfcheetah|walker2d|ant)[_-](random|medium|expert|mixed|full)"), "{0}"),
    (re.compile(r"walker[_-](random|medium|expert|mixed|full)"), "walker2d"),
    (re.compile(r"maze2d[_-](umaze|medium|large)[_-]dense"), "maze2d-{0}-dense"),
    (re.compile(r"maze2d[_-](umaze|medium|large)"), "maze2d-{0}"),
    (re.compile(r"ant[_-]?maze"), "antmaze"),
    (re.compile(r"(pen|door|hammer|relocate)[_-]"), "{0}"),
    (re.compile(r"(mini[_-])?kitchen[_-]"), "kitchen"),
)

# D4RL recorded in version 2 of these; Gymnasium's version 4 keeps its observations and rewards, version 5 does not.
_ENV_OF_D4RL_TASK = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}


def own_level(mean_return: float | None, reference: ReferenceScore | None) -> float | None:
    """The mean return of a data set's own episodes in the unit of what is measured; None where it has none there.

    reference: what scores are measured by; None: returns are measured. A share of successes is no mean of returns.
    """
    if mean_return is None or reference is None:
        return mean_return
    return None if reference.source == SUCCESS.source else float(reference.score(mean_return))


def reference_score(task: str | None) -> ReferenceScore | None:
    """The table's entry for a task, or None if it has none: report raw returns then."""
    return REFERENCE_SCORES.get(task) if task else None


def reference_of(dataset: Dataset) -> ReferenceScore | None:
    """The table's entry for the data's task, else the references that the data itself carries, else None."""
    known = reference_score(dataset.task)
    if known is not None:
        return known
    try:
        low, high = (float(dataset.provenance[f"ref_{end}_score"]) for end in ("min", "max"))
    except (KeyError, ValueError):
        return None
    if not low < high:
        return None
    return ReferenceScore(dataset.task or dataset.env_id or dataset.name, low, high, f"carried by {dataset.name}")


def normalized_score(task: str | None, returns: ArrayLike) -> NDArray[np.float64]:
    """100 * (return - random) / (expert - random). Raises `DatasetError` for a task without reference returns."""
    reference = reference_score(task)
    if reference is None:
        known = ", ".join(REFERENCE_SCORES)
        raise DatasetError(f"no reference returns for the task {task!r}; report raw returns, or use one of: {known}")
    return reference.score(returns)


def task_of_env(env_id: str | None) -> str | None:
    """The task of an environment: "hopper" for "Hopper-v5"; None for one that the table does not know."""
    return TASK_OF_ENV.get(env_id) if env_id else None


def task_of_spec(spec: Any) -> str | None:
    """The task of a specification; None where its arguments, wrappers or time limit make another one of it."""
    return None if spec is None or alterations(spec) else task_of_env(plain_env_spec(spec)["id"])


def task_of_file(file_name: str) -> tuple[str | None, str | None]:
    """Task and environment of a D4RL file by its name, such as "hopper_medium-v2.hdf5" -> ("hopper", "Hopper-v4")."""
    for pattern, task in _TASK_OF_FILE:
        match = pattern.match(file_name.lower())
        if match:
            name = task.format(*match.groups())
            return name, antmaze_of_file(file_name) if name == "antmaze" else _ENV_OF_D4RL_TASK.get(name)
    return None, None
