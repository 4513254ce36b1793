"""Policies: networks as pure functions, exploration, loading what was trained; names load on first use."""

from importlib import import_module
from typing import Any

_HOME = {
    "load": "rlhive.policy_fn.loading",
    "Policy": "rlhive.policy_fn.loading",
    "LoadError": "rlhive.policy_fn.loading",
    "POLICY_KEYS": "rlhive.losses_fn",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
