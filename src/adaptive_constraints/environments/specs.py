"""Environments by id, by function, or as a data set describes them; what a file says never chooses code.

Gymnasium imports the module of an id such as ``module:Name-v0``, and whatever a specification names as an entry point.
That is right for what the user writes, and wrong for what stands in a data set, an agent or a run folder: those name an
id that is registered already, settings for it, and wrappers of Gymnasium's own. Gymnasium is imported when the first
environment is made.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from adaptive_constraints.environments.maze_tasks import register_mazes
from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError, DependencyError, EvaluationError

if TYPE_CHECKING:
    import gymnasium

    Environment: TypeAlias = gymnasium.Env[Any, Any]

#: A Gymnasium id ("Hopper-v5", "module_that_registers:Name-v0"), or a function that makes one environment.
EnvSource: TypeAlias = "str | Callable[[], Environment]"

PACKAGES = ("gymnasium_robotics", "ogbench")
"""Packages that may be imported because a file names an environment of theirs."""
_WATCHING = {
    "HumanRendering",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
}
"""Wrappers of Gymnasium that change nothing a policy or a return could tell; they are left out."""
_SAME_TASK = {
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
_OTHER_TASK = {"ClipReward", "DelayObservation", "MaxAndSkipObservation", "RepeatAction", "StickyAction"}
"""Wrappers that make another task of it."""
_NO_FILE = {"AtariPreprocessing", "NormalizeReward", "TransformReward"}
"""Wrappers that do so too, and that a file cannot rebuild: they hold functions or what an environment went through."""
_REMEDY = (
    "Pass the environment yourself: an id such as 'module:Name-v0' or a function that makes one (fit: eval_env=, "
    "finetune and evaluate: env=; on the command line --eval-env or --env with an id, whose module may be imported)"
)


# -- specifications ---------------------------------------------------------------------------------------------------


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
        if wrapper["name"] in (_OTHER_TASK | _NO_FILE) - registered_too:
            altered[wrapper["name"]] = wrapper["kwargs"]
    return altered


# -- making -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RecordedEnv:
    """The environment that a data set, an agent or a run folder names; calling it makes one.

    env_id: its id, which must be registered here, or be one of gymnasium-robotics or OGBench.
    spec: how it was made (`plain_env_spec`); None: as the id is registered.
    """

    env_id: str
    spec: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        """The id, and what it is given otherwise than it is registered with."""
        with contextlib.suppress(AdaptiveConstraintsError, ImportError):
            _register(self.env_id)
            other = {} if self.spec is None else alterations(self.spec)
            return f"{self.env_id} ({', '.join(f'{k}={v}' for k, v in other.items())})" if other else self.env_id
        return self.env_id

    def __call__(self, **options: Any) -> Environment:
        """Make one; raises `EvaluationError` that names what cannot be rebuilt.

        options: for Gymnasium's ``make``, such as ``render_mode``.
        """
        registered = copy.deepcopy(self._registered())
        if self.spec is None:
            return _gymnasium_make(registered, self.env_id, **options)
        try:
            spec = plain_env_spec(self.spec)
        except DatasetError as error:
            raise EvaluationError(f"{self.env_id}: {error}. {_REMEDY}") from error
        self._check_arguments(spec)
        registered.kwargs = {**registered.kwargs, **spec["kwargs"]}
        registered.max_episode_steps = spec["max_episode_steps"]
        env = _gymnasium_make(registered, self.env_id, **options)
        try:
            return self._wrapped(env, _counting(spec["additional_wrappers"]))
        except BaseException:
            env.close()
            raise

    def _registered(self) -> Any:
        """The specification that is registered for the id, without importing anything that the file could choose."""
        import gymnasium

        _register(self.env_id)
        registered = gymnasium.registry.get(self.env_id.rpartition(":")[2])
        if registered is None:
            module = self.env_id.rpartition(":")[0] or "MODULE"
            raise EvaluationError(
                f"the data was recorded in {self.env_id!r}, which is not registered here; a file cannot have a module "
                f"imported ({' and '.join(PACKAGES)} are, where they are installed). Import the module that registers "
                f"it first, on the command line by --imports {module}, and it is made as it was recorded; or "
                f"name another. {_REMEDY}"
            )
        return registered

    def _check_arguments(self, spec: Mapping[str, Any]) -> None:
        if spec["not_plain"]:
            raise EvaluationError(
                f"the data was recorded in {self.env_id!r} with arguments that no file can hold "
                f"({', '.join(spec['not_plain'])}), so it cannot be rebuilt. {_REMEDY}"
            )
        for name, value in spec["kwargs"].items():
            if any(_MODULE.match(text) for text in _texts(value)):
                raise EvaluationError(
                    f"the data was recorded in {self.env_id!r} with {name}={value!r}, which reads like the name of "
                    f"code; a file cannot choose code. {_REMEDY}"
                )

    def _wrapped(self, env: Environment, wrappers: list[Mapping[str, Any]]) -> Environment:
        """The environment in the wrappers that were recorded, but for those it has already."""
        import gymnasium

        made = [] if env.spec is None else _counting(plain_env_spec(env.spec)["additional_wrappers"])
        names, has = ([wrapper["name"] for wrapper in several] for several in (wrappers, made))
        if names[: len(has)] != has:
            raise EvaluationError(
                f"the data was recorded in {self.env_id!r} in the wrappers {', '.join(names) or 'none'}, but here it "
                f"is made in {', '.join(has)}. {_REMEDY}"
            )
        for wrapper in wrappers[len(has) :]:
            name, kwargs = wrapper["name"], wrapper["kwargs"]
            own = re.fullmatch(rf"gymnasium\.wrappers[\w.]*:{re.escape(name)}", wrapper["entry_point"])
            ours = FLATTEN_KEYS.get(name) == wrapper["entry_point"]
            if not (ours or (own and name in _SAME_TASK | _OTHER_TASK)) or kwargs is None:
                raise EvaluationError(
                    f"the data was recorded in {self.env_id!r} in the wrapper {wrapper['entry_point']}, which cannot "
                    f"be rebuilt from a file (wrappers that can: {', '.join(sorted(_SAME_TASK | _OTHER_TASK))}). "
                    f"{_REMEDY}"
                )
            if name.startswith("Rescale"):  # which warns of numbers in double precision
                kwargs = {key: np.asarray(value, np.float32)[()] for key, value in kwargs.items()}
            try:
                module = import_module(FLATTEN_KEYS[name].partition(":")[0]) if ours else gymnasium.wrappers
                env = getattr(module, name)(env, **kwargs)
            except Exception as error:
                raise EvaluationError(f"{self.env_id}: {name} with {kwargs} fails ({error}). {_REMEDY}") from error
        return env


def _counting(wrappers: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [wrapper for wrapper in wrappers if wrapper["name"] not in _WATCHING]


_MODULE = re.compile(r"\s*\w+(\.\w+)*\s*:(?![/\\])")
"""A module to import before whatever follows is looked at; no address and no Windows path."""


def _texts(value: Any) -> Iterator[str]:
    """Every text in a tree of plain values, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield key
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _register(env_id: str) -> None:
    """Make an id known to Gymnasium that our mazes or one of `PACKAGES` have; any other is left as it is."""
    import gymnasium

    register_mazes()
    module, _, name = env_id.rpartition(":")
    for package in PACKAGES:
        if name not in gymnasium.registry and module in ("", package) and package not in sys.modules:
            _import_installed(package)


