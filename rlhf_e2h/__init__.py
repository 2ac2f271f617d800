"""Easy-to-hard RLHF: train reward models on easy problems, optimise policies on hard ones.

`load_policy`, `sample`, `grade`, `score` and `vote` are those of `rlhf_e2h.api`, imported when they are first used.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["grade", "load_policy", "sample", "score", "vote"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rlhf_e2h import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
