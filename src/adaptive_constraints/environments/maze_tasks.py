"""The scripted mazes as tasks: names, ids, goals, time limits; imports no simulator."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from adaptive_constraints.environments.antmaze_tasks import register_antmazes
from adaptive_constraints.errors import DatasetError

FAMILY = "pointmaze/"
"""Beginning of a maze's name as a source of data: pointmaze/umaze."""


@dataclass(frozen=True)
class MazeTask:
    """One maze with the goal and time limit of D4RL's maze2d."""

    map_name: str
    """In `gymnasium_robotics.envs.maze.maps`."""
    goal: tuple[int, int]
    """Row and column."""
    time_limit: int
    steps: int
    """Recorded by default."""


MAZES = {
    "umaze": MazeTask("U_MAZE", (1, 1), 300, 100_000),
    "medium": MazeTask("MEDIUM_MAZE", (6, 6), 600, 100_000),
    "large": MazeTask("LARGE_MAZE", (7, 9), 800, 100_000),
}


def maze_id(name: str) -> str:
    """The Gymnasium id of a maze: "umaze" -> "adaptive_constraints/PointMaze-umaze-v0"."""
    return f"adaptive_constraints/PointMaze-{name}-v0"


def maze_task(name: str) -> str:
    """The key of a maze in the table of reference returns: "umaze" -> "pointmaze-umaze"."""
    return f"pointmaze-{name}"


def register_mazes() -> None:
    """Make the mazes known to Gymnasium; a second call does nothing. They are imported when one is made."""
    import gymnasium

    register_antmazes()
    for name, task in MAZES.items():
        if maze_id(name) not in gymnasium.registry:
            gymnasium.register(
                maze_id(name),
                entry_point="adaptive_constraints.environments.maze_env:PointMaze",
                kwargs={"maze": name},
                max_episode_steps=task.time_limit,
            )


def find_maze(source: str) -> str:
    """The maze of a source: "pointmaze/umaze" -> "umaze". Raises `DatasetError` for one that there is not."""
    name = source.removeprefix(FAMILY)
    if not source.startswith(FAMILY) or name not in MAZES:
        known = ", ".join(f"{FAMILY}{maze}" for maze in MAZES)
        raise DatasetError(f"no scripted data {source!r}; there: {known}")
    return name


def scripted_names() -> list[str]:
    """References of the data that can be made here: none without the extra `robotics`, which is not imported."""
    needed = ("gymnasium", "mujoco", "gymnasium_robotics")
    here = all(importlib.util.find_spec(module) is not None for module in needed)
    return [f"scripted:{FAMILY}{name}" for name in MAZES] if here else []
