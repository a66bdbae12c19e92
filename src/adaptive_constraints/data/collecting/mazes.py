"""Scripted data of point mazes: a sparse-reward, sub-optimal domain that needs no policy weights and no download.

The recipe is that of D4RL's maze2d: a controller travels from one random place to the next and never stops, under
noise, while rewards are for one fixed goal. So most of the data is not aimed at the goal, and a learner must stitch
its way together. It is regenerated data, not D4RL's, and its scores do not compare with D4RL's. What is known to go
wrong with maze2d, and what is done here:

- D4RL's collector repeats an observation, and takes an action for it, whenever a target is reached. Here every row is
  what the environment did.
- D4RL computes rewards from the state before the step, its environment from the state after it. Here both are the
  environment's.
- D4RL's collector marks reached targets, which end nothing, as terminals. Here no row is terminal. The stream is cut
  at the environment's time limit, the cuts are timeouts, and the next episode goes on in the very state in which the
  last one ended.
- The controller knows where it is heading, and observations do not say it: the data's actions are a mixture of
  several directions in each place. That is maze2d's, and kept.
- Actions are clipped to [-1, 1] after the noise is added, so many lie on the bounds. That is maze2d's too.

The controller does not stop at its waypoints as D4RL's does, so it is faster. The environment is in `maze_env.py`;
Gymnasium finds it by its id after `register_mazes()`, which evaluation, fine-tuning and collecting call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.recordings import CONTINUED
from adaptive_constraints.environments.maze_tasks import maze_id, register_mazes
from adaptive_constraints.errors import DependencyError

if TYPE_CHECKING:
    from adaptive_constraints.data.collecting.recording import Progress, RecordingEnv
    from adaptive_constraints.environments.maze_env import MazeCell, PointMaze


DECLARED = {CONTINUED: "each episode goes on in the state in which the one before it was cut"}
"""What the provenance of this data says, so that nothing is suspected where one episode leads to the next."""
NOISE = 0.5
"""Standard deviation of what is added to the controller's actions, as in D4RL's noisy recordings."""
_SPREAD = 0.2
"""How far (in cells) targets and waypoints of a trip lie off the centres of their cells at most."""
_ARRIVED = 0.1
"""A target is reached within this distance, in cells."""
_GAIN, _DAMPING = 10.0, 1.0
"""Force per cell of distance and per cell/s of velocity: D4RL's."""


class WaypointController:
    """Drives to a target over the maze's cells: a shortest path between them, and a spring and a damper in between.

    In each cell it heads for the next cell's centre, in the target's cell for the target. The way there lies within
    two neighbouring cells, where no wall can be in between; so it arrives from any place, whatever pushed it there.
    """

    def __init__(self, maze: PointMaze) -> None:
        self._maze = maze
        self.head_for(maze.goal)

    def head_for(self, target: NDArray[np.float64], shift: NDArray[np.float64] | float = 0.0) -> None:
        """Drive to `target` [2] (x and y) from now on, by waypoints that lie `shift` [2] off their cells' centres."""
        end = self._maze.cell(target)
        following = next_cells(self._maze.free_cells, end)
        self._waypoints = {cell: self._maze.center(after) + shift for cell, after in following.items()}
        self._waypoints[end] = self._target = target

    def __call__(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        """The action [2], within [-1, 1], for one observation [4]."""
        position, velocity = observation[:2], observation[2:]
        waypoint = self._waypoints[self._maze.cell(position)]
        return np.clip(_GAIN * (waypoint - position) - _DAMPING * velocity, -1.0, 1.0)

    def arrived(self, observation: NDArray[np.float64]) -> bool:
        """Tell whether the target is reached."""
        offset = observation[:2] - self._target
        return bool(offset @ offset < _ARRIVED**2)


def next_cells(free: Iterable[MazeCell], end: MazeCell) -> dict[MazeCell, MazeCell]:
    """The next cell on a shortest path to `end`, for every other cell that has one; neighbours share a side."""
    left, following, queue = set(free) - {end}, {}, deque([end])
    while queue:
        row, column = here = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell in left:
                left.remove(cell)
                following[cell] = here
                queue.append(cell)
    return following


def record_maze(name: str, steps: int, seed: int, progress: Progress | None = None) -> RecordingEnv:
    """The environment after `steps` steps of travel from one random target to the next; see the module.

    Raises `DependencyError` where the extra `robotics` is missing.
    """
    try:
        import gymnasium

        from adaptive_constraints.data.collecting.recording import RecordingEnv
    except ImportError as error:
        raise DependencyError("the mazes need gymnasium: pip install 'adaptive-constraints[robotics]'") from error

    register_mazes()
    env = RecordingEnv(gymnasium.make(maze_id(name), disable_env_checker=True), steps, progress)
    maze: PointMaze = env.unwrapped  # type: ignore[assignment]
    draw, controller = np.random.default_rng(seed), WaypointController(maze)
    observation, _ = env.reset(seed=seed)
    _new_trip(controller, maze, draw)
    while env.steps < steps:
        action = np.clip(controller(observation) + NOISE * draw.standard_normal(2), -1.0, 1.0)
        observation, _, _, cut, _ = env.step(action.astype(np.float32))
        if controller.arrived(observation):
            _new_trip(controller, maze, draw)
        if cut:
            env.reset(options={"state": observation})
    env.close()
    return env


def _new_trip(controller: WaypointController, maze: PointMaze, draw: np.random.Generator) -> None:
    cell = maze.free_cells[draw.integers(len(maze.free_cells))]
    controller.head_for(maze.center(cell) + draw.uniform(-_SPREAD, _SPREAD, 2), draw.uniform(-_SPREAD, _SPREAD, 2))
