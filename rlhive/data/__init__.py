"""Recorded episodes: RoboHive's Trace, RoboSet and Minari, and transitions made of them; names load on first use."""

from importlib import import_module
from typing import Any

_HOME = {"load_dataset": "cache", "Dataset": "dataset", "DatasetSpec": "dataset", "Episode": "episode"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
