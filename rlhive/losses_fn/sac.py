"""Soft actor-critic with a learned temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhive.core.random import Source, normal
from rlhive.core.settings import check_range
from rlhive.core.tree import detach, tree_of_leaves
from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.losses_fn.common import (
    Distance,
    check_distance,
    check_network,
    check_shapes,
    detached,
    discount_of,
    distance,
    td_target,
    weighted_mean,
)
from rlhive.policy_fn.actor import ActorCritic


def make_sac_loss(
    network: ActorCritic,
    *,
    gamma: float = 0.95,
    target_entropy: float | None = None,
    reward_scale: float = 1.0,
    distance_kind: Distance = "l2",
) -> LossFn:
    """Makes the joint loss of critics, actor and temperature (Haarnoja 2018, arXiv:1812.05905, equations 5, 9, 18).

    The three terms are summed, each detached from the others' parameters, so that one gradient updates all at once.

    Args:
        network: the actor and critics that `params` belongs to.
        gamma: discount in [0, 1].
        target_entropy: the entropy the temperature aims at; None for minus the number of actions.
        reward_scale: factor on the reward.
        distance_kind: "l2" or "smooth_l1", between a critic and its target.

    Returns:
        `loss_fn(params, target_params, batch, noise) -> (loss, metrics)` for one seed. `batch` is as in
        `rlhive.core.types.Batch`; `noise` has "action" and "next_action" `[B, A]`. Metrics are `[]`, "td_error" is
        `[B]`.

    Raises:
        ValueError: for a gamma outside [0, 1], a reward scale that is not positive, an unknown distance, or another
            algorithm's network.
    """
    _check(network, gamma, target_entropy, reward_scale, distance_kind)
    entropy_target = -float(network.action_dim) if target_entropy is None else target_entropy

    def critic_target(params: Params, target_params: Params, batch: Batch, noise: Noise) -> Tensor:
        following = batch["next"]
        action, log_prob = network.sample(params["actor"], following["observation"], noise["next_action"])
        value = network.value(target_params["critic"], following["observation"], action).amin(0)
        return td_target(
            reward_scale * following["reward"].squeeze(-1),
            following["terminated"].squeeze(-1),
            value - temperature(params) * log_prob,
            discount_of(batch, gamma),
        )

    def loss_fn(params: Params, target_params: Params, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        check_shapes(batch, noise)
        with torch.no_grad():  # and detached: forward mode does not heed no_grad
            target = critic_target(params, target_params, batch, noise).detach()
        alpha = temperature(params).detach()

        prediction = network.value(params["critic"], batch["observation"], batch["action"])
        error = distance(prediction, target.expand_as(prediction), distance_kind).sum(0)
        loss_qvalue = weighted_mean(error, batch)

        observation = batch["observation"].detach()  # an encoder learns from the critics alone
        action, log_prob = network.sample(params["actor"], observation, noise["action"])
        value = network.value(detach(params["critic"]), observation, action).amin(0)
        loss_actor = (alpha * log_prob - value).mean()

        entropy = -log_prob.detach().mean()
        loss_alpha = params["log_alpha"] * (entropy - entropy_target)

        metrics = {
            "loss_actor": loss_actor,
            "loss_qvalue": loss_qvalue,
            "loss_alpha": loss_alpha,
            "alpha": alpha,
            "entropy": entropy,
            "state_action_value": prediction.mean(),
            "td_error": (prediction - target).abs().amax(0),
        }
        return loss_qvalue + loss_actor + loss_alpha, detached(metrics)

    return loss_fn


def _check(
    network: ActorCritic,
    gamma: float,
    target_entropy: float | None,
    reward_scale: float,
    distance_kind: Distance,
) -> None:
    check_network("make_sac_loss", network, ActorCritic, "actor", "critic", "log_alpha")
    check_range("gamma", gamma, lambda value: 0.0 <= value <= 1.0, "be in [0, 1]")
    check_range("reward_scale", reward_scale, lambda value: value > 0.0, "be positive")
    if target_entropy is not None:
        check_range("target_entropy", target_entropy, math.isfinite, "be finite")
    check_distance("distance_kind", distance_kind)


def temperature(params: Params) -> Tensor:
    """The weight `[]` of the entropy."""
    # In double precision, then rounded: compiled for 16 seeds, exp is vectorised and differs in the last bit from one
    # seed's scalar exp.
    return params["log_alpha"].double().exp().to(params["log_alpha"].dtype)


def draw_sac_noise(source: Source, network: ActorCritic, batch_size: int) -> Noise:
    """Standard normal noise for one call of the loss: "action" and "next_action", `[B, A]`; of S seeds `[S, B, A]`."""
    # Transposed in memory, as the actor's output is.
    both = normal(source, 2, network.action_dim, batch_size).mT
    action, next_action = both.unbind(-3)
    return tree_of_leaves({"action": action, "next_action": next_action}, both.shape[:-3])
