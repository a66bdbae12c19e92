"""D4RL's antmaze as tasks: names, ids, starts, goals, time limits; imports no simulator."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = "adaptive_constraints/AntMaze-"


@dataclass(frozen=True)
class AntMazeTask:
    """One maze of D4RL's antmaze."""

    map_name: str
    """In `gymnasium_robotics.envs.maze.maps`, whose walls are D4RL's."""
    start: tuple[int, int]
    """Row and column."""
    goal: tuple[int, int]
    time_limit: int


ANTMAZES = {
    "umaze": AntMazeTask("U_MAZE", (1, 1), (3, 1), 700),
    "medium": AntMazeTask("MEDIUM_MAZE", (1, 1), (6, 6), 1000),
    "large": AntMazeTask("LARGE_MAZE", (1, 1), (7, 9), 1000),
}
_SIZES = {"umaze": "u-?maze", "medium": "medium|big-?maze", "large": "large|hardest-?maze"}
"""Sizes as file names write them: ``antmaze-large-play-v2``, ``Ant_maze_hardest-maze_noisy_...``."""


def antmaze_id(name: str) -> str:
    """The Gymnasium id of a maze: "umaze" -> "adaptive_constraints/AntMaze-umaze-v0"."""
    return f"{_PREFIX}{name}-v0"


def antmaze_of_file(file_name: str) -> str | None:
    """The id of the environment that a D4RL file was recorded in, by its name; None for other files."""
    for name, size in _SIZES.items():
        if re.match(rf"ant[_-]?maze[_-]({size})", file_name.lower()):
            return antmaze_id(name)
    return None


def register_antmazes() -> None:
    """Make the mazes known to Gymnasium; a second call does nothing. They are imported when one is made."""
    import gymnasium

    for name, task in ANTMAZES.items():
        if antmaze_id(name) not in gymnasium.registry:
            gymnasium.register(
                antmaze_id(name),
                entry_point="adaptive_constraints.environments.antmaze_env:AntMaze",
                kwargs={"maze": name},
                max_episode_steps=task.time_limit,
            )


__all__ = ["ANTMAZES", "AntMazeTask", "antmaze_id", "antmaze_of_file", "register_antmazes"]
