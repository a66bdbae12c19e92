"""What is recorded of an environment, as plain values: its id, arguments, time limit and wrappers."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptive_constraints.environments.maze_tasks import register_mazes
from adaptive_constraints.errors import DatasetError

WATCHING = {
    "HumanRendering",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
}
"""Wrappers of Gymnasium that change nothing a policy or a return could tell; they are left out."""
SAME_TASK = {
    "ClipAction",
    "FilterObservation",
    "FlattenObservation",
    "FrameStackObservation",
    "RescaleAction",
    "RescaleObservation",
    "ReshapeObservation",
    "TimeAwareObservation",
}
"""Wrappers that change what is seen or how actions are written, not what is rewarded."""
FLATTEN_KEYS = {"FlattenKeys": "adaptive_constraints.environments.flat_observations:FlattenKeys"}
"""Our own wrapper that does so, and its entry point."""
OTHER_TASK = {"ClipReward", "DelayObservation", "MaxAndSkipObservation", "RepeatAction", "StickyAction"}
"""Wrappers that make another task of it."""
NO_FILE = {"AtariPreprocessing", "NormalizeReward", "TransformReward"}
"""Wrappers that do so too, and that a file cannot rebuild: they hold functions or what an environment went through."""


def plain_env_spec(spec: Any) -> dict[str, Any]:
    """An environment's specification as plain JSON values: id, kwargs, max_episode_steps, additional_wrappers.

    spec: a `gymnasium.envs.registration.EnvSpec`, or a mapping that has its fields.

    How it is rendered is left out. Arguments that no JSON holds (functions, classes) are named in "not_plain", unless
    they come with the registered id anyway. Raises `DatasetError` for what is no specification.
    """
    get = spec.get if isinstance(spec, Mapping) else lambda name, default=None: getattr(spec, name, default)
    env_id, limit = get("id"), get("max_episode_steps")
    kwargs, wrappers = get("kwargs") or {}, get("additional_wrappers") or ()
    try:
        if not isinstance(env_id, str) or not env_id:
            raise TypeError(f"its id is {env_id!r}")
        if limit is not None and int(limit) != limit:
            raise TypeError(f"its max_episode_steps is {limit!r}")
        plain, lost = _plain_arguments(kwargs)
        return {
            "id": env_id,
            "kwargs": plain,
            "max_episode_steps": None if limit is None or int(limit) < 1 else int(limit),
            "additional_wrappers": [_plain_wrapper(wrapper) for wrapper in wrappers],
            "not_plain": sorted({*(get("not_plain") or ()), *(lost - _registered_arguments(env_id, kwargs))}),
        }
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"env_spec must be a Gymnasium EnvSpec or its fields as plain values, not "
            f"{reprlib.repr(spec)[:200]} ({error})"
        ) from error


def _plain_wrapper(wrapper: Any) -> dict[str, Any]:
    fields = wrapper if isinstance(wrapper, Mapping) else vars(wrapper)
    kwargs = fields.get("kwargs")
    plain, lost = ({}, {"?"}) if kwargs is None else _plain_arguments(kwargs, arrays=True)
    return {
        "name": str(fields["name"]),
        "entry_point": str(fields["entry_point"]),
        "kwargs": None if lost else plain,
    }


def _plain_arguments(arguments: Mapping[str, Any], arrays: bool = False) -> tuple[dict[str, Any], set[str]]:
    """Arguments that JSON can hold, and the names of the others. ``arrays``: arrays become lists."""
    plain, lost = {}, set()
    for name, value in arguments.items():
        if name == "render_mode":
            continue
        try:
            plain[str(name)] = _plain(value, arrays)
        except TypeError:
            lost.add(str(name))
    return plain, lost


def _plain(value: Any, arrays: bool) -> Any:
    if isinstance(value, np.generic) or (arrays and isinstance(value, np.ndarray)):
        value = value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry, arrays) for entry in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(entry, arrays) for key, entry in value.items()}
    raise TypeError


def _registered_arguments(env_id: str, kwargs: Mapping[str, Any]) -> set[str]:
    """Names of the arguments that are the very ones of the registered id."""
    registered = getattr(sys.modules.get("gymnasium"), "registry", {}).get(env_id)
    return set() if registered is None else {name for name in kwargs if registered.kwargs.get(name) is kwargs[name]}


def alterations(spec: Any) -> dict[str, Any]:
    """Find what makes another task of a specification than its registered id; empty where it is that task.

    spec: as `plain_env_spec` takes it. An id that is not registered here is compared with nothing, and a wrapper that
    is not Gymnasium's counts as harmless. Where Gymnasium is not installed, no id is registered.
    """
    mine = plain_env_spec(spec)
    try:
        import gymnasium
    except ImportError:
        return {}
    register_mazes()
    registered = gymnasium.registry.get(mine["id"])
    if registered is None:
        return {}
    theirs = plain_env_spec(registered)
    altered = {
        name: value
        for name, value in mine["kwargs"].items()
        if name not in theirs["kwargs"] or value != theirs["kwargs"][name]
    }
    altered |= dict.fromkeys(mine["not_plain"], "?")
    if mine["max_episode_steps"] != theirs["max_episode_steps"]:
        altered["max_episode_steps"] = mine["max_episode_steps"]
    registered_too = {wrapper["name"] for wrapper in theirs["additional_wrappers"]}
    for wrapper in mine["additional_wrappers"]:
        if wrapper["name"] in (OTHER_TASK | NO_FILE) - registered_too:
            altered[wrapper["name"]] = wrapper["kwargs"]
    return altered
