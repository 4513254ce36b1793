"""Behaviour cloning: the actor does what the data did."""

from __future__ import annotations

from tensordict import TensorDict
from torch import Tensor

from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.policy_fn.heads import HEADS
from rlhive.policy_fn.offline import OfflineNetwork


def make_bc_loss(network: OfflineNetwork) -> LossFn:
    """Makes the loss of behaviour cloning (Pomerleau 1991): minus the log-probability of the data's actions.

    A deterministic actor has none: there it is the mean squared error over all entries.

    Args:
        network: the actor that `params` belongs to.

    Returns:
        `loss_fn(params, target_params, batch, noise) -> (loss, metrics)` for one seed. `batch` has normalised
        "observation" `[B, O]` and "action" `[B, A]`; there is no target, and no noise. Metrics are `[]`.
    """

    def loss_fn(params: Params, target_params: Params, batch: Batch, noise: Noise) -> tuple[Tensor, Metrics]:
        error = network.mode(params["actor"], batch["observation"]) - batch["action"]
        mse = error.square().mean()
        if HEADS[network.head].log_prob is None:
            loss = mse
        else:
            loss = -network.log_prob(params["actor"], batch["observation"], batch["action"]).mean()
        return loss, TensorDict({"loss_bc": loss.detach(), "mse": mse.detach()}, batch_size=[])

    return loss_fn
