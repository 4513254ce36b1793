"""A trained policy as a callable object, and the pure function behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.convolutions import exact_convolutions
from rlhive.core.errors import NotFiniteActionError
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.compare import differences
from rlhive.policy_fn.encoders import network_input
from rlhive.policy_fn.observation import is_finite, read_seen
from rlhive.policy_fn.plan import follow
from rlhive.policy_fn.single import make_single_apply
from rlhive.runs.run_spec import RunSpec


@attrs.frozen(eq=False)
class Policy:
    """A trained policy: `policy(observation)`, and `policy.apply`, the pure function behind it.

    A policy that was trained to plan K actions at once acts as in training through `policy.act`. `policy(observation)`
    is the first action of `policy.plan(observation)`, so calling only that makes a new plan at each step.

    Attributes:
        spec: its algorithm, networks and environment; `spec.env` names the parts of observation and action.
        params: the subtrees `POLICY_KEYS[spec.algorithm]`.
        env_state: the constants that normalise the observation.
        dtype: what it computes in; observations and actions are always float32.
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
        return make_single_apply(self.spec.network, self.params, self.env_state)

    def __call__(self, observation: Any, noise: Any = None) -> Any:
        """The action, float32 `[..., A]` within its limits; a tensor for tensors, an array for arrays.

        Equal inputs give equal bits. The same observation in a batch of another size may differ in the last
        bits, because matrix products sum in another order there.

        Args:
            observation: raw, as the environment gives it: tensor or array `[..., O]`, or a dict of those by
                the names in `spec.env.observation_keys`, `[..., size of the part]`. With images a dict: "pixels"
                uint8 `[..., cameras, H, W, C]`, and beside it "observation" or those names.
            noise: standard normal numbers `[..., A]` for an action drawn from the policy; without it the
                action is the deterministic one.

        Raises:
            NotFiniteError: a value of the observation is not finite; `NotFiniteActionError`: of the action.
            ValueError: a shape or key that does not fit, or noise that is not finite.
        """
        arrays, device = _as_arrays(observation)
        vector, pixels = read_seen(self.spec.env, arrays)
        if noise is None and vector.ndim == 1 and pixels is None:
            action = self._exactly(self._act_on_one, self._own(vector[None]))[0]
        else:
            noise = self._read_noise(noise, (*vector.shape[:-1], self.spec.env.action_dim))
            noise = None if noise is None else noise.unsqueeze(-2)
            action = self._plan_many(vector, pixels, noise)[..., 0, :]
        return self._checked(action, device)

    def plan(self, observation: Any, noise: Any = None) -> Any:
        """The next K actions, float32 `[..., K, A]`; K is 1 unless the policy was trained to plan more.

        Args:
            observation: as in `__call__`, with the same errors.
            noise: standard normal numbers `[..., K, A]` for actions drawn from the policy.
        """
        arrays, device = _as_arrays(observation)
        vector, pixels = read_seen(self.spec.env, arrays)
        shape = (*vector.shape[:-1], self.spec.network.chunk_size, self.spec.env.action_dim)
        return self._checked(self._plan_many(vector, pixels, self._read_noise(noise, shape)), device)

    def act(self, observation: Any, rest: Any = None, noise: Any = None) -> tuple[Any, Any]:
        """The next action of the policy's plan, and the rest of the plan; all K are taken before it plans again.

        Args:
            observation: as in `__call__`, with the same errors; checked at every step, used when a new plan is made.
            rest: the rest returned by the step before, None at the start of an episode; tensor or array, finite and
                within the limits.
            noise: standard normal numbers `[..., K, A]`, for a plan that begins here.

        Returns:
            The action `[..., A]`, and the rest, `[..., k, A]` or None.
        """
        if rest is None and noise is None and self.spec.network.chunk_size == 1:
            return self(observation), None
        if rest is not None:
            vector, _ = read_seen(self.spec.env, _as_arrays(observation)[0])
            self._check_rest(rest, vector.shape[:-1])
        return follow(rest, lambda: self.plan(observation, noise))

    def _check_rest(self, rest: Any, batch: tuple[int, ...]) -> None:
        env, most = self.spec.env, self.spec.network.chunk_size - 1
        if most == 0:
            raise ValueError(
                "rest must be None: the policy plans one action at a time, of which nothing is left"
            )
        array = _as_arrays(rest)[0]
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError(f"rest must be a tensor or an array of floats, got {type(rest).__name__}")
        fits = (
            array.ndim == len(batch) + 2 and array.shape[:-2] == batch and array.shape[-1] == env.action_dim
        )
        if not (fits and 1 <= array.shape[-2] <= most):
            expected = ", ".join(map(str, (*batch, f"1 to {most}", env.action_dim)))
            raise ValueError(f"rest must have shape [{expected}], got {list(array.shape)}")
        low, high = (np.asarray(limits, np.float32) for limits in (env.action_low, env.action_high))
        if not ((array >= low) & (array <= high)).all():  # not a number is neither
            raise ValueError("rest is not finite or not within the action's limits; it must be what act gave")

    def _checked(self, action: Tensor, device: torch.device | None) -> Any:
        """Finite float32 actions within their limits: a tensor on `device`, or an array without one."""
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
                `[B, cameras, H, W, C]`.
            noise: standard normal numbers `[B, A]`, or None for the deterministic action.

        Returns:
            Actions `[B, A]`; a value that is not finite stays so.
        """
        noise = None if noise is None else noise.unsqueeze(-2)
        return self.apply_plan(params, env_state, observation, noise)[..., 0, :]

    def apply_plan(
        self,
        params: Params,
        env_state: EnvState,
        observation: Tensor | TensorDict,
        noise: Tensor | None = None,
    ) -> Tensor:
        """As `apply`, but the next K actions `[B, K, A]`, for noise `[B, K, A]`."""
        seen = TensorDict({"observation": observation}) if isinstance(observation, Tensor) else observation
        x = network_input(self.spec.encoder, params, env_state, seen)
        return self.spec.network.plan(params["actor"], x, noise)

    def __reduce__(self) -> tuple[type[Policy], tuple[RunSpec, Params, EnvState]]:
        # Worker processes rebuild the bound functions.
        return Policy, (self.spec, self.params, self.env_state)

    def check(self, env_or_robot: Any) -> list[str]:
        """Every difference between what the policy was trained on and a robot; see `compare.differences`."""
        return differences(self.spec.env, env_or_robot)

    def _read_noise(self, noise: Any, shape: tuple[int, ...]) -> Tensor | None:
        if noise is None:
            return None
        noise = np.require(_as_arrays(noise)[0], np.float32, ["C", "W"])
        if noise.shape != shape:
            raise ValueError(f"noise must have shape {list(shape)}, got {list(noise.shape)}")
        if not np.isfinite(noise).all():
            raise ValueError("noise is not finite")
        return self._own(noise)

    def _plan_many(self, vector: np.ndarray, pixels: np.ndarray | None, noise: Tensor | None) -> Tensor:
        """The next K actions `[..., K, A]`, for noise `[..., K, A]`, or `[..., 1, A]` for all K."""
        shape = vector.shape[:-1]
        with torch.no_grad(), nullcontext() if pixels is None else exact_convolutions():
            seen = TensorDict({"observation": self._own(vector).reshape(-1, vector.shape[-1])})
            if pixels is not None:
                images = torch.from_numpy(pixels.reshape(math.prod(shape), *pixels.shape[-4:]))
                seen["pixels"] = images.to(self.device)
            noise = None if noise is None else noise.reshape(-1, *noise.shape[-2:])
            plan = self._exactly(self.apply_plan, self.params, self.env_state, seen, noise)
        return plan.reshape(*shape, *plan.shape[-2:])

    def _exactly(self, compute: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """The result of `compute` in the policy's own dtype, even under the caller's autocast."""
        if not torch.is_autocast_enabled(self.device.type):  # disabling autocast that is off takes 5 us
            return compute(*arguments)
        with torch.autocast(self.device.type, enabled=False):
            return compute(*arguments)

    def _own(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)


def _as_arrays(value: Any) -> tuple[Any, torch.device | None]:
    """Tensors as arrays, alone or in a mapping, and their device, or None for arrays."""
    if isinstance(value, Tensor):
        return _as_array(value), value.device
    if isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values()):
        devices = [part.device for part in value.values() if isinstance(part, Tensor)]
        return {key: _as_array(part) for key, part in value.items()}, devices[0]
    return value, None


def _as_array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_complex() or value.is_quantized or value.layout != torch.strided:
        raise ValueError(f"tensors must be dense and hold real numbers, got {value.layout} of {value.dtype}")
    # NumPy has no bfloat16. Integers stay integers, for messages about pixels.
    return value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).numpy()
