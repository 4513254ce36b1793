"""How much memory a run's replay takes, and whether that much is free."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch

from rlhive.core.replay import ReplayBuffer
from rlhive.machine import free_memory
from rlhive.policy_fn.encoders import learned
from rlhive.runs.run_spec import RunSpec

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

LOG = logging.getLogger(__name__)
MEGABYTE, GIGABYTE = 1e6, 1e9


def check_replay(replay: ReplayBuffer, config: TrainConfig, spec: RunSpec) -> None:
    """Refuses a replay that needs more memory than is free or holds less than an episode; logs its size.

    Raises:
        ValueError: with the figures.
    """
    env = spec.env
    check_capacity(replay.capacity, config.num_envs, env.max_episode_steps or 0)
    stored = None if learned(spec.encoder) is None else env.pixels
    size = replay.nbytes(
        spec.normalized_dim,
        env.action_dim,
        image_bytes=0 if stored is None else math.prod(stored.shape),
    )
    memory = "of memory on the GPU" if config.on_gpu else "of memory"
    LOG.info(
        "the replay of %d steps of %d seed(s) takes %.1f MB %s",
        min(replay.capacity, config.total_steps),
        replay.num_seeds,
        size / MEGABYTE,
        memory if replay.scratch_dir is None else "on disk",
    )
    if replay.scratch_dir is None and size > (free := _free_memory(config.device)):
        remedy = "lower replay.capacity" + (
            "" if config.on_gpu else ", or keep it on disk with replay.scratch_dir"
        )
        raise ValueError(
            f"the replay would take {size / GIGABYTE:.1f} GB, of {free / GIGABYTE:.1f} GB of free memory: {remedy}"
        )


def check_capacity(capacity: int, num_envs: int, max_episode_steps: int) -> None:
    """Refuses a replay with too few actions to bring the environments of a resumed run back to where they were.

    Raises:
        ValueError: `capacity` is less than an episode of each of a seed's environments.
    """
    least = num_envs * max_episode_steps
    if capacity < least:
        raise ValueError(
            f"replay.capacity={capacity} must be at least {least}, an episode of each environment of a seed"
        )


def _free_memory(device: str) -> int:
    """Free bytes on the device."""
    return torch.cuda.mem_get_info(device)[0] if torch.device(device).type == "cuda" else free_memory()
