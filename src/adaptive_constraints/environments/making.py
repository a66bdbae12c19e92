"""Make environments: by id, by function, or as a data set describes them; what a file says never chooses code.

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
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from adaptive_constraints.environments.maze_tasks import register_mazes
from adaptive_constraints.environments.specs import (
    FLATTEN_KEYS,
    OTHER_TASK,
    SAME_TASK,
    WATCHING,
    alterations,
    plain_env_spec,
)
from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError, DependencyError, EvaluationError

if TYPE_CHECKING:
    import gymnasium

    Environment: TypeAlias = gymnasium.Env[Any, Any]

#: A Gymnasium id ("Hopper-v5", "module_that_registers:Name-v0"), or a function that makes one environment.
EnvSource: TypeAlias = "str | Callable[[], Environment]"

PACKAGES = ("gymnasium_robotics", "ogbench")
"""Packages that may be imported because a file names an environment of theirs."""
_REMEDY = (
    "Pass the environment yourself: an id such as 'module:Name-v0' or a function that makes one (fit: eval_env=, "
    "finetune and evaluate: env=; on the command line --eval-env or --env with an id, whose module may be imported)"
)


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
            if not (ours or (own and name in SAME_TASK | OTHER_TASK)) or kwargs is None:
                raise EvaluationError(
                    f"the data was recorded in {self.env_id!r} in the wrapper {wrapper['entry_point']}, which cannot "
                    f"be rebuilt from a file (wrappers that can: {', '.join(sorted(SAME_TASK | OTHER_TASK))}). "
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
    return [wrapper for wrapper in wrappers if wrapper["name"] not in WATCHING]


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
