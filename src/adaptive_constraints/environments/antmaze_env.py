"""D4RL's antmaze task on Gymnasium's ant and gymnasium-robotics' mazes. Needs the extra `robotics`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium
import numpy as np
from gymnasium.envs import mujoco
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.spaces import Box
from numpy.typing import NDArray

from adaptive_constraints.environments.antmaze_tasks import ANTMAZES
from adaptive_constraints.environments.maze_env import Maze, MazeCell, cells_of, remove_sky

GOAL_RADIUS = 0.5
"""In D4RL's units of length, of which a cell has 4; gymnasium-robotics' own tasks take 0.45."""
_CELL, _WALL_HEIGHT = 4.0, 0.5
_GOAL_NOISE = (0.25, 0.125)
"""Greatest values (in cells) of the two uniform draws that move a goal along each axis."""
_MODEL = Path(mujoco.__file__).parent / "assets" / "ant.xml"
_TIMESTEP, _GEAR = "0.02", "30"
"""D4RL's ant takes steps of 0.1 s (5 times this) and motors of 30; Gymnasium's 0.05 s and 150."""
_CONTACT = {"solref": ".02 1", "solimp": ".8 .8 .01"}
"""How hard contacts are in D4RL's model; elsewhere they are MuJoCo's defaults."""


class AntMaze(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """An ant in a maze is rewarded once for reaching the goal, which ends the episode.

    Observations [29] float64: positions [15] (x and y first, 0 where the ant starts) and velocities [14], without the
    goal. Actions [8] in [-1, 1]: torques, in 30 units. The reward is 1 if the ant is within `GOAL_RADIUS` of the goal
    after the step, else 0, and so is ``info["success"]``; a fall ends nothing. Each episode has its own goal, drawn
    within the goal's cell as D4RL draws it.

    What is D4RL's (antmaze-*-v2): walls, coordinates, starts, goals, reward, ends, time limits, and of the ant its
    body, motors, contacts and time step. What is not: MuJoCo 3 takes the place of MuJoCo 2 under mujoco_py, so that the
    same actions lead to slightly different states, and random numbers are Gymnasium's.
    """

    metadata: dict[str, Any] = AntEnv.metadata

    def __init__(self, maze: str, render_mode: str | None = None) -> None:
        task = ANTMAZES[maze]
        cells = cells_of(task.map_name)[::-1]  # y grows with the row in D4RL, and falls with it here
        model = _model_of_d4rl()
        try:
            self._maze, file = Maze.make_maze(model, cells, _CELL, _WALL_HEIGHT)
        finally:
            Path(model).unlink()
        try:
            remove_sky(file)
            self._ant: Any = AntEnv(
                xml_file=file,
                terminate_when_unhealthy=False,
                exclude_current_positions_from_observation=False,
                include_cfrc_ext_in_observation=False,
                render_mode=render_mode,
            )
        finally:
            Path(file).unlink()
        self._rows = len(cells)
        self.start: NDArray[np.float64] = self._place(task.start)
        """[2] x and y of the start in the simulator's coordinates."""
        self._goal_cell = self._place(task.goal) - self.start
        self._ant.init_qpos[:2] = self.start
        self.goal: NDArray[np.float64] = self._goal_cell
        """[2] x and y of this episode's goal, in the coordinates of observations."""
        self.render_mode = render_mode
        self.observation_space = Box(-np.inf, np.inf, (29,), np.float64)
        self.action_space = Box(-1.0, 1.0, (8,), np.float32)

    def _place(self, cell: MazeCell) -> NDArray[np.float64]:
        """[2] x and y of a cell's centre, in the simulator's coordinates."""
        return np.asarray(self._maze.cell_rowcol_to_xy(np.array((self._rows - 1 - cell[0], cell[1]))), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        noise = sum(self.np_random.uniform(0.0, most * _CELL, 2) for most in _GOAL_NOISE)
        self.goal = np.maximum(self._goal_cell + noise, 0.0)
        self._ant.model.site("target").pos[:2] = self.goal + self.start
        observation, _ = self._ant.reset(seed=int(self.np_random.integers(2**31)))
        return self._seen(observation), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        seen = self._seen(self._ant.step(action)[0])
        offset = seen[:2] - self.goal
        reached = bool(offset @ offset <= GOAL_RADIUS**2)
        return seen, float(reached), reached, False, {"success": reached}

    def set_state(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put the ant into the state that an observation [29] shows; the observation there."""
        state = np.asarray(state, np.float64).copy()
        state[:2] += self.start
        self._ant.set_state(state[:15], state[15:])
        return self._seen(np.concatenate([self._ant.data.qpos, self._ant.data.qvel]))

    def _seen(self, observation: NDArray[Any]) -> NDArray[np.float64]:
        seen = np.array(observation, np.float64)
        seen[:2] -= self.start
        return seen

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self._ant.model

    @property
    def data(self) -> Any:
        """MuJoCo's state."""
        return self._ant.data

    def render(self) -> Any:
        return self._ant.render()

    def close(self) -> None:
        self._ant.close()


def _model_of_d4rl() -> str:
    """A file, to be deleted, with Gymnasium's ant and what D4RL's has otherwise."""
    tree = ElementTree.parse(_MODEL)
    for option in tree.iter("option"):
        option.set("timestep", _TIMESTEP)
    for defaults in tree.iter("default"):
        for geom in defaults.findall("geom"):
            geom.attrib.update(_CONTACT)
    for motor in tree.iter("motor"):
        motor.set("gear", _GEAR)
    handle, name = tempfile.mkstemp(suffix=".xml")
    with os.fdopen(handle, "wb") as file:
        tree.write(file)
    return name


__all__ = ["GOAL_RADIUS", "AntMaze"]
