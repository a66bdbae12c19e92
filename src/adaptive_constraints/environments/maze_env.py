"""D4RL's maze2d task on gymnasium-robotics' point and mazes. Needs the extra `robotics`: import this only then."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium
import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments.maze_tasks import MAZES
from adaptive_constraints.errors import DependencyError

try:
    # Importing it prints a note on the Adroit hand, which has no part in this.
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics
        from gymnasium_robotics.envs.maze import maps
        from gymnasium_robotics.envs.maze.maze_v4 import Maze
        from gymnasium_robotics.envs.maze.point import PointEnv
except ImportError as error:
    raise DependencyError(
        f"the mazes need gymnasium-robotics ({error}): pip install 'adaptive-constraints[robotics]'"
    ) from error

__all__ = ["GOAL_RADIUS", "Maze", "MazeCell", "PointMaze", "cells_of", "remove_sky"]

GOAL_RADIUS = 0.5
"""In cells, as in D4RL; gymnasium-robotics' own tasks take 0.45."""
_START_NOISE = 0.1
"""How far (in cells) a start lies off its cell's centre at most, and the standard deviation of its velocity."""
_POINT = Path(gymnasium_robotics.__file__).parent / "envs" / "assets" / "point" / "point.xml"
_CELL, _WALL_HEIGHT = 1.0, 0.4

MazeCell = tuple[int, int]


class PointMaze(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A ball, pushed by two motors through a maze, is rewarded for every step near one fixed goal.

    Observations [4] float64: x, y (in cells, the maze's centre is 0) and their velocities, without the goal. Actions
    [2] in [-1, 1]: forces along x and y. The reward is 1 if the ball is within `GOAL_RADIUS` of the goal after the
    step, else 0. Nothing ends an episode but the time limit with which the environment is registered. An episode starts
    in a random free cell (the goal's included), nearly at rest; `reset(options={"state": [x, y, vx, vy]})` starts in
    that state instead.

    Goals, radius, starts, physics and time limits are those of D4RL's maze2d; coordinates are gymnasium-robotics'.
    """

    metadata: dict[str, Any] = PointEnv.metadata

    def __init__(self, maze: str, render_mode: str | None = None) -> None:
        layout = MAZES[maze]
        cells = cells_of(layout.map_name)
        self._maze, file = Maze.make_maze(str(_POINT), cells, _CELL, _WALL_HEIGHT)
        try:
            remove_sky(file)
            self._point = PointEnv(xml_file=file, render_mode=render_mode)
        finally:
            Path(file).unlink()  # gymnasium-robotics leaves it behind
        self.free_cells: list[MazeCell] = [
            (i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell == 0
        ]
        """[row, column] of each cell without a wall."""
        self.goal: NDArray[np.float64] = self.center(layout.goal)
        """[2] x and y."""
        self._point.model.site("target").pos[:2] = self.goal
        self.render_mode = render_mode
        self.observation_space = self._point.observation_space
        self.action_space = self._point.action_space

    def center(self, cell: MazeCell) -> NDArray[np.float64]:
        """[2] x and y of a cell's centre."""
        return np.asarray(self._maze.cell_rowcol_to_xy(np.array(cell)), np.float64)

    def cell(self, position: NDArray[Any]) -> MazeCell:
        """Row and column of the cell that holds x and y [2]."""
        row, column = self._maze.cell_xy_to_rowcol(position)
        return int(row), int(column)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        given = (options or {}).get("state")
        state = self._start() if given is None else np.asarray(given, np.float64)
        self._point.reset()
        self._point.set_state(state[:2], state[2:])
        return state, {}

    def _start(self) -> NDArray[np.float64]:
        cell = self.free_cells[self.np_random.integers(len(self.free_cells))]
        position = self.center(cell) + self.np_random.uniform(-_START_NOISE, _START_NOISE, 2)
        return np.concatenate([position, _START_NOISE * self.np_random.standard_normal(2)])

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, *_ = self._point.step(action)
        offset = observation[:2] - self.goal
        near = bool(offset @ offset <= GOAL_RADIUS**2)
        return observation, float(near), False, False, {"success": near}

    def render(self) -> Any:
        return self._point.render()

    def close(self) -> None:
        self._point.close()


def cells_of(map_name: str) -> list[list[int]]:
    """Rows of a map of gymnasium-robotics: 1 is a wall."""
    cells: list[list[int]] = getattr(maps, map_name)
    return cells


def remove_sky(file: str) -> None:
    """Edit a model: its sky would take 11 MB and a tenth of a second in each of an evaluation's environments."""
    model = ElementTree.parse(file)
    for assets in model.findall("asset"):
        for sky in assets.findall("texture[@name='skybox']"):
            assets.remove(sky)
    model.write(file)
