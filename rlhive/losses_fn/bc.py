"""Behaviour cloning: the actor does what the data did."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.losses_fn.common import check_network, detached
from rlhive.policy_fn.heads import heads_with_density
from rlhive.policy_fn.offline_network import OfflineNetwork


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of `values` `[B, K, ...]` where `mask`, bool `[B, K]`, is true; None is true everywhere."""
    if mask is None:
        return values.mean()
    mask = mask.view(*mask.shape, *[1] * (values.dim() - mask.dim())).expand_as(values)
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def make_bc_loss(network: OfflineNetwork) -> LossFn:
    """Makes the loss of behaviour cloning (Pomerleau 1991): minus the log-probability of the data's actions.

    A deterministic actor has no log-probability; its loss is the mean squared error over all entries. An actor that
    plans K > 1 steps is trained on K actions at once, without those after the end of a trial.

    Args:
        network: the actor that `params` belongs to.

    Returns:
        `loss_fn(params, target_params, batch, noise) -> (loss, metrics)` for one seed. `batch` is as in
        `rlhive.core.types.Batch`, of which only "observation" and "action" are read; for a plan "action" is
        `[B, K, A]`, with "mask" bool `[B, K]`, true before the end of the trial. `target_params` and `noise` are not
        read. Metrics are `[]`.

    Raises:
        ValueError: another algorithm's network.
    """
    check_network("make_bc_loss", network, OfflineNetwork, "actor")

    def loss_fn(params: Params, target_params: Params, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        actor, observation, mask = params["actor"], batch["observation"], batch.get("mask")
        plan = batch["action"] if network.chunk_size > 1 else batch["action"].unsqueeze(-2)
        mse = masked_mean((network.plan(actor, observation) - plan).square(), mask)
        if network.head in heads_with_density():
            loss = -masked_mean(network.plan_log_prob(actor, observation, plan), mask)
        else:
            loss = mse
        return loss, detached({"loss_bc": loss, "mse": mse})

    return loss_fn
