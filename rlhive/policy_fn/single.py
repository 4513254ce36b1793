"""A policy's deterministic action for one observation, in a third of the time of the general function."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rlhive.core.normalizer import CLIP, SCALE_MIN, normalize
from rlhive.core.types import EnvState, Params
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.heads import HEADS, mode_of_first
from rlhive.policy_fn.mlp import ACTIVATIONS, linear
from rlhive.policy_fn.offline_network import OfflineNetwork

Step = Callable[[Tensor], Tensor]


def make_single_apply(network: ActorCritic, params: Params, env_state: EnvState) -> Step:
    """`act(observation [1, O]) -> action [1, A]`: `Policy.apply` with trees looked up and constants computed once.

    The operations are those of `normalize`, `apply_mlp` and the head's mode, in the same order, so that the bits are
    the same. Only clipping uses `maximum` and `minimum`, which cost a third of `clamp` on few numbers.

    Args:
        network: the networks.
        params: the policy's parameters.
        env_state: the constants that normalise the observation.
    """
    normalizer, actor = env_state["observation"].detach(), params["actor"].detach()
    if type(network) not in (ActorCritic, OfflineNetwork):  # a user's class may act differently
        return lambda observation: network.plan(actor, normalize(normalizer, observation))[..., 0, :]
    loc, scale = normalizer["loc"], normalizer["scale"].clamp(min=SCALE_MIN)
    steps = _mlp_steps(actor, ACTIVATIONS[network.activation])
    low, high = network.limits(loc)
    finish = _finish(network, low, high)
    most = loc.new_tensor(CLIP)
    least = -most

    def act(observation: Tensor) -> Tensor:
        x = _clip((observation - loc) / scale, least, most)
        for step in steps:
            x = step(x)
        return finish(x)

    return act


def _finish(network: ActorCritic, low: Tensor, high: Tensor) -> Step:
    """From the last layer's numbers to the action."""
    if isinstance(network, OfflineNetwork) and (mode := HEADS[network.head].mode) is not mode_of_first:
        return lambda x: mode(x, low, high)
    center, half_range, size = 0.5 * (high + low), 0.5 * (high - low), network.action_dim
    return lambda x: _clip(center + half_range * torch.tanh(x.narrow(1, 0, size)), low, high)


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _mlp_steps(params: Params, activate: Step) -> list[Step]:
    steps: list[Step] = []
    depth = len(params.keys())
    for index in range(depth):
        layer = params[f"layer_{index}"]
        steps.append(_linear(layer["weight"], layer["bias"]))
        if "norm" in layer.keys():  # noqa: SIM118
            steps.append(_layer_norm(layer["norm", "weight"], layer["norm", "bias"]))
        if index < depth - 1:
            steps.append(activate)
    return steps


def _linear(weight: Tensor, bias: Tensor) -> Step:
    if len(weight) == 1:
        return functools.partial(linear, weight, bias)
    # The same as `linear`, without checking the shape each time.
    return lambda x: F.linear(x, weight, bias)


def _layer_norm(weight: Tensor, bias: Tensor) -> Step:
    shape, bias = weight.shape, bias.unsqueeze(0)
    weight = weight.unsqueeze(0)
    return lambda x: torch.addcmul(bias, F.layer_norm(x, shape), weight)
