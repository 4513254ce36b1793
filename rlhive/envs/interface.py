"""What `VectorEnv` asks of an environment: plain numpy, one episode after another."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple, Protocol

import numpy as np

from rlhive.core.env_spec import EnvSpec


class StepResult(NamedTuple):
    """What one step leads to; `observation` is f32 [O], the rewards are RoboHive's, unscaled."""

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    solved: bool
    rwd_sparse: float


class NumpyEnv(Protocol):
    """An environment without images; `VectorEnv` resets it before its first step and after all that end an episode."""

    spec: EnvSpec

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode and return its first observation, f32 [O].

        Args:
            seed: 0 to 2**64 - 1, which alone determines the episode; None for the next in the environment's own stream.
        """

    def step(self, action: np.ndarray) -> StepResult:
        """Take one step with `action` f32 [A], which is finite and may exceed the limits in `spec`."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


class NumpyPixelEnv(NumpyEnv, Protocol):
    """An environment whose spec has images, which `render` draws after each reset and step."""

    def render(self, out: np.ndarray | None = None, depth: np.ndarray | None = None) -> np.ndarray:
        """Draw the present state and return it, u8 [cameras,H,W,C] as in `spec.pixels`.

        Args:
            out: where to, u8 [cameras,H,W,C]; None for a new array.
            depth: where the distances in metres go, f32 [cameras,H,W]; None for none.
        """


def check_seed(seed: int) -> None:
    """Nothing for a seed of environments.

    Raises:
        ValueError: not a whole number from 0 on.
    """
    if not (isinstance(seed, Integral) and seed >= 0):
        raise ValueError(f"a seed must be a whole number from 0 on, got {seed!r}")
