"""What one run computes, as functions of trees with a leading `[S]`: initial state, action, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tensordict import TensorDict
from torch import Generator, Tensor
from torch.func import vmap

from rlhive.core.compile import traced_at_first_call
from rlhive.core.env_spec import EnvSpec
from rlhive.core.normalizer import normalize, update_normalizer
from rlhive.core.state import init_state, make_train_step
from rlhive.core.tree import stack_seeds
from rlhive.core.types import Metrics, Noise, TrainState, TrainStep
from rlhive.losses_fn import ALGORITHMS

if TYPE_CHECKING:
    from rlhive.config import TrainConfig
    from rlhive.policy_fn.actor import ActorCritic

Generators = Sequence[dict[str, Generator]]


class Learner(NamedTuple):
    """The functions of a run; every tree and tensor has a leading `[S]`.

    Attributes:
        network: the networks.
        init: `init(generators) -> state`.
        train_step: `train_step(state, batch, noise) -> (state, metrics)`.
        draw_loss_noise: `draw_loss_noise(generators) -> noise` of one update.
        act: `act(state, observation [S, E, O], noise [S, E, A]) -> action [S, E, A]`, sampled.
        act_mode: `act_mode(state, observation) -> action`, deterministic.
        observe: `observe(state, observation [S, E, O]) -> state` with the normaliser updated.
    """

    network: ActorCritic
    init: Callable[[Generators], TrainState]
    train_step: TrainStep
    draw_loss_noise: Callable[[Generators], Noise]
    act: Callable[[TrainState, Tensor, Tensor], Tensor]
    act_mode: Callable[[TrainState, Tensor], Tensor]
    observe: Callable[[TrainState, Tensor], TrainState]


def make_learner(config: TrainConfig, spec: EnvSpec) -> Learner:
    """Composes networks, loss and optimizer of a configuration for one environment."""
    algorithm = ALGORITHMS[config.algorithm]
    network = config.make_network(spec)
    opt = config.optimizer()
    train_step = make_train_step(config.make_loss(network), opt, tau=config.tau)

    def init(generators: Generators) -> TrainState:
        states = [
            init_state(
                network.init(of_seed["init"]),
                opt,
                observation_dim=spec.observation_dim,
                target_keys=algorithm.target_keys,
            )
            for of_seed in generators
        ]
        return stack_seeds(states).to(config.device)

    def draw_loss_noise(generators: Generators) -> Noise:
        draws = [algorithm.draw_noise(of_seed["loss"], network, config.batch_size) for of_seed in generators]
        return stack_seeds(draws).to(config.device)

    def sample(params: TensorDict, env_state: TensorDict, observation: Tensor, noise: Tensor) -> Tensor:
        return network.sample(params["actor"], normalize(env_state["observation"], observation), noise)[0]

    def mode(params: TensorDict, env_state: TensorDict, observation: Tensor) -> Tensor:
        return network.mode(params["actor"], normalize(env_state["observation"], observation))

    update = traced_at_first_call(vmap(train_step), compile=config.compiles)
    sample_seeds, mode_seeds = (traced_at_first_call(vmap(fn)) for fn in (sample, mode))

    def act(state: TrainState, observation: Tensor, noise: Tensor) -> Tensor:
        return sample_seeds(state["params"], state["env_state"], observation, noise)

    def act_mode(state: TrainState, observation: Tensor) -> Tensor:
        return mode_seeds(state["params"], state["env_state"], observation)

    return Learner(network, init, update, draw_loss_noise, act, act_mode, observe)


def observe(state: TrainState, observation: Tensor) -> TrainState:
    """The state with raw observations `[S, E, O]` taken into its normaliser; nothing else is touched."""
    new_state = state.copy()
    env_state = state["env_state"].copy()
    env_state["observation"] = update_normalizer(env_state["observation"], observation)
    new_state["env_state"] = env_state
    return new_state


def last_metrics(metrics: Metrics) -> dict[str, Tensor]:
    """The scalar metrics `[S]` of an update by their names in the logs: losses under `loss/`, the rest `train/`."""
    return {
        f"loss/{name.removeprefix('loss_')}" if name.startswith("loss") else f"train/{name}": value
        for name, value in metrics.items()
        if value.dim() == 1 and value.is_floating_point()
    }
