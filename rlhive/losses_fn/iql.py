"""Implicit Q-learning: values of the data's better actions, and an actor that copies those more."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhive.core.settings import check_range
from rlhive.core.tree import detach
from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.losses_fn.common import (
    check_network,
    check_shapes,
    detached,
    discount_of,
    td_target,
    weighted_mean,
)
from rlhive.policy_fn.heads import heads_with_density
from rlhive.policy_fn.offline_network import OfflineNetwork

MAX_WEIGHT = 100.0


def expectile_loss(error: Tensor, expectile: float | Tensor) -> Tensor:
    """Elementwise squared error, weighted by `expectile` where positive, else by `1 - expectile` (IQL, equation 4)."""
    return torch.where(error > 0, expectile, 1.0 - expectile).to(error.dtype) * error.square()


def make_iql_loss(
    network: OfflineNetwork,
    *,
    gamma: float = 0.95,
    expectile: float = 0.8,
    temperature: float = 3.0,
) -> LossFn:
    """Makes the joint loss of value, critics and actor (Kostrikov 2021, arXiv:2110.06169, equations 5, 6, 7).

    The three terms are summed, each detached from the others' parameters, so that one gradient updates all at once.

    Args:
        network: the networks that `params` belongs to; the critics have a target network.
        gamma: discount in [0, 1].
        expectile: the expectile of the action values that the state value is fitted to, in (0, 1); 0.5 is their mean.
        temperature: how strongly better actions are preferred; 0 copies all actions equally.

    Returns:
        `loss_fn(params, target_params, batch, noise) -> (loss, metrics)` for one seed. `batch` is as in
        `rlhive.core.types.Batch`; `noise` is not read. Metrics are `[]`, "td_error" is `[B]`.

    Raises:
        ValueError: a number out of its range, another algorithm's network, or a head without a density.
    """
    _check(network, gamma, expectile, temperature)

    def targets(params: Params, target_params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        action_value = network.value(target_params["critic"], batch["observation"], batch["action"]).amin(0)
        following = batch["next"]
        next_value = network.state_value(detach(params["value"]), following["observation"])
        reward, terminated = following["reward"].squeeze(-1), following["terminated"].squeeze(-1)
        return action_value, td_target(reward, terminated, next_value, discount_of(batch, gamma))

    def loss_fn(params: Params, target_params: Params, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        observation, action = batch["observation"], batch["action"]
        check_shapes(batch, noise)
        with torch.no_grad():  # and detached: forward mode does not heed no_grad
            action_value, target = (value.detach() for value in targets(params, target_params, batch))

        value = network.state_value(params["value"], observation)
        loss_value = expectile_loss(action_value - value, expectile).mean()

        prediction = network.value(params["critic"], observation, action)
        loss_qvalue = weighted_mean((prediction - target).square().sum(0), batch)

        advantage = action_value - value.detach()
        weight = (temperature * advantage).exp().clamp(max=MAX_WEIGHT)
        # An encoder learns from the critics and the value only.
        loss_actor = -(weight * network.log_prob(params["actor"], observation.detach(), action)).mean()

        metrics = {
            "loss_actor": loss_actor,
            "loss_qvalue": loss_qvalue,
            "loss_value": loss_value,
            "advantage": advantage.mean(),
            "advantage_weight": weight.mean(),
            "state_action_value": prediction.mean(),
            "td_error": (prediction - target).abs().amax(0),
        }
        return loss_qvalue + loss_value + loss_actor, detached(metrics)

    return loss_fn


def _check(network: OfflineNetwork, gamma: float, expectile: float, temperature: float) -> None:
    check_range("gamma", gamma, lambda value: 0.0 <= value <= 1.0, "be in [0, 1]")
    check_range("expectile", expectile, lambda value: 0.0 < value < 1.0, "be in (0, 1)")
    check_range("temperature", temperature, lambda value: value >= 0.0, "not be negative")
    check_network("make_iql_loss", network, OfflineNetwork, "actor", "critic", "value")
    if network.head not in (others := heads_with_density()):
        raise ValueError(
            f"make_iql_loss weighs log-probabilities, which the head {network.head!r} has none of; "
            f"set iql_network.head to one of {', '.join(others)}"
        )
