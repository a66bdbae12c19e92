"""Films of evaluated episodes: their actions are taken again, in environments that give a frame for each step.

So the evaluation stays as fast as ever, the film holds one episode after another, and only one frame is in memory.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments.boundary import CheckedEnv, EnvironmentWarning
from adaptive_constraints.environments.making import EnvSource, named
from adaptive_constraints.errors import DependencyError, EvaluationError, FileError
from adaptive_constraints.evaluation.fleet import open_environment
from adaptive_constraints.support.files import check_file, replacing

_SAME = 1e-4
"""Relative difference of returns up to which an episode counts as the same: numpy's pendulum is not Gymnasium's."""
_FPS = 30
"""Frames per second where the environment does not say how many it has."""


@dataclass(frozen=True)
class Take:
    """An episode that was evaluated, and what plays it again.

    seed: of its reset.
    actions: [T, A] raw; it ends before the first that is not finite, and where the environment ends it.
    value: its return; NaN where the policy failed.
    """

    seed: int
    actions: NDArray[Any]
    value: float


def check_filmable(path: Path, source: EnvSource) -> None:
    """Raise what filming would raise, before anything long begins.

    `DependencyError` names the extra, `FileError` the file that cannot be written, and `EvaluationError` the
    environment that gives no frames.
    """
    _ffmpeg()
    if path.suffix.lower() != ".mp4":
        raise FileError(f"cannot film to {path}: name a file that ends in .mp4")
    check_file(path)
    with closing(_filmed(source)) as env:
        env.reset(seed=0)
        env.frame()


def film(path: Path, source: EnvSource, takes: Sequence[Take]) -> None:
    """Play episodes again, and write their frames to one MP4, which is there once it is whole.

    Warns of an episode whose return is another one then, since the environment did not follow from seed and actions.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        try:
            _write(file, source, takes)
        except OSError as error:
            raise FileError(f"ffmpeg cannot make the film {path} ({error})") from error
        with file.open("rb") as shot, replacing(path, "wb") as whole:
            shutil.copyfileobj(shot, whole)


def _write(file: Path, source: EnvSource, takes: Sequence[Take]) -> None:
    """Send the frames of all episodes to ffmpeg, which writes the file."""
    writer: Generator[None, Any, None] | None = None
    shape: tuple[int, ...] = ()
    try:
        for take in takes:
            with closing(_filmed(source)) as env:
                for frame in _frames(env, take):
                    if writer is None:
                        shape, fps = frame.shape, float(env.env.metadata.get("render_fps") or _FPS)
                        writer = _ffmpeg().write_frames(str(file), shape[1::-1], fps=fps, macro_block_size=2, quality=7)
                        writer.send(None)
                    if frame.shape != shape:
                        raise EvaluationError(f"{env.name} changes the size of its frames: {shape}, then {frame.shape}")
                    writer.send(np.ascontiguousarray(frame))
    finally:
        if writer is not None:
            writer.close()


def _frames(env: CheckedEnv, take: Take) -> Iterator[NDArray[np.uint8]]:
    """The frames [H, W, 3] of an episode, the first before any step."""
    env.reset(seed=take.seed)
    total = 0.0
    yield env.frame()
    for action in take.actions:
        if not np.isfinite(action).all():
            break
        _, reward, terminated, truncated, _ = env.step(action.clip(env.low, env.high).astype(env.action_type))
        total += reward
        yield env.frame()
        if terminated or truncated:
            break
    if np.isfinite(take.value) and not np.isclose(total, take.value, rtol=_SAME, atol=_SAME):
        text = f"{env.name}: the film shows a return of {total:g}, but the evaluated episode had one of {take.value:g}"
        warnings.warn(f"{text}: seed and actions do not determine what it does", EnvironmentWarning, stacklevel=2)


def _filmed(source: EnvSource) -> CheckedEnv:
    """An environment that gives frames."""
    remedy = "pass a function that makes one which does, with render_mode='rgb_array'"
    try:
        env = open_environment(source, render_mode="rgb_array")
    except EvaluationError as error:
        raise EvaluationError(f"{named(source) or 'the environment'} cannot be filmed ({error}): {remedy}") from error
    if (mode := getattr(env.env, "render_mode", None)) != "rgb_array":
        env.close()
        raise EvaluationError(
            f"{env.name} cannot be filmed: its render_mode is {mode!r}, which gives no frames: {remedy}"
        )
    return env


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise DependencyError(
            "filming needs imageio-ffmpeg, which is not installed: pip install 'adaptive-constraints[video]'"
        ) from error
    return imageio_ffmpeg


__all__ = ["Take", "check_filmable", "film"]
