"""Names, shapes and signatures shared by every file of RLHive.

Shape legend of all docstrings: `S` seeds, `E` environments per seed, `B` minibatch, `N` critics, `O` observation,
`A` action, `T` time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import torch
from tensordict import TensorDict

Params = TensorDict  # what learns: {"actor", "critic" [N, ...], "log_alpha"}
EnvState = TensorDict  # normalising constants: {"observation": {"loc", "scale", "count"}}
TrainState = TensorDict  # {"params", "target_params", "opt_state", "env_state", "step"}
Batch = TensorDict
Noise = TensorDict
Metrics = TensorDict


@attrs.frozen
class EnvSpec:
    """What a policy has to know of its environment; plain values only, so that it is JSON as it stands.

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
    """

    name: str
    observation_keys: tuple[str, ...] = attrs.field(converter=tuple)
    observation_slices: tuple[tuple[int, int], ...] = attrs.field(
        converter=lambda slices: tuple((int(start), int(stop)) for start, stop in slices)
    )
    observation_dim: int = attrs.field(validator=attrs.validators.ge(1))
    action_dim: int = attrs.field(validator=attrs.validators.ge(1))
    action_low: tuple[float, ...] = attrs.field(converter=lambda low: tuple(float(x) for x in low))
    action_high: tuple[float, ...] = attrs.field(converter=lambda high: tuple(float(x) for x in high))
    action_names: tuple[str, ...] = attrs.field(converter=tuple)
    dt: float = attrs.field(validator=attrs.validators.gt(0.0))
    max_episode_steps: int | None = None

    def __attrs_post_init__(self) -> None:
        if not len(self.action_low) == len(self.action_high) == len(self.action_names) == self.action_dim:
            raise ValueError(
                f"action_low, action_high and action_names must each have {self.action_dim} entries"
            )
        if len(self.observation_keys) != len(self.observation_slices):
            raise ValueError("observation_keys and observation_slices must have the same length")

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EnvSpec:
        """The inverse of `to_dict`."""
        return cls(**values)


class LossFn(Protocol):
    """`loss_fn(params, target_params, batch, noise) -> (loss, metrics)`: a scalar, and detached metrics."""

    def __call__(
        self, params: Params, target_params: Params, batch: Batch, noise: Noise
    ) -> tuple[torch.Tensor, Metrics]: ...


class Optimizer(Protocol):
    """The optax contract: `init(params)` and `update(grads, opt_state, params) -> (updates, opt_state)`."""

    def init(self, params: Params) -> TensorDict: ...

    def update(self, grads: Params, opt_state: TensorDict, params: Params) -> tuple[Params, TensorDict]: ...


TrainStep = Callable[[TrainState, Batch, Noise], tuple[TrainState, Metrics]]
