"""Make offline data sets: record an agent while it learns, a random policy, or a scripted one in a maze.

Needs the extra `collect`, and `robotics` for the mazes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_constraints._version import __version__
from adaptive_constraints.data.collecting.mazes import DECLARED, record_maze
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import TABLE_VERSION, normalized_score, task_of_spec
from adaptive_constraints.data.sources.npz import save_npz
from adaptive_constraints.environments.making import make_environment
from adaptive_constraints.environments.maze_tasks import FAMILY, MAZES, find_maze
from adaptive_constraints.errors import DatasetError, DependencyError, EvaluationError
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.files import replacing

if TYPE_CHECKING:
    from adaptive_constraints.data.collecting.recording import Episode, RecordingEnv

Progress = Callable[[int, int], None]

SOURCES = ("sac:ENV_ID", "random:ENV_ID", *(f"{FAMILY}{name}" for name in MAZES))
_DESCRIPTIONS = {
    "sac": "recorded while SAC learned from scratch",
    "random": "uniformly random actions",
    "pointmaze": "scripted: a waypoint controller under noise; regenerated, not D4RL's maze2d",
}
"""Descriptions that a file gives of its rows, by the first word of its source."""
# SAC's published settings, but for layers of 128 units and the fused optimizer: twice as fast on one CPU thread.
# The first 1000 steps are uniformly random.
_SAC_SETTINGS = {
    "batch_size": 256,
    "learning_starts": 1000,
    "policy_kwargs": {"net_arch": [128, 128], "optimizer_kwargs": {"fused": True}},
}


@checked(DatasetError)
def collect(
    source: str,
    out: str | Path,
    steps: int,
    keep: int,
    seed: int = 0,
    *,
    licence: str = "MIT",
    progress: Progress | None = None,
) -> Dataset:
    """Record `steps` environment steps and write at most `keep` of them to `out` (npz), a manifest (json) beside it.

    `source` is "sac:ENV_ID" (what SAC went through while it learned from scratch), "random:ENV_ID", or a maze such as
    "pointmaze/umaze" (a waypoint controller under noise, see `mazes`). Whole episodes are kept, evenly spaced over the
    recording. `progress(steps done, steps)` is called every 1000 steps. The same arguments and versions give the same
    file. Ctrl-C ends SAC early and keeps what was recorded: the result equals that of a shorter run, and the
    manifest's command names the steps really taken. `licence` is that of the data; the default is this project's own.
    Raises `DatasetError` for an unknown source or environment, or when no whole episode fits, and `EvaluationError` for
    an environment that does not keep Gymnasium's interface.
    """
    out = Path(out)
    record = _recorder(source)
    if out.suffix != ".npz" or not out.parent.is_dir():
        raise DatasetError(f"cannot write {out}: give a file name ending in .npz in a folder that exists")
    if seed < 0:
        raise DatasetError(f"seed must be at least 0, but is {seed}")
    env = record(steps, seed, progress)
    kept = evenly_spaced(env.episodes, keep, env.steps)
    command = f"adaptive-constraints collect {source} --steps {env.steps} --keep {keep} --seed {seed} --out {out.name}"
    provenance = {"source": _DESCRIPTIONS[re.split("[:/]", source)[0]], "command": command, "licence": licence}
    if source.startswith(FAMILY):
        provenance |= DECLARED
    dataset = _to_dataset(kept, env, name=out.stem, provenance=provenance)
    manifest = _manifest(dataset, kept, env.steps, seed)
    save_npz(dataset, out)
    text = json.dumps(manifest, indent=2) + "\n"
    with replacing(out.with_suffix(".json")) as file:
        file.write(text)
    return dataset


def default_size(source: str, steps: int | None = None) -> tuple[int, int]:
    """How many environment steps to record (`steps`, if given) and how many rows to keep at most."""
    if source.startswith(FAMILY):
        steps = MAZES[find_maze(source)].steps if steps is None else steps
        return steps, steps
    return 200_000 if steps is None else steps, 50_000


def collect_replay(
    env_id: str, *, total_steps: int, keep: int, seed: int = 0, progress: Progress | None = None
) -> Dataset:
    """The episodes of SAC while it learned from scratch: whole ones, evenly spaced, at most `keep` rows."""
    env = _record_sac(env_id, total_steps, seed, progress)
    return _to_dataset(evenly_spaced(env.episodes, keep, env.steps), env, name=f"sac:{env_id}", provenance={})


def collect_random(env_id: str, steps: int, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The whole episodes within `steps` steps of uniformly random actions."""
    env = _record_random(env_id, steps, seed, progress)
    return _to_dataset(evenly_spaced(env.episodes, steps, env.steps), env, name=f"random:{env_id}", provenance={})


