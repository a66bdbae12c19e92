"""Name the environment of a source in words, to tell tasks apart."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptive_constraints.environments.making import EnvSource, RecordedEnv, make_environment
from adaptive_constraints.environments.maze_tasks import register_mazes
from adaptive_constraints.environments.specs import WATCHING


def environment_text(source: EnvSource) -> str:
    """Name the environment of a source in words, such that two tasks have two names as far as that can be seen.

    That is the id and whatever is made otherwise than it is registered, wrappers included. A function is called once:
    an environment that is not registered is named by its classes and time limits, so other settings of such a class,
    or of a wrapper that keeps none (`gymnasium.utils.RecordConstructorArgs`), are not seen.
    """
    if isinstance(source, str | RecordedEnv):
        return str(source)
    env = make_environment(source)
    try:
        spec: Any = getattr(env, "spec", None)
        return _spec_text(spec) if isinstance(getattr(spec, "id", None), str) else _class_text(env)
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _spec_text(spec: Any) -> str:
    """The id, settings other than the registered ones, and every wrapper from the inside out."""
    import gymnasium

    register_mazes()
    registered: Any = gymnasium.registry.get(spec.id)
    known = {} if registered is None else registered.kwargs
    settings = {
        name: _value_text(value)
        for name, value in (spec.kwargs or {}).items()
        if name != "render_mode" and (name not in known or _value_text(value) != _value_text(known[name]))
    }
    if registered is None or spec.max_episode_steps != registered.max_episode_steps:
        settings["max_episode_steps"] = _value_text(spec.max_episode_steps)
    wrappers = [
        f"{wrapper.name}({_value_text(wrapper.kwargs)})"
        for wrapper in spec.additional_wrappers or ()
        if wrapper.name not in WATCHING
    ]
    other = [*(f"{name}={text}" for name, text in sorted(settings.items())), *wrappers]
    return f"{spec.id} ({', '.join(other)})" if other else str(spec.id)


def _value_text(value: Any) -> str:
    """A setting such that equal ones have equal texts; of what has no text of its own, its type."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_value_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    named = value if isinstance(value, type) or callable(value) else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', type(value).__name__)}"


def _class_text(env: Any) -> str:
    """Its classes from the inside out, those that only watch left out."""
    layers = [env]
    while (inner := getattr(layers[-1], "env", None)) is not None and inner not in layers:
        layers.append(inner)
    names = []
    for layer in reversed(layers):
        kind = type(layer)
        if kind.__module__.partition(".")[0] == "gymnasium" and kind.__qualname__ in WATCHING:
            continue
        kept = getattr(layer, "_saved_kwargs", None)  # of gymnasium.utils.RecordConstructorArgs
        settings = f"({_value_text(kept)})" if isinstance(kept, Mapping) else ""
        names.append(f"{kind.__module__}.{kind.__qualname__}{settings}")
    return f"a function that makes {' in '.join(names)}"
