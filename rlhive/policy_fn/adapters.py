"""A loaded policy in the forms that RoboHive's and TorchRL's tools expect."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from tensordict.nn import TensorDictModule
from torch import Tensor

from rlhive.envs.cameras import open_cameras, stack_cameras
from rlhive.envs.frames import Frames
from rlhive.policy_fn.loading import load
from rlhive.policy_fn.policy import Policy

POLICY_VARIABLE = "RLHIVE_POLICY"


class RoboHivePolicy:
    """RoboHive's protocol, `get_action(observation)`.

    `robohive.utils.examine_env` creates it by its name:

        RLHIVE_POLICY=BUNDLE python -m robohive.utils.examine_env -e FrankaReachRandom-v0 -r none \
            -p rlhive.policy_fn.adapters.RoboHivePolicy

    A policy that sees images renders them itself at the quality it was trained with, since RoboHive's tools pass only
    the vector.

    Args:
        env: the environment to act in; with images, one of RoboHive's own.
        seed: seed of the exploration noise.
        policy: the policy; by default, the bundle or run that `RLHIVE_POLICY` names.

    Raises:
        ValueError: no policy is named, or the environment differs from the training one; names every difference.
    """

    def __init__(self, env: Any, seed: int, policy: Policy | None = None) -> None:
        if policy is None and POLICY_VARIABLE not in os.environ:
            raise ValueError(f"no policy is named: set {POLICY_VARIABLE} to the directory of a bundle or run")
        self.policy = policy or load(os.environ[POLICY_VARIABLE])
        if differences := self.policy.check(env):
            raise ValueError(f"the policy does not fit the environment: {'; '.join(differences)}")
        self._rng = np.random.default_rng(seed)
        self._env, self._time = getattr(env, "unwrapped", env), np.inf
        self._look = open_cameras(self._env, self.policy.spec.env)

    def get_action(self, observation: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The exploring action `[A]`, and `{"evaluation": the deterministic one}`, for an observation `[O]`."""
        if isinstance(observation, tuple):  # as gymnasium's reset returns it
            observation = observation[0]
        noise = self._rng.standard_normal(self.policy.spec.env.action_dim, np.float32)
        seen = self._see(observation)
        return self.policy(seen, noise), {"evaluation": self.policy(seen)}

    def _see(self, observation: Any) -> Any:
        env = self.policy.spec.env
        if env.pixels is None:
            return observation
        if self._env.time <= self._time:  # another episode
            self._frames = Frames(env.pixels)
        self._time = self._env.time
        parts = {key: self._env.obs_dict[key] for key in env.observation_keys}
        images = [image for image, _ in self._look().values() if image is not None]
        return {**parts, "pixels": self._frames.append(stack_cameras(images, env.pixels))}


def as_module(policy: Policy) -> TensorDictModule:
    """The deterministic policy for TorchRL: reads "observation", and "pixels" if it sees images; writes "action"."""
    if policy.spec.env.pixels is None:
        return TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])

    def act(observation: Tensor, pixels: Tensor) -> Tensor:
        action: Tensor = policy({"observation": observation, "pixels": pixels})
        return action

    return TensorDictModule(act, in_keys=["observation", "pixels"], out_keys=["action"])
