"""TD3+BC: TD3 whose actor is also trained to copy the data's actions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhive.core.random import Source, normal
from rlhive.core.settings import check_range
from rlhive.core.tree import detach, tree_of_leaves
from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.losses_fn.common import (
    check_network,
    check_shapes,
    detached,
    discount_of,
    td_target,
    weighted_mean,
)
from rlhive.policy_fn.offline_network import OfflineNetwork


def make_td3_bc_loss(
    network: OfflineNetwork,
    *,
    gamma: float = 0.95,
    alpha: float = 2.5,
    policy_noise: float = 0.2,
    noise_clip: float = 0.5,
) -> LossFn:
    """Makes the joint loss of critics and actor (Fujimoto and Gu 2021, arXiv:2106.06860, equations 3 and 5).

    Each term is detached from the other's parameters, so that one gradient updates both; the actor is not delayed.
    The copying error is in units of half the action's range, so that `alpha` does not depend on the action's unit.

    Args:
        network: the networks that `params` belongs to; both have targets.
        gamma: discount in [0, 1].
        alpha: weight of the value relative to copying.
        policy_noise: standard deviation of the noise on the target's action, in units of half the action's range.
        noise_clip: largest absolute value of that noise, in the same unit.

    Returns:
        `loss_fn(params, target_params, batch, noise) -> (loss, metrics)` for one seed. `batch` is as in
        `rlhive.core.types.Batch`; `noise` has "next_action" `[B, A]`. Metrics are `[]`, "td_error" is `[B]`.

    Raises:
        ValueError: a number out of its range, or another algorithm's network.
    """
    _check(network, gamma, {"alpha": alpha, "policy_noise": policy_noise, "noise_clip": noise_clip})

    def critic_target(target_params: Params, batch: Batch, noise: Noise) -> Tensor:
        following = batch["next"]
        low, high = network.limits(following["observation"])
        shift = (policy_noise * noise["next_action"]).clamp(-noise_clip, noise_clip) * 0.5 * (high - low)
        action = network.mode(target_params["actor"], following["observation"]) + shift
        value = network.value(
            target_params["critic"], following["observation"], action.clamp(low, high)
        ).amin(0)
        reward, terminated = following["reward"].squeeze(-1), following["terminated"].squeeze(-1)
        return td_target(reward, terminated, value, discount_of(batch, gamma))

    def loss_fn(params: Params, target_params: Params, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        check_shapes(batch, noise)
        with torch.no_grad():  # and detached: forward mode does not heed no_grad
            target = critic_target(target_params, batch, noise).detach()
        prediction = network.value(params["critic"], batch["observation"], batch["action"])
        loss_qvalue = weighted_mean((prediction - target).square().sum(0), batch)

        observation = batch["observation"].detach()  # an encoder learns from the critics alone
        action = network.mode(params["actor"], observation)
        value = network.value(detach(params["critic"]), observation, action)[0]
        low, high = network.limits(observation)
        loss_bc = ((action - batch["action"]) / (0.5 * (high - low))).square().mean()
        loss_actor = loss_bc - alpha / value.abs().mean().detach() * value.mean()

        metrics = {
            "loss_actor": loss_actor,
            "loss_qvalue": loss_qvalue,
            "loss_bc": loss_bc,
            "state_action_value": prediction.mean(),
            "td_error": (prediction - target).abs().amax(0),
        }
        return loss_qvalue + loss_actor, detached(metrics)

    return loss_fn


def _check(network: OfflineNetwork, gamma: float, not_negative: Mapping[str, float]) -> None:
    check_range("gamma", gamma, lambda value: 0.0 <= value <= 1.0, "be in [0, 1]")
    for name, number in not_negative.items():
        check_range(name, number, lambda value: value >= 0.0, "not be negative")
    check_network("make_td3_bc_loss", network, OfflineNetwork, "actor", "critic")
    if network.head != "deterministic":
        raise ValueError(f"make_td3_bc_loss needs the head 'deterministic', got {network.head!r}")


def draw_td3_bc_noise(source: Source, network: OfflineNetwork, batch_size: int) -> Noise:
    """Standard normal noise for one call of the loss: "next_action" `[B, A]`; of S seeds `[S, B, A]`."""
    noise = normal(source, batch_size, network.action_dim)
    return tree_of_leaves({"next_action": noise}, noise.shape[:-2])
