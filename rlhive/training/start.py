"""The start of a run: its environments, its data set, the state of its seeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlhive.algorithms import ALGORITHMS
from rlhive.core.compile import prepare_compiler
from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError
from rlhive.core.keys import make_generators
from rlhive.core.tree import stack_seeds
from rlhive.core.types import TrainState
from rlhive.data.cache import load_dataset
from rlhive.data.dataset import Dataset
from rlhive.data.source import check_fits, describe
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.encoders import Encoder
from rlhive.runs.checkpoint import Checkpoint
from rlhive.runs.run_spec import DataSource, RunSpec
from rlhive.training.encoded_env import EncodedEnv
from rlhive.training.init_from import start_from, warn_of_discount
from rlhive.training.learner import Generators, Learner, with_constants
from rlhive.training.resume import restore_stopped
from rlhive.training.stop import Stopped, stopped_text

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

LOG = logging.getLogger(__name__)

EVALUATION_ENVS = 4
_MARGIN = 1e-3  # of an action's range: rounding may exceed the limits by this much


def seeds_to_train(
    config: TrainConfig, run_dir: Path, checkpoint: Checkpoint | None
) -> tuple[tuple[int, ...], list[dict[str, torch.Generator]], dict[int, Stopped]]:
    """The seeds that have not stopped, the generators of each, and the seeds that have stopped.

    Raises:
        LoadError: all have stopped.
    """
    generators = [make_generators(seed) for seed in config.seeds]
    stopped = restore_stopped(config, checkpoint, generators) if checkpoint else {}
    left = {seed: own for seed, own in zip(config.seeds, generators, strict=True) if seed not in stopped}
    if not left:
        raise LoadError(f"{run_dir}: none of its seeds is left to train: {stopped_text(stopped)}")
    return tuple(left), list(left.values()), stopped


def open_envs(
    config: TrainConfig, seeds: Sequence[int], encoder: Encoder | None, stack: ExitStack
) -> tuple[VectorEnv | EncodedEnv, VectorEnv | EncodedEnv | None]:
    """The environments for evaluations, and those for training, None offline; the stack closes them."""
    offline = ALGORITHMS[config.algorithm].offline
    num_evaluation_envs = min(EVALUATION_ENVS, config.evaluation_episodes)
    sizes = (num_evaluation_envs,) if offline else (num_evaluation_envs, config.num_envs)
    vectors = _start_envs(config, seeds, sizes)
    for vector in vectors:
        stack.callback(vector.close)
    envs: Sequence[VectorEnv | EncodedEnv] = vectors
    if encoder is not None and encoder.frozen:
        params = encoder.init(torch.Generator()).to(config.device)
        envs = [EncodedEnv(vector, encoder, params) for vector in vectors]
    return envs[0], None if offline else envs[1]


def _start_envs(config: TrainConfig, seeds: Sequence[int], sizes: Sequence[int]) -> list[VectorEnv]:
    """Environments for each of `sizes`, E per seed; all workers start at once while the compiler gets ready."""

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
    failed = [future for future in futures if future.exception() is not None]
    if failed:
        for future in futures:
            if future not in failed:
                future.result().close()
        failed[0].result()
    return [future.result() for future in futures]


def first_state(
    config: TrainConfig,
    learner: Learner,
    generators: Generators,
    spec: RunSpec,
    seeds: Sequence[int],
    dataset: Dataset | None,
) -> TrainState:
    """The state of a new run: from the generators, or from another run; offline with the data's normaliser."""
    state = learner.init(generators)
    if dataset is not None and ALGORITHMS[config.algorithm].offline:
        constants = stack_seeds([dataset.normalizer()] * len(state))
        state = with_constants(state, constants.to(state["step"].device))
    if config.init_from is not None and spec.origin is not None:
        state = start_from(state, config.init_from, spec.origin, spec, seeds)
        if config.record is not None:
            warn_of_discount(config.init_from, config.algorithm, config.record.text)
    return state


def open_dataset(config: TrainConfig, env: EnvSpec, encoder: Encoder | None) -> Dataset | None:
    """The data set of the configuration, checked against the environment before it is loaded; None without one.

    Its images are encoded once, and the features follow the observation, as online.

    Raises:
        LoadError: it is damaged, has other observations, actions or images, or lacks rewards that the algorithm
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
    """Logs a warning if actions exceed the limits, since no policy can carry them out."""
    low, high = (torch.tensor(of, dtype=torch.float64) for of in (env.action_low, env.action_high))
    steps, most, furthest, column = 0, _MARGIN, 0.0, 0
    for actions in dataset.blocks("action"):
        beyond = torch.maximum(low - actions, actions - high) / (high - low)
        steps += int((beyond > _MARGIN).any(1).sum())
        if beyond.max() > most:
            row, column = divmod(int(beyond.argmax()), env.action_dim)
            most, furthest = float(beyond.max()), float(actions[row, column])
    if steps:
        LOG.warning(
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
    """What a run's spec says about its data set."""
    spec = dataset.spec
    return DataSource(spec.source, spec.sha256, len(spec.trials), spec.steps, spec.damaged)
