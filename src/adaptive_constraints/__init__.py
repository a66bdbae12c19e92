"""Composable adapters that balance offline reinforcement learning between Bellman update and constraint.

from adaptive_constraints import ASPC, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC

agent = wrap(TD3BC(critic="robust"), ASPC())
agent.fit(load_dataset("bundled:hopper"), steps=20_000, seeds=4, eval_env="auto")
"""

import importlib
from typing import TYPE_CHECKING, Any

from adaptive_constraints._version import __version__ as __version__

if TYPE_CHECKING:
    from adaptive_constraints._public import *  # noqa: F403
    from adaptive_constraints._public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """Import the public names, and torch with them, when one is asked for: --help needs none."""
        if not name.startswith("_") or name == "__all__":
            public = importlib.import_module(f"{__name__}._public")
            globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
            if name in globals():  # a room that was imported on the way, too
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
