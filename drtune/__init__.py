"""Deep reward tuning for text-to-image diffusion models. Importing this package imports nothing heavy.

    result = drtune.tune(pipe, prompts=["a cat in the rain", ...], reward=my_reward, steps=80)

docs/python.md has the whole way; the names below are loaded when they are first asked for.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drtune import rewards as rewards
    from drtune.python.result import Result as Result
    from drtune.python.result import compare_seeds as compare_seeds
    from drtune.python.result import evaluate as evaluate
    from drtune.python.tune import tune as tune

    __version__: str

__all__ = ["Result", "__version__", "compare_seeds", "evaluate", "rewards", "tune"]

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # while diffusers imports it, it advises to install a kernel


def __getattr__(name: str) -> Any:
    match name:
        case "__version__":
            return import_module("importlib.metadata").version("drtune")
        case "rewards":
            return import_module("drtune.rewards")
        case "tune":
            return import_module("drtune.python.tune").tune
        case "Result" | "compare_seeds" | "evaluate":
            return getattr(import_module("drtune.python.result"), name)
    raise AttributeError(f"module 'drtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
