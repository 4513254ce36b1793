"""A trained policy as an object to call and as the pure function behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.errors import NotFiniteActionError
from rlhive.core.run_spec import RunSpec
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.compare import differences
from rlhive.policy_fn.encoders import network_input
from rlhive.policy_fn.flat import make_flat_apply
from rlhive.policy_fn.observation import is_finite, read_seen


@attrs.frozen(eq=False)
class Policy:
    """A trained policy: `policy(observation)`, and `policy.apply`, the pure function behind it.

    Attributes:
        spec: what it was trained as and on; `spec.env` names the parts of observation and action.
        params: the subtrees `POLICY_KEYS[spec.algorithm]`.
        env_state: the constants that normalise the observation.
        dtype: what it computes in; observations and actions are float32 whatever it is.
        device: where it computes.
    """

    spec: RunSpec
    params: Params = attrs.field(repr=False)
    env_state: EnvState = attrs.field(repr=False)
    dtype: torch.dtype = attrs.field(init=False)
    device: torch.device = attrs.field(init=False)
    _act_on_one: Callable[[Tensor], Tensor] = attrs.field(init=False, repr=False)

    @dtype.default
    def _own_dtype(self) -> torch.dtype:
        return self.env_state["observation", "loc"].dtype

    @device.default
    def _own_device(self) -> torch.device:
        return self.env_state["observation", "loc"].device

    @_act_on_one.default
    def _make_act_on_one(self) -> Callable[[Tensor], Tensor]:
        return make_flat_apply(self.spec.network, self.params, self.env_state)

    def __call__(self, observation: Any, noise: Any = None) -> Any:
        """The action, float32 `[..., A]` within its limits; a tensor for tensors, an array for arrays.

        Equal inputs give equal bits. The same observation in a batch of another size may differ in the last
        bits, because matrix products sum in another order there.

        Args:
            observation: raw, as the environment gives it: tensor or array `[..., O]`, or a dict of those by
                the names in `spec.env.observation_keys`, `[..., size of the part]`. With images a dict: "pixels"
                uint8 `[..., cameras, H, W, 3]`, and beside it "observation" or those names.
            noise: standard normal numbers `[..., A]` for an action drawn from the policy; without it the
                action is the deterministic one.

        Raises:
            NotFiniteError: a value of the observation is not finite; `NotFiniteActionError`: of the action.
            ValueError: a shape or key that does not fit, or noise that is not finite.
        """
        arrays, device = _as_arrays(observation)
        vector, pixels = read_seen(self.spec.env, arrays)
        if noise is None and vector.ndim == 1 and pixels is None:
            action = self._act_on_one(self._own(vector[None]))[0]
        else:
            action = self._act_on_many(vector, pixels, noise)
        if self.dtype != torch.float32:  # rounding to float32 may leave the limits
            action = action.to(torch.float32)
            action = torch.clamp(action, *self.spec.network.limits(action))
        array = action.cpu().numpy()
        if not is_finite(array):
            raise NotFiniteActionError(f"the action is not finite: {array.tolist()}")
        return array if device is None else action.to(device)

    def apply(
        self,
        params: Params,
        env_state: EnvState,
        observation: Tensor | TensorDict,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The pure function of a policy, for `torch.func`: the raw observation is normalised here, once.

        Args:
            params: the subtrees `POLICY_KEYS[spec.algorithm]`, or more.
            env_state: `{"observation": {"loc", "scale", "count"}}`.
            observation: `[B, O]`, float32; with images a TensorDict of that, "observation", and "pixels" uint8
                `[B, cameras, H, W, 3]`.
            noise: standard normal numbers `[B, A]`, or None for the deterministic action.

        Returns:
            Actions `[B, A]`; a value that is not finite stays so.
        """
        seen = TensorDict({"observation": observation}) if isinstance(observation, Tensor) else observation
        x = network_input(self.spec.encoder, params, env_state, seen)
        if noise is None:
            return self.spec.network.mode(params["actor"], x)
        return self.spec.network.sample(params["actor"], x, noise)[0]

    def __reduce__(self) -> tuple[type[Policy], tuple[RunSpec, Params, EnvState]]:
        return Policy, (
            self.spec,
            self.params,
            self.env_state,
        )  # worker processes make the bound functions anew

    def check(self, env_or_robot: Any) -> list[str]:
        """Every difference between what the policy was trained on and a robot; see `compare.differences`."""
        return differences(self.spec.env, env_or_robot)

    def _act_on_many(self, vector: np.ndarray, pixels: np.ndarray | None, noise: Any) -> Tensor:
        env = self.spec.env
        shape = vector.shape[:-1]
        if noise is not None:
            noise = np.asarray(_as_arrays(noise)[0], np.float32)
            expected = (*shape, env.action_dim)
            if noise.shape != expected:
                raise ValueError(f"noise must have shape {list(expected)}, got {list(noise.shape)}")
            if not np.isfinite(noise).all():
                raise ValueError("noise is not finite")
            noise = self._own(noise).reshape(-1, env.action_dim)
        with torch.no_grad():
            seen = TensorDict({"observation": self._own(vector).reshape(-1, env.observation_dim)})
            if pixels is not None:
                seen["pixels"] = torch.from_numpy(pixels.reshape(math.prod(shape), *pixels.shape[-4:])).to(
                    self.device
                )
            action = self.apply(self.params, self.env_state, seen, noise)
        return action.reshape(*shape, env.action_dim)

    def _own(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)


def _as_arrays(value: Any) -> tuple[Any, torch.device | None]:
    """Tensors as arrays, alone or in a mapping, and the device they came from, None for arrays."""
    if isinstance(value, Tensor):
        return _as_array(value), value.device
    if isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values()):
        devices = [part.device for part in value.values() if isinstance(part, Tensor)]
        return {key: _as_array(part) for key, part in value.items()}, devices[0]
    return value, None


def _as_array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("cpu", value.dtype if value.dtype == torch.uint8 else torch.float32).numpy()
