"""The computations of a run, as functions of trees with a leading `[S]`: initial state, action, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from tensordict import TensorDict
from torch import Generator, Tensor
from torch.func import vmap

from rlhive.algorithms import ALGORITHMS
from rlhive.core.compile import traced_at_first_call
from rlhive.core.env_spec import EnvSpec
from rlhive.core.normalizer import update_normalizer
from rlhive.core.random import Key, Source
from rlhive.core.train_step import init_state, make_train_step
from rlhive.core.tree import replace, stack_seeds, to_device
from rlhive.core.types import Batch, Metrics, Noise, TrainState, TrainStep
from rlhive.losses_fn.pixels import draw_shifts, make_pixel_loss
from rlhive.policy_fn.encoders import Encoder, feature_dim, learned, network_input

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig
    from rlhive.policy_fn.actor import ActorCritic

Generators = Sequence[dict[str, Generator]]


class Learner(NamedTuple):
    """The functions of a run; every tree and tensor has a leading `[S]`.

    Attributes:
        network: the networks.
        init: `init(generators) -> state`.
        train_step: `train_step(state, batch, noise) -> (state, metrics)`.
        draw_loss_noise: `draw_loss_noise(generators) -> noise` for one update; on a GPU, the keys it is drawn from.
        act: `act(state, seen, noise [S, E, A]) -> action [S, E, A]`, sampled; `seen` `[S, E]` has raw "observation",
            and "pixels" where an encoder learns.
        plan: `plan(state, seen) -> actions [S, E, K, A]`, the next K, deterministic.
    """

    network: ActorCritic
    init: Callable[[Generators], TrainState]
    train_step: TrainStep
    draw_loss_noise: Callable[[Generators], Noise]
    act: Callable[[TrainState, TensorDict, Tensor], Tensor]
    plan: Callable[[TrainState, TensorDict], Tensor]


def make_learner(config: TrainConfig, spec: EnvSpec, encoder: Encoder | None = None) -> Learner:
    """Combines networks, loss and optimizer of a configuration for one environment.

    Args:
        config: the configuration.
        spec: the environment's spec.
        encoder: the encoder of its images. A frozen one's features come as part of the observation.
    """
    algorithm = ALGORITHMS[config.algorithm]
    learns = learned(encoder)
    network = config.make_network(spec, feature_dim=feature_dim(encoder, spec.pixels))
    opt = config.optimizer()
    loss_fn = config.make_loss(network)
    if learns is not None:
        loss_fn = make_pixel_loss(loss_fn, learns)
    train_step = make_train_step(loss_fn, opt, tau=config.tau)

    def init_seed(generator: Generator) -> TrainState:
        params, normalized_dim = network.init(generator), network.observation_dim
        if learns is not None:
            params["encoder"], normalized_dim = learns.init(generator), spec.observation_dim
        _check_keys(config.algorithm, params)
        return init_state(params, opt, observation_dim=normalized_dim, target_keys=algorithm.target_keys)

    def init(generators: Generators) -> TrainState:
        return stack_seeds([init_seed(of_seed["init"]) for of_seed in generators]).to(config.device)

    def draw(source: Source) -> Noise:
        return algorithm.draw_noise(source, network, config.batch_size)

    if config.on_gpu:
        train_step = draw_by_key(train_step, draw)

    def draw_loss_noise(generators: Generators) -> Noise:
        streams = [of_seed["loss"] for of_seed in generators]
        noise = keys_of(streams) if config.on_gpu else draw(streams)
        if learns is not None:
            noise.update(stack_seeds([draw_shifts(stream, config.batch_size) for stream in streams]))
        return to_device(noise, config.device) if config.on_gpu else noise

    update = traced_at_first_call(vmap(train_step), compile=config.compiles, name="the update")
    compiles = config.compiles and learns is None and _act_compiles_alike(network, config.num_envs)
    act, plan = _make_actors(network, learns, compile=compiles)
    return Learner(network, init, update, draw_loss_noise, act, plan)


def _check_keys(algorithm: str, params: TensorDict) -> None:
    """Refuses an algorithm whose keys name missing subtrees of its networks, or whose policy keys lack the actor."""
    own, there = ALGORITHMS[algorithm], set(params.keys())
    if lacking := sorted(set(own.target_keys) - there):
        raise ValueError(f"target_keys of {algorithm} name {lacking}, but its parameters are {sorted(there)}")
    # "encoder" is there only if an encoder learns.
    if "actor" not in own.policy_keys or not set(own.policy_keys) <= there | {"encoder"}:
        raise ValueError(
            f"policy_keys of {algorithm} must name 'actor', and no other than its parameters {sorted(there)} and "
            f"'encoder'; got {list(own.policy_keys)}"
        )


def _act_compiles_alike(network: ActorCritic, num_envs: int) -> bool:
    """Whether compiled actions have the same bits for any number of seeds.

    This holds for products of one row, which are compiled as loops, but not for the library's products of more rows,
    nor for the sums of a LayerNorm.
    """
    return num_envs == 1 and not network.actor_layer_norm


def _make_actors(
    network: ActorCritic, learns: Encoder | None, *, compile: bool
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """`act` and `plan` of a `Learner`."""

    def sample(params: TensorDict, env_state: TensorDict, seen: TensorDict, noise: Tensor) -> Tensor:
        action, _ = network.sample(params["actor"], network_input(learns, params, env_state, seen), noise)
        return action.contiguous()

    def mode(params: TensorDict, env_state: TensorDict, seen: TensorDict) -> Tensor:
        return network.plan(params["actor"], network_input(learns, params, env_state, seen))

    sample_seeds = traced_at_first_call(vmap(sample), compile=compile, name="the action")
    mode_seeds = traced_at_first_call(vmap(mode))

    def act(state: TrainState, seen: TensorDict, noise: Tensor) -> Tensor:
        return sample_seeds(state["params"], state["env_state"], seen, noise)

    def plan(state: TrainState, seen: TensorDict) -> Tensor:
        return mode_seeds(state["params"], state["env_state"], seen)

    return act, plan


def draw_by_key(train_step: TrainStep, draw: Callable[[Key], Noise]) -> TrainStep:
    """The step of one seed that draws the loss's noise itself, from "key" in its noise and the number of updates."""

    def step(state: TrainState, batch: Batch, noise: Noise) -> tuple[TrainState, Metrics]:
        drawn = draw(Key(noise["key"], state["step"]))
        return train_step(state, batch, drawn.update(noise.exclude("key")))

    return step


