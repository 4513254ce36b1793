"""A block of environments stepped one after another, on arrays that parent and worker share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.envs.interface import NumpyEnv, NumpyPixelEnv
from rlhive.envs.rewind import keeps_hidden_state

Factory = Callable[[], NumpyEnv]
Place = tuple[int, int]  # (seed, number of the environment among those of that seed)


class Arrays(NamedTuple):
    """What parent and workers exchange: one row per environment, all in one buffer."""

    action: np.ndarray  # f32 [rows, A]
    observation: np.ndarray  # f32 [rows, O]: what the policy sees next
    next_observation: np.ndarray  # f32 [rows, O]: the true successor, the last of its episode if that ended
    reward: np.ndarray  # f32 [rows, 1]
    rwd_sparse: np.ndarray  # f32 [rows, 1]
    depth: np.ndarray  # f32 [rows, cameras, H, W]: depth of `pixels`; [rows, 0] without depth
    next_depth: np.ndarray  # f32 [rows, cameras, H, W]: depth of `next_pixels`; [rows, 0] without depth
    terminated: np.ndarray  # bool [rows, 1]
    truncated: np.ndarray  # bool [rows, 1]
    solved: np.ndarray  # bool [rows, 1]
    pixels: np.ndarray  # u8 [rows, cameras, H, W, C]: what the policy sees next; [rows, 0] without images
    next_pixels: np.ndarray  # u8 [rows, cameras, H, W, C]: written only when an episode ends, stale otherwise


def byte_count(rows: int, spec: EnvSpec) -> int:
    """Size of the buffer that `map_arrays` needs."""
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in _layout(rows, spec))


def map_arrays(buffer: Any, rows: int, spec: EnvSpec) -> Arrays:
    """The arrays in `buffer`, without a copy."""
    arrays: list[np.ndarray] = []
    offset = 0
    for dtype, shape in _layout(rows, spec):
        arrays.append(np.ndarray(shape, dtype, buffer, offset))
        offset += arrays[-1].nbytes
    return Arrays(*arrays)


def _layout(rows: int, spec: EnvSpec) -> list[tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of each array; floats come first, which keeps them aligned."""
    image = (0,) if spec.pixels is None else spec.pixels.shape
    depth = image[:3] if spec.pixels is not None and spec.pixels.depth else (0,)
    widths: dict[str, tuple[int, ...]] = {
        "action": (spec.action_dim,),
        "observation": (spec.observation_dim,),
        "next_observation": (spec.observation_dim,),
        "depth": depth,
        "next_depth": depth,
        "pixels": image,
        "next_pixels": image,
    }
    types = dict.fromkeys(("terminated", "truncated", "solved"), "bool")
    types |= dict.fromkeys(("pixels", "next_pixels"), "uint8")
    return [
        (np.dtype(types.get(name, "float32")), (rows, *widths.get(name, (1,)))) for name in Arrays._fields
    ]


