"""Builds the parts of a configuration once, to find errors before the run starts. Free of gin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS
from rlhive.command_line import command_line
from rlhive.core.env_spec import EnvSpec
from rlhive.core.optim import adam
from rlhive.core.pixel_spec import PixelSpec, check_each_once
from rlhive.data.features import check_images
from rlhive.data.formats import FORMATS, detect
from rlhive.envs.names import max_episode_steps
from rlhive.envs.pixels import check_camera_names
from rlhive.ffmpeg import check_ffmpeg
from rlhive.gl_backend import check_backend
from rlhive.machine import has_compiler
from rlhive.metrics import check_loggers
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import Encoder, Flat, check_kind, encoder_from_dict, encoder_tree, learned
from rlhive.policy_fn.r3m import R3M
from rlhive.training.replay_size import check_capacity

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig
    from rlhive.policy_fn.actor import ActorCritic


def dry_build(config: TrainConfig) -> None:
    """Builds all parts of a run that are quick to build, so that errors show now.

    Raises:
        ValueError, TypeError: a wrong value.
    """
    check_loggers(config.loggers, config.wandb)
    check_camera_names(config.env_name, config.video_cameras)
    check_each_once(config.video_cameras)
    if config.video_every:
        check_ffmpeg("train.video_every")
    if config.video_every or config.pixels is not None:
        check_backend(draws=True)
    _check_device(config.device)
    if config.compile and not has_compiler():
        raise ValueError("train.compile=True needs a C++ compiler: install g++, or leave it out")
    encoder, pixels = config.make_encoder(), config.pixels
    if encoder is not None and pixels is not None:
        check_kind(encoder)
        _try_encoder(encoder, pixels)
    if config.dataset is not None and learned(encoder) is not None:
        raise ValueError(
            "learning from a data set needs a frozen encoder: @r3m or @rrl with frozen=True, or @flat"
        )
    if config.dataset is not None:
        recorded = FORMATS[detect(config.dataset)].pixels(config.dataset)
        check_images(config.dataset, recorded, config.pixels, encoder)
    stand_in = EnvSpec("", ("x",), ((0, 1),), 1, 1, (-1.0,), (1.0,), ("a",), 1.0)
    network = config.make_network(stand_in)
    config.make_loss(network)
    _try_optimizer(config, network, encoder)
    replay = config.make_replay(num_seeds=1, num_envs=config.num_envs, device="cpu")
    if not ALGORITHMS[config.algorithm].offline:
        config.exploration(stand_in.action_low, stand_in.action_high)
        _check_capacity(config, replay.capacity)
    if config.dataset is not None and (replay.prioritized or replay.n_step > 1):
        raise ValueError("learning from a data set needs replay.n_step=1 and replay.prioritized=False")


def _try_encoder(encoder: Encoder, pixels: PixelSpec) -> None:
    """Checks that the user's own encoder does what its methods say; RLHive's own are tested."""
    if type(encoder) in (R3M, CNN, Flat):
        return
    name, batch_size = type(encoder).__name__, 2
    images = torch.zeros(batch_size, *pixels.shape, dtype=torch.uint8)
    with torch.no_grad():
        shape = list(encoder.apply(encoder.init(torch.Generator()), images).shape)
    if shape != [batch_size, encoder.feature_dim(pixels)]:
        raise ValueError(
            f"train.encoder: {name}.apply gives {shape} of {batch_size} images, but feature_dim says "
            f"{[batch_size, encoder.feature_dim(pixels)]}: make them agree"
        )
    if encoder_from_dict(json.loads(json.dumps(encoder.to_dict()))) != encoder:
        raise ValueError(
            f"train.encoder: {name}.from_dict(to_dict()), by way of JSON, must equal the encoder itself, or no run of "
            "it could be loaded: give the class == by value, as attrs.frozen does, and tuples where JSON has lists"
        )


def _try_optimizer(config: TrainConfig, network: ActorCritic, encoder: Encoder | None) -> None:
    """Makes one update, which also calls a schedule for the first time.

    Optimizers of the user's own may name parameters, so they get those of the run. RLHive's take any, so they get a
    small one: initialising large networks takes seconds.
    """
    opt = config.optimizer()
    if all(part.__module__ == adam.__module__ for part in (opt.init, opt.update)):
        params = TensorDict({"actor": torch.zeros(1)})
    else:
        params = network.init(torch.Generator())
        if (learns := learned(encoder)) is not None:
            params["encoder"] = encoder_tree(learns)
    try:
        opt.update(params, opt.init(params), params)
    except KeyError as error:
        there = sorted(params.keys())
        raise ValueError(
            f"train.optimizer does not fit the parameters {there} of {config.algorithm}: {error.args[0]}"
        ) from None


def _check_capacity(config: TrainConfig, capacity: int) -> None:
    if config.num_envs * (capacity // config.num_envs) < config.batch_size:
        raise ValueError(
            f"replay.capacity={capacity} never holds the {config.batch_size} transitions of train.batch_size"
        )
    check_capacity(capacity, config.num_envs, max_episode_steps(config.env_name))


def _check_device(name: str) -> None:
    try:
        torch.zeros((), device=name).item()  # "meta" holds no values
    except (RuntimeError, AssertionError):
        expected = f"'cpu', or 'cuda' where torch sees a GPU (`{command_line('rlhive.doctor')}` tells)"
        raise ValueError(f"train.device={name!r} cannot be used here; expected {expected}") from None
