"""What a run starts with: its environments, its data set, the state of its seeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict

from rlhive.core.compile import prepare_compiler
from rlhive.core.env_spec import EnvSpec
from rlhive.core.run_spec import DataSource
from rlhive.core.tree import replace, stack_seeds
from rlhive.core.types import TrainState
from rlhive.data.cache import load_dataset
from rlhive.data.dataset import Dataset
from rlhive.data.source import check_fits, describe
from rlhive.envs.encoded import EncodedEnv
from rlhive.envs.vector import VectorEnv
from rlhive.losses_fn import ALGORITHMS
from rlhive.policy_fn.encoders import Encoder

if TYPE_CHECKING:
    from rlhive.config import TrainConfig

logger = logging.getLogger(__name__)

_MARGIN = 1e-3  # of the range of an action: what rounding may put beyond its limits
_BLOCK = 1 << 14  # steps that are looked at at a time


def start_envs(
    config: TrainConfig, seeds: Sequence[int], encoder: Encoder | None, sizes: Sequence[int]
) -> tuple[VectorEnv | EncodedEnv, ...]:
    """Environments for each of `sizes`, E per seed; all workers start at once; the compiler gets ready meanwhile."""

    def start(num_envs: int) -> VectorEnv:
        return VectorEnv(
            config.env_name,
            seeds=seeds,
            num_envs=num_envs,
            num_workers=config.num_workers,
            pixels=config.pixels,
        )

    with ThreadPoolExecutor() as threads:
        futures = [threads.submit(start, num_envs) for num_envs in sizes]
        if config.compiles:
            prepare_compiler()
    for future in futures:
        if future.exception() is not None:
            for other in futures:
                if other.exception() is None:
                    other.result().close()
            future.result()
    envs = tuple(future.result() for future in futures)
    if encoder is None or not encoder.frozen:
        return envs
    params = encoder.init(torch.Generator()).to(config.device)
    return tuple(EncodedEnv(vector, encoder, params) for vector in envs)


def with_normalizer(state: TrainState, normalizer: TensorDict) -> TrainState:
    """The state `[S]` with these constants, of one seed, for each of its seeds; nothing else is touched."""
    observation = stack_seeds([normalizer] * len(state)).to(state["step"].device)
    return replace(state, {"env_state": replace(state["env_state"], {"observation": observation})})


def open_dataset(config: TrainConfig, env: EnvSpec, encoder: Encoder | None) -> Dataset | None:
    """The data set of the configuration, compared with the environment before any of it is built; None without one.

    Its images go through the environment's encoder once, and the features follow the observation, as online.

    Raises:
        LoadError: it is damaged, of other observations, actions or images, or lacks the rewards that the algorithm
            needs.
    """
    if config.dataset is None:
        return None
    source = describe(config.dataset, skip_damaged=config.skip_damaged)
    check_fits(config.dataset, source, env, needs_rewards=ALGORITHMS[config.algorithm].needs_rewards)
    dataset = load_dataset(
        config.dataset,
        skip_damaged=config.skip_damaged,
        pixels=env.pixels,
        encoder=encoder,
        device=config.device,
    )
    _warn_beyond_limits(dataset, env)
    return dataset


def _warn_beyond_limits(dataset: Dataset, env: EnvSpec) -> None:
    """Logs a warning where actions are beyond the limits, which no policy can carry out."""
    low, high = (torch.tensor(of, dtype=torch.float32) for of in (env.action_low, env.action_high))
    steps, most, furthest, column = 0, _MARGIN, 0.0, 0
    for actions in dataset.transitions["action"].split(_BLOCK):
        beyond = torch.maximum(low - actions, actions - high) / (high - low)
        steps += int((beyond > _MARGIN).any(1).sum())
        if beyond.max() > most:
            row, column = divmod(int(beyond.argmax()), env.action_dim)
            most, furthest = float(beyond.max()), float(actions[row, column])
    if steps:
        logger.warning(
            "%s: %.3g%% of its actions are beyond the limits of %s, the furthest %.4g of %s, which goes from %g to %g: "
            "scale the actions, or learn a policy that is at its limits",
            dataset.spec.source,
            100.0 * steps / len(dataset),
            env.name,
            furthest,
            env.action_names[column],
            env.action_low[column],
            env.action_high[column],
        )


def source_of(dataset: Dataset) -> DataSource:
    """What a run's spec says of its data set."""
    spec = dataset.spec
    return DataSource(spec.source, spec.sha256, len(spec.trials), spec.steps, spec.damaged)
