"""RoboHive environments and the robot models they need; each name is imported at its first use."""

from typing import TYPE_CHECKING

from rlhive.lazy import attach

_HOME = {
    "make": "rlhive.envs.robohive",
    "RoboHiveEnv": "rlhive.envs.torchrl_env",
    "RoboHive": "rlhive.envs.robohive",
    "env_spec": "rlhive.envs.robohive",
    "VectorEnv": "rlhive.envs.vector",
    "list_names": "rlhive.envs.names",
    "check_name": "rlhive.envs.names",
}

__all__ = [*_HOME]
if TYPE_CHECKING:
    from rlhive.envs.names import check_name as check_name
    from rlhive.envs.names import list_names as list_names
    from rlhive.envs.robohive import RoboHive as RoboHive
    from rlhive.envs.robohive import env_spec as env_spec
    from rlhive.envs.robohive import make as make
    from rlhive.envs.torchrl_env import RoboHiveEnv as RoboHiveEnv
    from rlhive.envs.vector import VectorEnv as VectorEnv
else:
    __getattr__, __dir__ = attach(__name__, _HOME)