class Chunk:
    """The environments at `places`, which own consecutive rows of the arrays.

    Raises:
        RuntimeError: an environment cannot be built, reset or stepped; the message names it and says why.
    """

    def __init__(self, name: str, factory: Factory, places: Sequence[Place]) -> None:
        self.name, self.places, self.envs = name, places, dict[int, NumpyEnv]()
        try:
            for row in range(len(places)):
                with self._naming(row):
                    self.envs[row] = _build(factory)
        except BaseException:
            self.close()
            raise
        self.spec = self.envs[0].spec
        self.episodes = [-1] * len(places)  # number of the current episode in each environment's own stream

    def attach(self, arrays: Arrays, first_row: int) -> None:
        """Read and write the rows of `arrays` from `first_row` on."""
        rows = slice(first_row, first_row + len(self.places))
        self.arrays = Arrays(*(array[rows] for array in arrays))

    def obey(self, command: str, values: Sequence[Any] | None) -> None:
        """Do "reset", "resume", "keep" or "step".

        Args:
            command: the name of the method.
            values: its argument, one value per environment; None for "step", and for a "reset" without seeds.
        """
        commands: dict[str, Callable[[Any], None]] = {
            "reset": self.reset,
            "resume": self.resume,
            "keep": self.keep,
        }
        if command in commands:
            commands[command](values)
        else:
            self.step()

    def keep(self, wanted: Sequence[int]) -> None:
        """Close the environments that are not wanted; their rows no longer change."""
        for row in [row for row in self.envs if not wanted[row]]:
            self.envs.pop(row).close()

    def reset(self, seeds: Sequence[int] | None) -> None:
        """Start an episode everywhere; without seeds, the next one of each environment's own stream."""
        for row, env in self.envs.items():
            with self._naming(row):
                self.arrays.observation[row] = (
                    self._next_episode(row) if seeds is None else env.reset(seeds[row])
                )
                self._draw(row, env, self.arrays.pixels, self.arrays.depth)

    def resume(self, values: Sequence[tuple[int, np.ndarray]]) -> None:
        """Bring every environment back into its episode of this number by repeating its actions, `[elapsed, A]`."""
        for row, env in self.envs.items():
            self.episodes[row], actions = values[row]
            with self._naming(row):
                observation = env.reset(episode_seed(self.places[row], self.episodes[row]))
                for action in actions:
                    if self.spec.pixels is not None and self.spec.pixels.frames > 1:
                        self._draw(row, env, self.arrays.pixels, self.arrays.depth)
                    observation = env.step(action).observation
                self.arrays.observation[row] = observation
                self._draw(row, env, self.arrays.pixels, self.arrays.depth)

    def step(self) -> None:
        """Step every environment with its row of `action`; if its episode ends, start the next one."""
        arrays = self.arrays
        for row, env in self.envs.items():
            with self._naming(row):
                result = env.step(arrays.action[row].copy())
                arrays.next_observation[row] = result.observation
                if result.terminated or result.truncated:
                    self._draw(row, env, arrays.next_pixels, arrays.next_depth)
                    arrays.observation[row] = self._next_episode(row)
                else:
                    arrays.observation[row] = result.observation
                self._draw(row, env, arrays.pixels, arrays.depth)
            arrays.reward[row], arrays.rwd_sparse[row] = result.reward, result.rwd_sparse
            arrays.terminated[row], arrays.truncated[row] = result.terminated, result.truncated
            arrays.solved[row] = result.solved

    def _next_episode(self, row: int) -> np.ndarray:
        """The first observation of the next episode of an environment's own stream, which has its own seed.

        Environments that carry state between episodes, such as tired muscles, are seeded at their first episode only.
        """
        self.episodes[row] += 1
        goes_on = self.episodes[row] > 0 and keeps_hidden_state(self.spec.name)
        seed = None if goes_on else episode_seed(self.places[row], self.episodes[row])
        return self.envs[row].reset(seed)

    def _draw(self, row: int, env: NumpyEnv, pixels: np.ndarray, depth: np.ndarray) -> None:
        if self.spec.pixels is not None:
            cast(NumpyPixelEnv, env).render(pixels[row], depth[row] if self.spec.pixels.depth else None)

    def _naming(self, row: int) -> _Naming:
        seed, number = self.places[row]
        return _Naming(f"{self.name}, seed {seed}, environment {number}")

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            env.close()


# Not a contextlib.contextmanager, which would let a StopIteration through unchanged.
class _Naming:
    """Turns what an environment raises into one line that names the environment."""

    def __init__(self, which: str) -> None:
        self._which = which

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            raise RuntimeError(f"{self._which}: {type(error).__name__}: {error}") from error


def episode_seed(place: Place, number: int) -> int:
    """The seed of episode `number`, counted from 0, of the environment at `place`."""
    return int(np.random.SeedSequence((*place, number)).generate_state(1, np.uint64)[0])


def _build(factory: Factory) -> NumpyEnv:
    env = factory()
    if not isinstance(getattr(env, "spec", None), EnvSpec):
        raise ValueError(f"the factory must return a NumpyEnv whose spec is an EnvSpec, got {env!r}")
    return env
