"""What `VectorEnv` expects of an environment: plain numpy, one episode after another."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple, Protocol

import numpy as np

from rlhive.core.env_spec import EnvSpec


class StepResult(NamedTuple):
    """The result of one step; `observation` is f32 [O], the rewards are RoboHive's, unscaled."""

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    solved: bool
    rwd_sparse: float


class NumpyEnv(Protocol):
    """An environment without images; `VectorEnv` resets it at first and after every step that ends an episode."""

    spec: EnvSpec

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode and return its first observation, f32 [O].

        Args:
            seed: 0 to 2**64 - 1, alone determines the episode; None for the next one in the environment's own stream.
        """

    def step(self, action: np.ndarray) -> StepResult:
        """Take one step with `action` f32 [A], finite, possibly beyond the limits in `spec`."""

    def close(self) -> None:
        """Free its resources; may be called twice."""


class NumpyPixelEnv(NumpyEnv, Protocol):
    """An environment whose spec has images, which `render` draws after each reset and step."""

    def render(self, out: np.ndarray | None = None, depth: np.ndarray | None = None) -> np.ndarray:
        """Draw the current state and return it, u8 [cameras,H,W,C] as in `spec.pixels`.

        Args:
            out: the array to draw into, u8 [cameras,H,W,C]; None for a new one.
            depth: the array to write distances in metres to, f32 [cameras,H,W]; None for no depth.
        """


def check_seed(seed: int) -> None:
    """Refuses what is not a seed of an environment.

    Raises:
        ValueError: it is not a whole number >= 0.
    """
    if not (isinstance(seed, Integral) and seed >= 0):
        raise ValueError(f"a seed must be a whole number >= 0, got {seed!r}")
