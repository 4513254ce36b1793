"""What a policy must know about its environment. Free of torch, which environment workers do not load."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import attrs

from rlhive.core.converters import floats, strings
from rlhive.core.pixel_spec import PixelSpec, to_pixel_spec

# By default, RoboHive counts an episode as a success if it is solved on more steps than this.
SOLVED_STEPS = 5


def _slices(values: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(start), int(stop)) for start, stop in values)


@attrs.frozen
class EnvSpec:
    """What a policy must know about its environment; plain values only, so that it converts to JSON directly.

    Attributes:
        name: RoboHive id, such as "FrankaReachRandom-v0".
        observation_keys: names of the parts of the observation, in their order.
        observation_slices: `(start, stop)` of each part in the observation vector.
        observation_dim: length of the observation vector, O.
        action_dim: length of the action vector, A.
        action_low: lower limit of each action.
        action_high: upper limit of each action.
        action_names: name of each action (the actuator's).
        dt: control period in seconds of simulated time.
        max_episode_steps: steps after which an episode is truncated; None when it never is.
        pixels: the images that accompany the observation vector, if any.
    """

    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    observation_keys: tuple[str, ...] = attrs.field(converter=strings)
    observation_slices: tuple[tuple[int, int], ...] = attrs.field(converter=_slices)
    observation_dim: int = attrs.field(validator=attrs.validators.ge(1))
    action_dim: int = attrs.field(validator=attrs.validators.ge(1))
    action_low: tuple[float, ...] = attrs.field(converter=floats)
    action_high: tuple[float, ...] = attrs.field(converter=floats)
    action_names: tuple[str, ...] = attrs.field(converter=strings)
    dt: float = attrs.field(validator=attrs.validators.gt(0.0))
    max_episode_steps: int | None = None
    pixels: PixelSpec | None = attrs.field(default=None, converter=to_pixel_spec)

    def __attrs_post_init__(self) -> None:
        if not all(isinstance(name, str) for name in (*self.observation_keys, *self.action_names)):
            raise ValueError("observation_keys and action_names must be strings")
        if len(set(self.observation_keys)) < len(self.observation_keys):
            raise ValueError(f"observation_keys must each be there once, got {list(self.observation_keys)}")
        steps = self.max_episode_steps
        if steps is not None and not (type(steps) is int and steps > 0):
            raise ValueError(f"max_episode_steps must be a whole number above 0, or None, got {steps!r}")
        if not len(self.action_low) == len(self.action_high) == len(self.action_names) == self.action_dim:
            raise ValueError(
                f"action_low, action_high and action_names must each have {self.action_dim} entries"
            )
        if len(self.observation_keys) != len(self.observation_slices):
            raise ValueError("observation_keys and observation_slices must have the same length")
        edges = [0, *(stop for _, stop in self.observation_slices)]
        starts = [start for start, _ in self.observation_slices]
        if starts != edges[:-1] or edges[-1] != self.observation_dim or edges != sorted(edges):
            raise ValueError(
                f"observation_slices must follow one another from 0 to {self.observation_dim}, "
                f"got {list(self.observation_slices)}"
            )
        limits = zip(self.action_low, self.action_high, strict=True)
        if not all(-math.inf < low < high < math.inf for low, high in limits):
            raise ValueError("each of action_low must be below that of action_high, and both finite")

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EnvSpec:
        """The inverse of `to_dict`."""
        return cls(**values)
