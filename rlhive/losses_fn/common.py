"""Functions that several losses share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.random import Source, normal
from rlhive.core.tree import tree_of_leaves
from rlhive.core.types import Batch, Metrics, Noise

Distance = Literal["l2", "smooth_l1"]


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float | Tensor) -> Tensor:
    """One-step target `r + discount * (1 - terminated) * V(s')` (Sutton and Barto 2018, equation 6.2).

    Args:
        reward: `[B]`, the sum of discounted rewards for n steps.
        terminated: bool `[B]`; a truncated episode is not terminated and keeps its bootstrap.
        next_value: `[B]`.
        discount: gamma, or gamma ** n as `[B]`.

    Raises:
        ValueError: the first three are not of one shape.
    """
    if not reward.shape == terminated.shape == next_value.shape:
        shapes = ", ".join(str(list(part.shape)) for part in (reward, terminated, next_value))
        raise ValueError(f"reward, terminated and next_value must be of one shape, got {shapes}")
    return reward + discount * torch.where(terminated, 0.0, next_value)


def discount_of(batch: Batch, gamma: float | Tensor) -> float | Tensor:
    """The discount of the next value: gamma, or gamma ** n `[B]` if the batch has n, "steps_to_next_obs"."""
    if "steps_to_next_obs" not in batch.keys():  # noqa: SIM118
        return gamma
    return gamma ** batch["steps_to_next_obs"].squeeze(-1).to(batch["next", "reward"].dtype)


def weighted_mean(error: Tensor, batch: Batch) -> Tensor:
    """The mean of `error` `[B]`, each first multiplied by its importance, "_weight" `[B]`, if the batch has it."""
    return (error * batch["_weight"] if "_weight" in batch.keys() else error).mean()  # noqa: SIM118


def check_network(name: str, network: Any, kind: type, *parts: str) -> None:
    """Refuses a network that is not of the class `kind`, or whose parameters lack one of `parts`.

    Raises:
        ValueError: naming the loss that needs it.
    """
    if not isinstance(network, kind):
        raise ValueError(
            f"{name} needs a network of class {kind.__name__}, got one of {type(network).__name__}"
        )
    own = getattr(network, "parts", parts)
    if missing := [part for part in parts if part not in own]:
        raise ValueError(
            f"{name} needs a network with {', '.join(missing)}, this one has {', '.join(own)} alone"
        )


def check_shapes(batch: Batch, noise: Noise) -> None:
    """Refuses weights and noise that would be broadcast: one per transition, `[B]`, and like the action, `[B, A]`.

    Raises:
        ValueError: naming the first of another shape.
    """
    action = batch["action"].shape
    for tree, key, shape in (
        (batch, "_weight", action[:1]),
        (noise, "action", action),
        (noise, "next_action", action),
    ):
        value = tree.get(key, None)
        if value is not None and value.shape != shape:
            raise ValueError(f"{key!r} must have shape {list(shape)}, got {list(value.shape)}")


def check_distance(name: str, kind: str) -> None:
    """Refuses anything but a `Distance`.

    Raises:
        ValueError: naming the setting.
    """
    if kind not in get_args(Distance):
        raise ValueError(f"{name} must be one of {get_args(Distance)}, got {kind!r}")


def distance(prediction: Tensor, target: Tensor, kind: Distance) -> Tensor:
    """Elementwise distance: the squared error, or the Huber loss with threshold 1.

    Raises:
        ValueError: the two are not of one shape, or there is no such kind.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must be of one shape, got {list(prediction.shape)} and {list(target.shape)}"
        )
    check_distance("the kind of a distance", kind)
    if kind == "l2":
        return (prediction - target).square()
    return F.smooth_l1_loss(prediction, target, reduction="none")


def detached(metrics: Mapping[str, Tensor]) -> Metrics:
    """The metrics of a loss by name, cut from the graph."""
    return TensorDict({name: value.detach() for name, value in metrics.items()}, batch_size=[])


def draw_no_noise(source: Source, network: Any, batch_size: int) -> Noise:
    """The empty tree, for losses that draw nothing."""
    return tree_of_leaves({}, normal(source, 0).shape[:-1])
