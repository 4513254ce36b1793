"""Policies: networks as pure functions, exploration, loading what was trained; names load on first use."""

from rlhive.lazy import attach

_HOME = {
    "load": "rlhive.policy_fn.loading",
    "Policy": "rlhive.policy_fn.policy",
    "LoadError": "rlhive.core.errors",
    "POLICY_KEYS": "rlhive.algorithms",
}

__all__ = [*_HOME]
__getattr__, __dir__ = attach(__name__, _HOME)