def _import_installed(package: str) -> None:
    """Import a package if it is installed; one that merely lies in the working directory is not seen."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if path and Path(path).resolve() != Path.cwd()]
    try:
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
            import_module(package)
    finally:
        sys.path[:] = before


class FlattenedEnv:
    """Environments of a source that the user names; dictionaries become vectors as they did in the data.

    Only where the observations are dictionaries: vectors are taken as they are.
    """

    def __init__(self, source: str | Callable[[], Environment], keys: tuple[str, ...]) -> None:
        self.source, self.keys = source, keys

    def __str__(self) -> str:
        """The id that the user names."""
        return str(self.source)

    def __call__(self, **options: Any) -> Environment:
        """Make one; raises `EvaluationError` where the dictionary has other parts than the data's."""
        env = make_environment(self.source, **options)
        from gymnasium.spaces import Dict

        if not isinstance(env.observation_space, Dict):
            return env
        flatten = import_module(FLATTEN_KEYS["FlattenKeys"].partition(":")[0]).FlattenKeys
        try:
            wrapped: Environment = flatten(env, self.keys)
        except DatasetError as error:
            env.close()
            raise EvaluationError(f"{self.source}: its observations are not those of the data: {error}") from error
        return wrapped


def named(source: EnvSource) -> str:
    """The name that a source has of itself; "" for a function."""
    inner = source.source if isinstance(source, FlattenedEnv) else source
    return str(inner) if isinstance(inner, str | RecordedEnv) else ""