def collect_maze(name: str, steps: int, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The whole episodes within `steps` steps of the waypoint controller in a maze ("umaze", "medium" or "large")."""
    env = record_maze(name, steps, seed, progress)
    return _to_dataset(
        evenly_spaced(env.episodes, steps, env.steps), env, name=f"{FAMILY}{name}", provenance=dict(DECLARED)
    )


def _recorder(source: str) -> Callable[[int, int, Progress | None], RecordingEnv]:
    """The function that records `steps` steps of a source with a seed."""
    if source.startswith(FAMILY):
        return partial(record_maze, find_maze(source))
    algorithm, _, env_id = source.partition(":")
    record = {"sac": _record_sac, "random": _record_random}.get(algorithm)
    if record is None or not env_id:
        raise DatasetError(f"unknown source {source!r}; use one of: {', '.join(SOURCES)}")
    return partial(record, env_id)


def _record_sac(env_id: str, steps: int, seed: int, progress: Progress | None) -> RecordingEnv:
    stable_baselines3 = _import("stable_baselines3")
    env = _recording_env(env_id, steps, progress)
    with _one_torch_thread():
        agent = stable_baselines3.SAC("MlpPolicy", env, seed=seed, buffer_size=steps, device="cpu", **_SAC_SETTINGS)
        try:
            agent.learn(total_timesteps=steps)
        except KeyboardInterrupt:
            if not env.episodes:
                raise
    return env


def _record_random(env_id: str, steps: int, seed: int, progress: Progress | None) -> RecordingEnv:
    env = _recording_env(env_id, steps, progress)
    env.action_space.seed(seed)
    env.reset(seed=seed)
    while env.steps < steps:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return env


def _recording_env(env_id: str, steps: int, progress: Progress | None) -> RecordingEnv:
    _import("gymnasium")
    from adaptive_constraints.data.collecting.recording import RecordingEnv

    if steps < 1:
        raise DatasetError(f"steps must be at least 1, but is {steps}")
    try:
        return RecordingEnv(make_environment(env_id), steps, progress)
    except EvaluationError as error:
        raise DatasetError(f"cannot make the environment {env_id!r}: {error}") from error


def evenly_spaced(episodes: Sequence[Episode], keep: int, steps: int) -> list[Episode]:
    """As many episodes, evenly spaced in order of time, as fit into `keep` rows.

    Spacing by episode, not by length, leaves the mix of short and long episodes of each period as it was.
    """
    if not episodes:
        raise DatasetError(f"no episode ended within {steps} steps; give more steps")
    lengths = np.array([len(episode) for episode in episodes])
    for count in range(len(episodes), 0, -1):
        chosen = (np.arange(count) + 0.5) * len(episodes) / count
        index = chosen.astype(np.int64)
        if lengths[index].sum() <= keep:
            return [episodes[i] for i in index]
    raise DatasetError(f"no episode fits into {keep} rows; the middle one has {lengths[len(episodes) // 2]}; keep more")


def _to_dataset(episodes: Sequence[Episode], env: RecordingEnv, name: str, provenance: dict[str, str]) -> Dataset:
    ends = [np.arange(len(episode)) == len(episode) - 1 for episode in episodes]
    space: Any = env.action_space
    spec = env.env.spec  # without the recording itself
    return Dataset.from_arrays(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        next_observations=np.concatenate([episode.observations[1:] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([end & episode.terminal for end, episode in zip(ends, episodes, strict=True)]),
        timeouts=np.concatenate([end & (not episode.terminal) for end, episode in zip(ends, episodes, strict=True)]),
        episode_ids=np.repeat(np.arange(len(episodes)), [len(episode) for episode in episodes]),
        action_low=space.low,
        action_high=space.high,
        env_spec=spec,
        task=task_of_spec(spec),
        name=name,
        provenance=provenance,
    )


def _manifest(dataset: Dataset, episodes: Sequence[Episode], steps: int, seed: int) -> dict[str, Any]:
    """Everything one needs to judge the file or to make it again."""
    returns = dataset.episode_returns()
    tenths = np.minimum([10 * episode.start // steps for episode in episodes], 9)
    manifest: dict[str, Any] = {
        **dataset.provenance,
        "seed": seed,
        "env_id": dataset.env_id,
        "env_spec": dataset.env_spec,
        "task": dataset.task,
        "rows": len(dataset),
        "episodes": dataset.episodes,
        "terminals": int(dataset.terminals.sum()),
        "timeouts": int(dataset.timeouts.sum()),
        "return_mean": round(float(returns.mean()), 2),
        "return_quantiles": {
            str(level): round(float(np.quantile(returns, level)), 2) for level in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        },
        "return_mean_by_tenth_of_collection": [
            round(float(returns[tenths == tenth].mean()), 2) if (tenths == tenth).any() else None for tenth in range(10)
        ],
        "fingerprint": dataset.fingerprint,
        "versions": versions(),
    }
    if dataset.task is not None:
        manifest["score_mean"] = round(float(normalized_score(dataset.task, returns.mean())), 2)
        manifest["reference_table_version"] = TABLE_VERSION
    return manifest


def versions() -> dict[str, str]:
    """Versions of everything that what is recorded depends on; "not installed" for what is not here."""
    packages = ("torch", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "stable-baselines3")
    versions = {"adaptive-constraints": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Small networks learn fastest on one thread, and sums no longer depend on how many the machine has."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f'this needs {module}: pip install "adaptive-constraints[collect]"') from error
