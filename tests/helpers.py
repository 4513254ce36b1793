"""Small inputs that several tests share."""

import contextlib
import resource
from collections.abc import Iterable

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tensordict import TensorDict

from rlhive.core.env_spec import EnvSpec
from rlhive.core.keys import make_generators
from rlhive.core.optim import GradientTransformation
from rlhive.core.train_step import init_state
from rlhive.core.tree import stack_seeds
from rlhive.core.tree_file import content_hash
from rlhive.core.types import TrainState
from rlhive.losses_fn import draw_sac_noise
from rlhive.policy_fn import Policy, load
from rlhive.policy_fn.actor import ActorCritic, actor_critic
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import Encoder, feature_dim
from rlhive.runs.run_spec import new_run_spec


def make_spec(observation_dim: int = 5, action_low=(-1.0, -1.0), action_high=(1.0, 1.0)) -> EnvSpec:
    return EnvSpec(
        name="toy",
        observation_keys=("x",),
        observation_slices=((0, observation_dim),),
        observation_dim=observation_dim,
        action_dim=len(action_low),
        action_low=action_low,
        action_high=action_high,
        action_names=tuple(f"joint_{index}" for index in range(len(action_low))),
        dt=0.05,
        max_episode_steps=50,
    )


def make_network(**settings) -> ActorCritic:
    return actor_critic(make_spec(), hidden_sizes=(16, 16), **settings)


def make_batch(
    generator: torch.Generator, batch_size: int, observation_dim: int = 5, action_dim: int = 2
) -> TensorDict:
    def normal(width: int) -> torch.Tensor:
        return torch.randn(batch_size, width, generator=generator)

    terminated = torch.rand(batch_size, 1, generator=generator) < 0.2
    following = {
        "observation": normal(observation_dim),
        "reward": normal(1),
        "terminated": terminated,
        "done": terminated,
    }
    return TensorDict(
        {"observation": normal(observation_dim), "action": torch.tanh(normal(action_dim)), "next": following},
        batch_size=[],
    )


def make_sac_inputs(
    network: ActorCritic, opt: GradientTransformation, seeds: Iterable[int], batch_size: int = 16
) -> tuple[TrainState, TensorDict, TensorDict]:
    """States, minibatches and noises of SAC, `[S]`, as each seed draws them."""
    dims = {"observation_dim": network.observation_dim, "action_dim": network.action_dim}
    streams = [make_generators(seed) for seed in seeds]
    states = [
        init_state(
            network.init(own["init"]),
            opt,
            observation_dim=network.observation_dim,
            target_keys=("critic",),
        )
        for own in streams
    ]
    batches = [make_batch(own["replay"], batch_size, **dims) for own in streams]
    noises = [draw_sac_noise(own["loss"], network, batch_size) for own in streams]
    return stack_seeds(states), stack_seeds(batches), stack_seeds(noises)


def make_pixel_policy(env: EnvSpec, encoder: Encoder | None = None) -> Policy:
    """A policy that sees the images of `env`, its weights as they are drawn."""
    pixels = env.pixels
    encoder = encoder or CNN(pixels.height, pixels.width, pixels.frames, ((4, 8, 4),), dim=8)
    network = actor_critic(env, hidden_sizes=(16, 16), feature_dim=feature_dim(encoder, pixels))
    spec = new_run_spec("sac", env, network, encoder)
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator).update({"encoder": encoder.init(generator)})
    size = spec.normalized_dim
    constants = {"loc": torch.zeros(size), "scale": torch.ones(size), "count": torch.tensor(10.0)}
    return load(params, TensorDict({"observation": constants}), spec=spec)


def rewrite(path, change):
    """Writes the file again with its tensors and its header changed by `change(tensors, header)`."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    change(tensors, header)
    if "content_sha256" in header:  # one that fits, so that the change itself is found
        fields = {name: value for name, value in header.items() if name != "content_sha256"}
        header["content_sha256"] = content_hash(tensors, fields)
    save_file(tensors, path, header)


@contextlib.contextmanager
def files_up_to(size):
    """The system refuses to let files of this process become larger, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
