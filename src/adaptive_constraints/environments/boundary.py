"""The one place where environments of other people are stepped: what they answer is checked, then trusted.

An environment that does not keep Gymnasium's interface would otherwise fail with a bare error from inside a loop, or
give numbers that mean something else: a reset that returns two numbers is not an observation and a dictionary.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import AdaptiveConstraintsError, EvaluationError
from adaptive_constraints.support.outside import DISCRETE, PIXELS

if TYPE_CHECKING:
    from adaptive_constraints.environments.making import Environment

LARGEST_SEED = 2**31 - 1
"""Many environments keep a seed as int32."""
_OLD = (
    "This is the interface of gym before Gymnasium: wrap it (shimmy's GymV21CompatibilityV0, or a gymnasium.Wrapper of "
    "your own) and pass a function that makes the wrapped environment"
)
_FLAT = (
    "Wrap the environment (gymnasium.wrappers.FlattenObservation flattens observations, FlattenKeys of "
    "adaptive_constraints.environments.flat_observations chosen parts of them) and pass a function that makes it"
)
_DICT = (
    "On the command line, such an environment can be named where the data says how its dictionaries become vectors, as "
    "sets of Minari and what was recorded in FlattenKeys do"
)
_WRAP = "Mend it, or wrap it (gymnasium.Wrapper) and pass a function that makes the wrapped environment"

_DRAW = "Without a screen MuJoCo draws where MUJOCO_GL is set to egl or osmesa, and that library is installed"


class EnvironmentWarning(UserWarning):
    """An environment differs from that of the data, or does something doubtful; results may not be what they seem."""


_LARGEST = np.float64(np.finfo(np.float32).max)
"""Greatest magnitude of an observation or a reward."""
_IN_USE: WeakValueDictionary[int, CheckedEnv] = WeakValueDictionary()
"""Environments that are not closed, by the `id` of what they hold once its wrappers are taken off."""


class CheckedEnv:
    """One environment whose answers are what Gymnasium promises; `EvaluationError` says what is not.

    name: what messages call it; by default what its `repr` says.
    """

    def __init__(self, env: Environment, name: str = "") -> None:
        self.env, self.name = env, name or repr(env)
        self._check_spaces()
        observation: Any = env.observation_space
        action: Any = env.action_space
        self.observation_size: int = observation.shape[0]
        self.action_size: int = action.shape[0]
        self.low: NDArray[Any] = action.low
        """[A] the smallest actions that it takes."""
        self.high: NDArray[Any] = action.high
        self.action_type: Any = action.dtype
        spec: Any = getattr(env, "spec", None)
        self.spec = spec if isinstance(getattr(spec, "id", None), str) else None
        """Gymnasium's EnvSpec; None for an environment that is not registered."""
        floating = observation.dtype.kind == "f"
        self.observation_type: Any = observation.dtype if floating else np.dtype(np.float64)
        """Floating, and such that it holds all that the space's own type does."""
        self._check_new()

    @property
    def time_limit(self) -> int | None:
        """Steps after which an episode ends by itself, as far as its specification says so."""
        return getattr(self.spec, "max_episode_steps", None)

    def _check_spaces(self) -> None:
        import gymnasium

        for role in ("observation", "action"):
            space = getattr(self.env, f"{role}_space", None)
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                remedy = _OLD if type(space).__module__.partition(".")[0] == "gym" else _FLAT
                if isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete) and role == "action":
                    remedy = f"Here {DISCRETE}"
                elif isinstance(space, gymnasium.spaces.Box) and len(space.shape) > 1 and role == "observation":
                    remedy = f"Here {PIXELS}. {_FLAT}"
                elif isinstance(space, gymnasium.spaces.Dict):
                    remedy = f"{_FLAT}. {_DICT}"
                self._refuse(
                    f"{role} space is {space}, but a one-dimensional Box of gymnasium.spaces is needed", remedy
                )
        kind = self.env.action_space.dtype
        if kind is None or kind.kind != "f":
            self._refuse(f"actions are of type {kind}, but policies answer real numbers, which would be cut off", _WRAP)

    def reset(self, **options: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode: the observation [D] and what else there is to know."""
        try:
            answer: Any = self.env.reset(**options)
        except Exception as error:
            self._raised("reset", error)
        if not (isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[1], dict)):
            self._refuse(f"reset returned {_short(answer)} instead of an observation and a dictionary", _OLD)
        return self._observation(answer[0], "reset"), answer[1]

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """One step: observation [D], reward, terminated, truncated, and what else there is to know."""
        try:
            answer: Any = self.env.step(action)
        except Exception as error:
            self._raised("step", error)
        if not (isinstance(answer, tuple | list) and len(answer) == 5):
            count = f"{len(answer)} values" if isinstance(answer, tuple | list) else _short(answer)
            self._refuse(
                f"step returned {count} instead of five (observation, reward, terminated, truncated, info)", _OLD
            )
        observation, reward, terminated, truncated, info = answer
        return (
            self._observation(observation, "step"),
            self._reward(reward),
            terminated if terminated is True or terminated is False else self._flag(terminated, "terminated"),
            truncated if truncated is True or truncated is False else self._flag(truncated, "truncated"),
            info,
        )

    def frame(self) -> NDArray[np.uint8]:
        """What it looks like now: [H, W, 3], red, green and blue."""
        try:
            answer: Any = self.env.render()
        except Exception as error:
            text = f"its render raised {type(error).__name__}: {error}"
            raise EvaluationError(f"{self.name} cannot be filmed: {' '.join(text.split())[:500]}. {_DRAW}") from error
        frame = np.asarray(answer)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            given = f"an array of shape {frame.shape} and type {frame.dtype}"
            self._refuse(f"render returned {given}, but [height, width, 3] of uint8 is needed", _WRAP)
        return frame

    def _check_new(self) -> None:
        """Refuse an environment that another one of these is using: each would step what the other one reads."""
        base = getattr(self.env, "unwrapped", self.env)
        if id(base) in _IN_USE:
            raise EvaluationError(
                f"{self.name}: a function returned an environment that is in use already, for another episode, seed or "
                "purpose. Let it make a new one at each call: lambda: gymnasium.make(...)"
            )
        _IN_USE[id(base)] = self

    def close(self) -> None:
        """Close it; one that fails at that says so, and no result is lost."""
        base = id(getattr(self.env, "unwrapped", self.env))
        if _IN_USE.get(base) is self:
            del _IN_USE[base]
        try:
            getattr(self.env, "close", lambda: None)()
        except Exception as error:
            text = f"{self.name}: closing it raised {type(error).__name__}: {error}"
            warnings.warn(text, EnvironmentWarning, stacklevel=2)

    def _observation(self, given: Any, where: str) -> NDArray[Any]:
        array = self._array(given, where)
        if array.shape != (self.observation_size,) or array.dtype.kind not in "fiub":
            self._refuse(
                f"{where} returned an observation of shape {array.shape} and type {array.dtype}, but its space is "
                f"{self.env.observation_space}",
                _WRAP,
            )
        if array.dtype.kind == "f" and not (np.abs(array) <= _LARGEST).all():
            at = np.flatnonzero(~(np.abs(array) <= _LARGEST)).tolist()
            what = "beyond what float32 holds" if np.isfinite(array).all() else "not finite"
            self._refuse(f"{where} returned an observation that is {what} (dimensions {at})", _WRAP)
        return array

    def _reward(self, given: Any) -> float:
        if type(given) is not float:
            array = self._array(given, "step")
            if array.size != 1 or array.dtype.kind not in "fiub":
                self._refuse(f"step returned the reward {_short(given)}, but one number is needed", _WRAP)
            given = float(array.item())
        if not abs(given) <= _LARGEST:
            what = ", which is beyond what float32 holds" if math.isfinite(given) else ""
            self._refuse(f"step returned the reward {given}{what}", _WRAP)
        return given

    def _flag(self, given: Any, name: str) -> bool:
        array = self._array(given, "step")
        if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
            self._refuse(f"step returned {name} = {_short(given)}, but true or false is needed", _WRAP)
        return bool(array.item())

    def _array(self, given: Any, where: str) -> NDArray[Any]:
        try:
            return np.asarray(given)
        except Exception as error:
            self._raised(where, error)

    def _raised(self, where: str, error: Exception) -> NoReturn:
        if isinstance(error, AdaptiveConstraintsError):
            raise error
        text = f"{type(error).__name__}: {error}"
        old = isinstance(error, TypeError | ValueError) and any(
            word in str(error) for word in ("unexpected keyword argument", "unpack")
        )
        raise EvaluationError(
            f"{self.name}: its {where} raised {' '.join(text.split())[:500]}. {_OLD if old else _WRAP}"
        ) from error

    def _refuse(self, text: str, remedy: str) -> NoReturn:
        raise EvaluationError(f"{self.name}: its {text}. {remedy}")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
