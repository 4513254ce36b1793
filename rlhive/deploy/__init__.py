"""A trained policy in a control loop, on a RoboHive robot or its simulation; names load on first use."""

from typing import TYPE_CHECKING

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
if TYPE_CHECKING:
    from rlhive.deploy.connecting import connect as connect
    from rlhive.deploy.connecting import simulate as simulate
    from rlhive.deploy.loop import run as run
    from rlhive.deploy.reporting import Report as Report
    from rlhive.deploy.safety import FaultError as FaultError
    from rlhive.deploy.settings import Settings as Settings
else:
    __getattr__, __dir__ = attach(__name__, _HOME)