def keys_of(streams: Sequence[Generator]) -> Noise:
    """`{"key" [S]}`: the key of each stream, to draw numbers without its generator; no generator is advanced."""
    keys = torch.tensor([stream.initial_seed() for stream in streams])
    return TensorDict({"key": keys}, batch_size=keys.shape)


def observe(state: TrainState, normalizer: TensorDict, observation: Tensor) -> tuple[TrainState, TensorDict]:
    """Updates the normaliser with raw observations; the rest of the state stays as it is.

    Args:
        state: `[S]`; its "env_state" has the normaliser in float32.
        normalizer: the same `[S]` in float64, on the CPU.
        observation: `[S, E, O]`, on the CPU.

    Returns:
        The new state and normaliser.
    """
    normalizer = update_normalizer(normalizer, observation.double())
    constants = to_device(normalizer.float(), state["step"].device)
    return with_constants(state, constants), normalizer


def with_constants(state: TrainState, constants: TensorDict) -> TrainState:
    """The state `[S]` with these normaliser constants `[S]`; nothing else is touched."""
    return replace(state, {"env_state": replace(state["env_state"], {"observation": constants})})


def logged_metrics(metrics: Metrics) -> dict[str, Tensor]:
    """The scalar metrics `[S]` of an update by their names in the logs: losses under `loss/`, the rest `train/`.

    Integers are logged as floats; other types, such as the bool "finite", are left out.
    """
    return {
        f"loss/{name.removeprefix('loss_')}" if name.startswith("loss") else f"train/{name}": (
            value if value.is_floating_point() else value.float()
        )
        for name, value in metrics.items()
        if value.dim() == 1 and value.dtype != torch.bool and not value.is_complex()
    }
