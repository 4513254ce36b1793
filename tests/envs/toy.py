"""Tiny environments with known answers and the interface of `RoboHive`, for tests of learners.

Each class is its own picklable factory: `VectorEnv(ReachPoint, seeds=[1])`.
"""

from __future__ import annotations

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.envs.interface import StepResult


class ConstantReward:
    """Reward 1 at every step of 10, whatever happens; the observation is always 0.

    With discount gamma the value of the state with k steps left is `(1 - gamma**k) / (1 - gamma)`, and
    `1 / (1 - gamma)` where truncation does not cut the bootstrap.
    """

    name, steps, observation_dim = "ConstantReward", 10, 1

    def __init__(self) -> None:
        self.spec = _spec(self.name, self.steps, self.observation_dim)
        self._rng = np.random.default_rng()

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._elapsed = 0
        return self._start()

    def step(self, action: np.ndarray) -> StepResult:
        """Take one step with `action` f32 [1], clipped to [-1, 1]."""
        if not np.isfinite(action).all():
            raise ValueError(f"{self.spec.name}: the action must be finite, got {action}")
        self._elapsed += 1
        observation, reward, solved, terminated = self._advance(float(np.clip(action[0], -1.0, 1.0)))
        return StepResult(observation, reward, terminated, self._elapsed >= self.steps, solved, reward)

    def close(self) -> None:
        """Nothing to free."""

    def _start(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def _advance(self, action: float) -> tuple[np.ndarray, float, bool, bool]:
        """Observation, reward, solved, terminated."""
        return np.zeros(1, np.float32), 1.0, True, False


class MatchSign(ConstantReward):
    """One step: the observation is -1 or +1, the reward `action * observation`; the best return is 1.

    The best action equals the observation, and its value is 1 for both. The step terminates the episode.
    """

    name, steps = "MatchSign", 1

    def _start(self) -> np.ndarray:
        self._sign = float(self._rng.choice([-1.0, 1.0]))
        return np.array([self._sign], np.float32)

    def _advance(self, action: float) -> tuple[np.ndarray, float, bool, bool]:
        return np.zeros(1, np.float32), action * self._sign, action * self._sign > 0.5, True


class ReachPoint(ConstantReward):
    """A point on a line moves by `0.25 * action` towards a target; the reward is minus the distance after the step.

    Observation: position and target, both in [-1, 1] at the start. The best action is
    `clip(4 * (target - position), -1, 1)`, which reaches every target within 8 of the 20 steps; solved within 0.05.
    """

    name, steps, observation_dim = "ReachPoint", 20, 2

    def _start(self) -> np.ndarray:
        self._position, self._target = self._rng.uniform(-1.0, 1.0, 2)
        return self._observe()

    def _advance(self, action: float) -> tuple[np.ndarray, float, bool, bool]:
        self._position += 0.25 * action
        distance = abs(self._target - self._position)
        return self._observe(), -float(distance), bool(distance < 0.05), False

    def _observe(self) -> np.ndarray:
        return np.array([self._position, self._target], np.float32)


def _spec(name: str, steps: int, observation_dim: int) -> EnvSpec:
    return EnvSpec(
        name=name,
        observation_keys=("state",),
        observation_slices=((0, observation_dim),),
        observation_dim=observation_dim,
        action_dim=1,
        action_low=(-1.0,),
        action_high=(1.0,),
        action_names=("action",),
        dt=1.0,
        max_episode_steps=steps,
    )
