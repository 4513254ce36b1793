"""Exploration noise on actions: additive Gaussian, Ornstein-Uhlenbeck, epsilon-random, none.

Each factory takes the limits of the action and its own settings and returns an `Exploration` of three pure
functions; noise is drawn separately from its use, so that a seed explores the same alone and beside others.
Actions and limits are in the environment's units; Gaussian and Ornstein-Uhlenbeck noise is in units of half
the action's range, so that one setting means the same on every actuator. The processes follow TorchRL's
`AdditiveGaussianModule`, `OrnsteinUhlenbeckProcessModule` and `EGreedyModule`, whose noise is unscaled: the
same for actions in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.random import Streams, normal, uniform


class Exploration(NamedTuple):
    """The three functions of an exploration.

    `init(shape) -> state`: the process before the first step, a TensorDict of that batch, `[E]` or `[S, E]`.
    `draw(source, num_envs) -> noise`: one step's noise, a TensorDict of batch `[E]` from a CPU generator, `[S, E]`
        from those of S seeds.
    `apply(state, action, noise, step, is_init) -> (action, state)`: the action explored, float32 `[E, A]`
        within the limits; `step` counts environment steps of the seed, the uniformly random first ones too,
        and drives the annealing; `is_init` bool `[E, 1]` marks the first step of an episode, where the process
        starts again. Any leading dims work, `[S, E]` too. A non-finite action stays non-finite, so that the
        caller's check sees it: clipping would hide an infinite action, a random action would hide any.
    """

    init: Callable[[Sequence[int]], TensorDict]
    draw: Callable[[Streams, int], TensorDict]
    apply: Callable[[TensorDict, Tensor, TensorDict, int, Tensor], tuple[Tensor, TensorDict]]


def linear_annealing(step: int, *, init: float, end: float, annealing_steps: int) -> float:
    """`init` at step 0, `end` from step `annealing_steps` on, on a straight line between."""
    return init + (end - init) * min(step / annealing_steps, 1.0)


def gaussian(
    action_low: Sequence[float],
    action_high: Sequence[float],
    *,
    sigma_init: float = 1.0,
    sigma_end: float = 0.1,
    annealing_steps: int = 1000,
    mean: float = 0.0,
) -> Exploration:
    """Adds `sigma * (mean + N(0, 1))` times half the action's range; noise is `{"normal": [E, A]}`.

    Args:
        action_low: lower limit of each action, `[A]`.
        action_high: upper limit of each action, `[A]`.
        sigma_init: standard deviation at step 0, in half ranges.
        sigma_end: standard deviation from `annealing_steps` on.
        annealing_steps: environment steps of the seed from `sigma_init` to `sigma_end`, its random first ones included.
        mean: mean of the noise before it is multiplied with sigma.

    Raises:
        ValueError: limits or settings that make no sense.
    """
    low, high = _limits(action_low, action_high)
    _check_annealing("sigma", sigma_init, sigma_end, annealing_steps)
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite, got {mean}")

    def apply(
        state: TensorDict, action: Tensor, noise: TensorDict, step: int, is_init: Tensor
    ) -> tuple[Tensor, TensorDict]:
        sigma = linear_annealing(step, init=sigma_init, end=sigma_end, annealing_steps=annealing_steps)
        return _explore(action, sigma * (mean + noise["normal"]), low, high), state

    return Exploration(_no_state, partial(_draw_normal, action_dim=len(low)), apply)


def ornstein_uhlenbeck(
    action_low: Sequence[float],
    action_high: Sequence[float],
    *,
    theta: float = 0.15,
    mu: float = 0.0,
    sigma: float = 0.2,
    dt: float = 0.01,
    eps_init: float = 1.0,
    eps_end: float = 0.1,
    annealing_steps: int = 1000,
) -> Exploration:
    """Adds `eps * x` times half the action's range; `x += theta * (mu - x) * dt + sigma * dt**0.5 * N(0, 1)`.

    The state is `{"process": [E, A]}`, x, which is 0 before the first step of an episode; noise is
    `{"normal": [E, A]}`. Used for exploration by https://arxiv.org/abs/1509.02971.

    Args:
        action_low: lower limit of each action, `[A]`.
        action_high: upper limit of each action, `[A]`.
        theta: pull towards `mu`, per unit of `dt`.
        mu: what x returns to, in half ranges.
        sigma: diffusion of x, in half ranges.
        dt: time step of the process (not the environment's).
        eps_init: factor on x at step 0.
        eps_end: factor on x from `annealing_steps` on.
        annealing_steps: environment steps of the seed from `eps_init` to `eps_end`, its random first ones included.

    Raises:
        ValueError: limits or settings that make no sense.
    """
    low, high = _limits(action_low, action_high)
    _check_annealing("eps", eps_init, eps_end, annealing_steps)
    if not (0 <= sigma < math.inf and dt > 0 and 0 <= theta * dt < 2 and math.isfinite(mu)):
        raise ValueError(
            "sigma must be >= 0, dt > 0, mu finite, and theta * dt from 0 to below 2, from where on the process grows "
            f"without end; got theta={theta}, mu={mu}, sigma={sigma}, dt={dt}"
        )

    def init(shape: Sequence[int]) -> TensorDict:
        return TensorDict({"process": torch.zeros(*shape, len(low), dtype=torch.float32)}, batch_size=shape)

    def apply(
        state: TensorDict, action: Tensor, noise: TensorDict, step: int, is_init: Tensor
    ) -> tuple[Tensor, TensorDict]:
        last = state["process"].masked_fill(is_init, 0.0)
        process = last + theta * (mu - last) * dt + sigma * dt**0.5 * noise["normal"]
        eps = linear_annealing(step, init=eps_init, end=eps_end, annealing_steps=annealing_steps)
        state = TensorDict({"process": process}, batch_size=state.batch_size)
        return _explore(action, eps * process, low, high), state

    return Exploration(init, partial(_draw_normal, action_dim=len(low)), apply)


def epsilon_random(
    action_low: Sequence[float],
    action_high: Sequence[float],
    *,
    eps_init: float = 1.0,
    eps_end: float = 0.1,
    annealing_steps: int = 1000,
) -> Exploration:
    """Replaces the whole action by a uniform one with probability eps, annealed.

    Noise is `{"chance": [E, 1], "uniform": [E, A]}`, both uniform in [0, 1).

    Args:
        action_low: lower limit of each action, `[A]`.
        action_high: upper limit of each action, `[A]`.
        eps_init: probability of a random action at step 0.
        eps_end: probability from `annealing_steps` on.
        annealing_steps: environment steps of the seed from `eps_init` to `eps_end`, its random first ones included.

    Raises:
        ValueError: limits or settings that make no sense.
    """
    low, high = _limits(action_low, action_high)
    _check_annealing("eps", eps_init, eps_end, annealing_steps)
    if eps_init > 1:
        raise ValueError(f"eps_init is a probability, at most 1, got {eps_init}")

    def draw(source: Streams, num_envs: int) -> TensorDict:
        noise = {"chance": uniform(source, num_envs, 1), "uniform": uniform(source, num_envs, len(low))}
        return TensorDict(noise, batch_size=noise["chance"].shape[:-1])

    def apply(
        state: TensorDict, action: Tensor, noise: TensorDict, step: int, is_init: Tensor
    ) -> tuple[Tensor, TensorDict]:
        eps = linear_annealing(step, init=eps_init, end=eps_end, annealing_steps=annealing_steps)
        random = low.to(action.device) + noise["uniform"] * (high - low).to(action.device)
        finite = action.isfinite().all(-1, keepdim=True)
        action = torch.where((noise["chance"] < eps) & finite, random, action)
        return _clip(action, low, high), state

    return Exploration(_no_state, draw, apply)


def none(action_low: Sequence[float], action_high: Sequence[float]) -> Exploration:
    """The action as it is, clipped to the limits `[A]`: for policies that explore by sampling, such as SAC.

    Raises:
        ValueError: limits that make no sense.
    """
    low, high = _limits(action_low, action_high)

    def draw(source: Streams, num_envs: int) -> TensorDict:
        return TensorDict({}, batch_size=uniform(source, num_envs, 0).shape[:-1])

    def apply(
        state: TensorDict, action: Tensor, noise: TensorDict, step: int, is_init: Tensor
    ) -> tuple[Tensor, TensorDict]:
        return _clip(action, low, high), state

    return Exploration(_no_state, draw, apply)


def _no_state(shape: Sequence[int]) -> TensorDict:
    return TensorDict({}, batch_size=shape)


def _draw_normal(source: Streams, num_envs: int, action_dim: int) -> TensorDict:
    noise = normal(source, num_envs, action_dim)
    return TensorDict({"normal": noise}, batch_size=noise.shape[:-1])


def _explore(action: Tensor, noise: Tensor, low: Tensor, high: Tensor) -> Tensor:
    half_range = ((high - low) / 2).to(action.device)
    return _clip(action + half_range * noise, low, high)


def _clip(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = torch.clamp(action, low.to(action.device), high.to(action.device))
    return torch.where(action.isfinite(), clipped, action)


def _limits(action_low: Sequence[float], action_high: Sequence[float]) -> tuple[Tensor, Tensor]:
    low = torch.tensor(tuple(action_low), dtype=torch.float32)
    high = torch.tensor(tuple(action_high), dtype=torch.float32)
    finite = bool(low.isfinite().all() and high.isfinite().all())
    if low.shape != high.shape or not finite or not bool((low < high).all()):
        raise ValueError(
            "action_low and action_high must be finite, of one length, and low < high, "
            f"got {tuple(action_low)} and {tuple(action_high)}"
        )
    return low, high


def _check_annealing(name: str, init: float, end: float, annealing_steps: int) -> None:
    if not 0 <= end <= init < math.inf:
        raise ValueError(
            f"{name} must be finite and neither negative nor grow: got {name}_init={init} and {name}_end={end}"
        )
    if not annealing_steps >= 1:
        raise ValueError(f"annealing_steps must be at least 1, got {annealing_steps}")
