"""Turns any loss into one on images: an encoder is trained with it on randomly shifted images."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.types import Batch, LossFn, Metrics, Noise, Params
from rlhive.policy_fn.augment import draw_shift, random_shift
from rlhive.policy_fn.encoders import Encoder


def make_pixel_loss(loss_fn: LossFn, encoder: Encoder) -> LossFn:
    """Makes the same loss over `[observation, features]`, with shifted images (DrQ-v2, arXiv:2107.09645, section 3.1).

    The encoder gets its gradient from the terms that do not detach the observation; in SAC, only from the critics. As
    in DrQ-v2, there is no target encoder.

    Args:
        loss_fn: a loss of `rlhive.losses_fn`.
        encoder: the encoder that `params["encoder"]` belongs to.

    Returns:
        The loss. Its batch also has "pixels" and ("next", "pixels"), uint8 `[B, cameras, H, W, C]`; its noise also has
        "shift" and "next_shift", int64 `[B, 2]`.
    """

    def encode(params: Params, seen: TensorDict, shift: Tensor) -> Tensor:
        features = encoder.apply(params["encoder"], random_shift(seen["pixels"], shift))
        return torch.cat([seen["observation"], features], dim=-1)

    def pixel_loss_fn(
        params: Params, target_params: Params, batch: Batch, noise: Noise
    ) -> tuple[Tensor, Metrics]:
        following, seen = batch["next"].copy(), batch.copy()
        with torch.no_grad():  # and detached: forward mode does not heed no_grad
            following["observation"] = encode(params, batch["next"], noise["next_shift"]).detach()
        seen["observation"] = encode(params, batch, noise["shift"])
        seen["next"] = following
        return loss_fn(params, target_params, seen, noise)

    return pixel_loss_fn


def draw_shifts(generator: Generator, batch_size: int) -> Noise:
    """ "shift" and "next_shift", `[B, 2]`, from a CPU generator."""
    shifts = {name: draw_shift(generator, batch_size) for name in ("shift", "next_shift")}
    return TensorDict(shifts, batch_size=[])
