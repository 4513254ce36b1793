"""A block of environments stepped one after another, over arrays that parent and worker share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.envs.robohive import NumpyEnv

Factory = Callable[[], NumpyEnv]
Place = tuple[int, int]  # (seed, number of the environment among those of that seed)


class Arrays(NamedTuple):
    """What parent and workers exchange: one row per environment, all over one buffer."""

    action: np.ndarray  # f32 [rows, A]
    observation: np.ndarray  # f32 [rows, O]: what the policy sees next
    next_observation: np.ndarray  # f32 [rows, O]: the successor, last of its episode where that is done
    reward: np.ndarray  # f32 [rows, 1]
    rwd_sparse: np.ndarray  # f32 [rows, 1]
    terminated: np.ndarray  # bool [rows, 1]
    truncated: np.ndarray  # bool [rows, 1]
    solved: np.ndarray  # bool [rows, 1]


def byte_count(rows: int, spec: EnvSpec) -> int:
    """Size of the buffer that `map_arrays` needs."""
    return rows * (4 * (spec.action_dim + 2 * spec.observation_dim + 2) + 3)


def map_arrays(buffer: Any, rows: int, spec: EnvSpec) -> Arrays:
    """The arrays that lie in `buffer`, without a copy."""
    width = {
        "action": spec.action_dim,
        "observation": spec.observation_dim,
        "next_observation": spec.observation_dim,
    }
    arrays: list[np.ndarray] = []
    offset = 0
    for name in Arrays._fields:
        dtype = np.dtype(np.bool_ if name in ("terminated", "truncated", "solved") else np.float32)
        arrays.append(np.ndarray((rows, width.get(name, 1)), dtype, buffer, offset))
        offset += arrays[-1].nbytes
    return Arrays(*arrays)


class Chunk:
    """The environments at `places`, which own consecutive rows of the arrays.

    Raises:
        RuntimeError: an environment cannot be built, reset or stepped; the message names it and says why.
    """

    def __init__(self, name: str, factory: Factory, places: Sequence[Place]) -> None:
        self.name, self.places, self.envs = name, places, dict[int, NumpyEnv]()
        for row, place in enumerate(places):
            try:
                self.envs[row] = factory()
            except Exception as error:
                raise _named(error, name, place) from error
        self.spec = self.envs[0].spec
        self.started = False

    def attach(self, arrays: Arrays, first_row: int) -> None:
        """Read and write the rows of `arrays` from `first_row` on."""
        rows = slice(first_row, first_row + len(self.places))
        self.arrays = Arrays(*(array[rows] for array in arrays))

    def obey(self, command: str, values: Sequence[int] | None) -> None:
        """Do "reset" (with a seed for each environment, or none), "step", or "keep" (with a 0 or 1 for each)."""
        if command == "reset":
            self.reset(values)
        elif command == "keep":
            self.keep(values or ())
        else:
            self.step()

    def keep(self, wanted: Sequence[int]) -> None:
        """Close the environments that are not wanted; their rows stay as they are from now on."""
        for row in [row for row in self.envs if not wanted[row]]:
            self.envs.pop(row).close()

    def reset(self, seeds: Sequence[int] | None) -> None:
        """Start an episode everywhere; without seeds the first reset seeds each environment by its place."""
        for row, env in self.envs.items():
            place = self.places[row]
            seed = seeds[row] if seeds is not None else None if self.started else stream_seed(place)
            try:
                self.arrays.observation[row] = env.reset(seed)
            except Exception as error:
                raise _named(error, self.name, place) from error
        self.started = True

    def step(self) -> None:
        """Step every environment with its row of `action`; where the episode is done, start the next one."""
        action, observation, following, reward, rwd_sparse, terminated, truncated, solved = self.arrays
        for row, env in self.envs.items():
            try:
                result = env.step(action[row].copy())
                following[row] = result.observation
                done = result.terminated or result.truncated
                observation[row] = env.reset() if done else result.observation
            except Exception as error:
                raise _named(error, self.name, self.places[row]) from error
            reward[row], rwd_sparse[row] = result.reward, result.rwd_sparse
            terminated[row], truncated[row], solved[row] = result.terminated, result.truncated, result.solved

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            env.close()


def stream_seed(place: Place) -> int:
    """The seed of the environment at `place`, of its first episode and all that follow."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])


def _named(error: Exception, name: str, place: Place) -> RuntimeError:
    """What an environment raised, in one line that says which one it was."""
    return RuntimeError(f"{name}, seed {place[0]}, environment {place[1]}: {type(error).__name__}: {error}")
