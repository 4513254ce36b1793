"""RoboHive environments and the robot models they need; names load on first use."""

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
__getattr__, __dir__ = attach(__name__, _HOME)