def flattened(source: EnvSource, spec: Mapping[str, Any] | None) -> EnvSource:
    """The source, with its dictionaries flattened as the environment of the data (``spec``) flattens its own."""
    if isinstance(source, RecordedEnv | FlattenedEnv) or spec is None:
        return source
    for wrapper in plain_env_spec(spec)["additional_wrappers"]:
        if FLATTEN_KEYS.get(wrapper["name"]) == wrapper["entry_point"] and wrapper["kwargs"] is not None:
            return FlattenedEnv(source, tuple(wrapper["kwargs"].get("keys", ())))
    return source


def make_environment(source: EnvSource, **options: Any) -> Environment:
    """Make one environment, or say which package or spelling is missing.

    source: an id that the user wrote, whose module Gymnasium may import, or a function; a `RecordedEnv` is one.
    options: for Gymnasium's ``make``; a function of the user's takes none.

    Gymnasium's checking wrapper is left out: it costs a tenth of a step, and `CheckedEnv` checks what matters here.
    """
    try:
        import_module("gymnasium")
    except ImportError as error:
        raise DependencyError(
            "Evaluation needs gymnasium, which is not installed: pip install 'adaptive-constraints[mujoco]'."
        ) from error
    if callable(source):
        try:
            made = source(**options) if isinstance(source, RecordedEnv | FlattenedEnv) else source()
        except AdaptiveConstraintsError:
            raise
        except Exception as error:
            raise EvaluationError(f"{source!r} makes no environment: {type(error).__name__}: {error}") from error
        if not hasattr(made, "observation_space") or not hasattr(made, "action_space"):
            raise EvaluationError(f"{source!r} made {made!r}, which is no Gymnasium environment.")
        return made
    register_mazes()
    return _gymnasium_make(source, source, **options)


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
        if wrapper.name not in _WATCHING
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
        if kind.__module__.partition(".")[0] == "gymnasium" and kind.__qualname__ in _WATCHING:
            continue
        kept = getattr(layer, "_saved_kwargs", None)  # of gymnasium.utils.RecordConstructorArgs
        settings = f"({_value_text(kept)})" if isinstance(kept, Mapping) else ""
        names.append(f"{kind.__module__}.{kind.__qualname__}{settings}")
    return f"a function that makes {' in '.join(names)}"


def _gymnasium_make(what: Any, name: str, **options: Any) -> Environment:
    """Make what an id or a specification says, with errors of our own."""
    import gymnasium

    try:
        return gymnasium.make(what, disable_env_checker=True, **options)
    except DependencyError:  # an ImportError too, which would become a misspelt id below
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise DependencyError(
            f"{name} needs a package that is not installed ({error}): pip install 'adaptive-constraints[mujoco]'."
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise EvaluationError(
            f"{name} cannot be made: {error} Environments of another package are named 'module:Id', "
            "where importing the module registers the id."
        ) from error
    except Exception as error:
        raise EvaluationError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
