"""RoboHive environments and the robot models they need; names load on first use."""

from importlib import import_module
from typing import Any

_HOME = {
    "make": "robohive",
    "RoboHiveEnv": "torchrl_env",
    "RoboHive": "robohive",
    "env_spec": "robohive",
    "VectorEnv": "vector",
    "list_names": "names",
    "check_name": "names",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
