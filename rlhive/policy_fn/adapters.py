"""A loaded policy in the forms that RoboHive's and TorchRL's own tools ask for."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from tensordict.nn import TensorDictModule

from rlhive.policy_fn.loading import load
from rlhive.policy_fn.policy import Policy

POLICY_VARIABLE = "RLHIVE_POLICY"


class RoboHivePolicy:
    """RoboHive's protocol, `get_action(observation)`.

    `robohive.utils.examine_env` makes it from its name:

        RLHIVE_POLICY=BUNDLE python -m robohive.utils.examine_env -e FrankaReachRandom-v0 -r none \
            -p rlhive.policy_fn.adapters.RoboHivePolicy

    Args:
        env: the environment it is to act in.
        seed: of the noise of exploring actions.
        policy: the policy; without one the bundle or run that `RLHIVE_POLICY` names.

    Raises:
        ValueError: no policy is named, or the environment is not the one it was trained on; names every difference.
    """

    def __init__(self, env: Any, seed: int, policy: Policy | None = None) -> None:
        if policy is None and POLICY_VARIABLE not in os.environ:
            raise ValueError(f"no policy is named: set {POLICY_VARIABLE} to the directory of a bundle or run")
        self.policy = policy or load(os.environ[POLICY_VARIABLE])
        if differences := self.policy.check(env):
            raise ValueError(f"the policy does not fit the environment: {'; '.join(differences)}")
        self._rng = np.random.default_rng(seed)

    def get_action(self, observation: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The exploring action `[A]`, and `{"evaluation": the deterministic one}`, for an observation `[O]`."""
        if isinstance(observation, tuple):  # as gymnasium's reset returns it
            observation = observation[0]
        noise = self._rng.standard_normal(self.policy.spec.env.action_dim, np.float32)
        return self.policy(observation, noise), {"evaluation": self.policy(observation)}


def as_module(policy: Policy) -> TensorDictModule:
    """The deterministic policy for TorchRL's rollouts and collectors: reads "observation", writes "action"."""
    return TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])
