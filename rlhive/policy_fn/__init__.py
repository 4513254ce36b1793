"""Policies: networks as pure functions, exploration, loading what was trained; names load on first use."""

from typing import TYPE_CHECKING

from rlhive.lazy import attach

_HOME = {
    "load": "rlhive.policy_fn.loading",
    "Policy": "rlhive.policy_fn.policy",
    "LoadError": "rlhive.core.errors",
    "POLICY_KEYS": "rlhive.algorithms",
}

__all__ = [*_HOME]
if TYPE_CHECKING:
    from rlhive.algorithms import POLICY_KEYS as POLICY_KEYS
    from rlhive.core.errors import LoadError as LoadError
    from rlhive.policy_fn.loading import load as load
    from rlhive.policy_fn.policy import Policy as Policy
else:
    __getattr__, __dir__ = attach(__name__, _HOME)
