"""A trained policy in a control loop, on a RoboHive robot or its simulation; names load on first use."""

from importlib import import_module
from typing import Any

_HOME = {
    "run": "loop",
    "Report": "loop",
    "Settings": "settings",
    "FaultError": "safety",
    "connect": "connecting",
    "simulate": "connecting",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
