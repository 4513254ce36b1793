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
    """An environment without images."""

    spec: EnvSpec

    def reset(self, seed: int | None = None) -> np.ndarray: ...

    def step(self, action: np.ndarray) -> StepResult: ...

    def close(self) -> None: ...


class NumpyPixelEnv(NumpyEnv, Protocol):
    """An environment whose spec has images, which `render` draws."""

    def render(self, out: np.ndarray | None = None, depth: np.ndarray | None = None) -> np.ndarray: ...


def check_seed(seed: int) -> None:
    """Nothing for a seed of environments.

    Raises:
        ValueError: not a whole number from 0 on.
    """
    if not (isinstance(seed, Integral) and seed >= 0):
        raise ValueError(f"a seed must be a whole number from 0 on, got {seed!r}")
