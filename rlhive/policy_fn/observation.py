"""One observation as the checked vector that a policy reads. Free of torch, since the ONNX policy uses it too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import NotFiniteError

_NUMBERS = "fiub"  # kinds of dtypes: float, int, uint, bool


def read_observation(env: EnvSpec, observation: Any) -> np.ndarray:
    """The observation as float32 `[..., O]`, in a new array, every value finite.

    Args:
        env: names the parts of the observation.
        observation: array `[..., O]`, or a mapping of arrays by the names in `env.observation_keys`, in any order,
            `[..., size of the part]`; a part of one observation may have any shape of that size. Or
            `{"observation": array [..., O]}`, as TorchRL's environments show it.

    Raises:
        NotFiniteError: naming each value that is not finite, also if only float32 cannot hold it.
        ValueError: a type, shape or key that does not fit.
    """
    if isinstance(observation, Mapping) and observation.keys() == {"observation"}:
        observation = observation["observation"]
    by_key = isinstance(observation, Mapping)
    vector = _joined(env, observation) if by_key else _as_float32(observation, "observation")
    if vector.shape[-1:] != (env.observation_dim,):
        expected = [*vector.shape[:-1], env.observation_dim]
        raise ValueError(f"observation must have shape {expected}, got {list(vector.shape)}")
    check_finite(env, vector)
    return vector


def read_seen(env: EnvSpec, observation: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """What an environment shows: the vector as in `read_observation`, and its images, or None without images.

    Args:
        env: names the parts of the observation.
        observation: as in `read_observation`; with images a mapping of "pixels" uint8 `[..., cameras, H, W, C]`, and
            beside it "observation" or the parts by their names.

    Raises:
        NotFiniteError: as in `read_observation`.
        ValueError: a type, shape or key that does not fit.
    """
    if env.pixels is None:
        return read_observation(env, observation), None
    if not isinstance(observation, Mapping) or "pixels" not in observation:
        raise ValueError(f'the observation of {env.name} must be a mapping with "pixels" and "observation"')
    # torch refuses arrays with negative strides, and warns about read-only ones, such as those of files.
    pixels, shape = np.require(observation["pixels"], requirements=["C", "W"]), env.pixels.shape
    if pixels.dtype != np.uint8 or pixels.shape[-4:] != shape:
        expected = f"uint8 [..., {', '.join(map(str, shape))}]"
        raise ValueError(f"pixels must be {expected}, got {pixels.dtype} {list(pixels.shape)}")
    vector = read_observation(env, {key: value for key, value in observation.items() if key != "pixels"})
    if pixels.shape[:-4] != vector.shape[:-1]:
        steps = f"{list(pixels.shape[:-4])} steps, the observation of {list(vector.shape[:-1])}"
        raise ValueError(f"pixels are of {steps}")
    return vector, pixels


def example_observation(env: EnvSpec) -> Any:
    """An observation of zeros."""
    vector = np.zeros(env.observation_dim, np.float32)
    return (
        vector
        if env.pixels is None
        else {"observation": vector, "pixels": np.zeros(env.pixels.shape, np.uint8)}
    )


def check_finite(env: EnvSpec, vector: np.ndarray) -> None:
    """Refuses an observation `[..., O]` that is not finite.

    Raises:
        NotFiniteError: naming each value.
    """
    if is_finite(vector):
        return
    finite = np.isfinite(vector).reshape(-1, env.observation_dim).all(0)
    names = [
        f"{key}[{index}]"
        for key, (start, stop) in zip(env.observation_keys, env.observation_slices, strict=True)
        for index in np.flatnonzero(~finite[start:stop])
    ]
    raise NotFiniteError(f"the observation is not finite at {', '.join(names)}")


def is_finite(array: np.ndarray) -> bool:
    """Whether all values are finite; for small arrays five times as fast as `np.isfinite(array).all()`."""
    flat = array.ravel()
    # The sum of squares is finite only if every number is. It may overflow for finite numbers, so then each is checked.
    # `dot` overflows silently, `@` warns.
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def _joined(env: EnvSpec, observation: Mapping[str, Any]) -> np.ndarray:
    if observation.keys() != set(env.observation_keys):
        missing = [key for key in env.observation_keys if key not in observation]
        extra = [key for key in observation if key not in env.observation_keys]
        if "observation" in extra:
            extra = [key for key in observation if key != "observation"]
            raise ValueError(f'unexpected {extra} beside "observation": leave them out')
        beside = ' beside "pixels", or "observation"' if env.pixels is not None else ""
        raise ValueError(
            f"the observation's keys must be {list(env.observation_keys)}{beside}; "
            f"missing {missing}, unexpected {extra}"
        )
    parts: list[np.ndarray] = []
    for key, (start, stop) in zip(env.observation_keys, env.observation_slices, strict=True):
        part = _as_float32(observation[key], key)
        if part.shape[-1:] != (stop - start,) and part.size == stop - start:
            part = part.reshape(-1)  # RoboHive's own parts have any shape: a matrix, a single number
        expected = (*(parts[0] if parts else part).shape[:-1], stop - start)
        if part.shape != expected:
            raise ValueError(f"{key} must have shape {list(expected)}, got {list(part.shape)}")
        parts.append(part)
    return np.concatenate(parts, axis=-1)


def _as_float32(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        if not isinstance(value, np.number | float | int):
            raise ValueError(f"{name} must be a tensor or an array, got {type(value).__name__}")
        value = np.asarray(value)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array: fill what is masked, or give no observation")
    if value.dtype.kind not in _NUMBERS:
        raise ValueError(f"{name} must hold numbers, got an array of {value.dtype}")
    if value.dtype == np.float32:
        return value.copy()
    with np.errstate(over="ignore"):  # values that float32 cannot hold become infinite, and are refused
        return value.astype(np.float32)
