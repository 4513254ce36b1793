"""A trained policy in a control loop, on a RoboHive robot or its simulation; names load on first use."""

from rlhive.lazy import attach

_HOME = {
    "run": "rlhive.deploy.loop",
    "Report": "rlhive.deploy.reporting",
    "Settings": "rlhive.deploy.settings",
    "FaultError": "rlhive.deploy.safety",
    "connect": "rlhive.deploy.connecting",
    "simulate": "rlhive.deploy.connecting",
}

__all__ = [*_HOME]
__getattr__, __dir__ = attach(__name__, _HOME)
