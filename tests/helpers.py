"""Small inputs that several tests share."""

import torch
from tensordict import TensorDict

from rlhive.core.env_spec import EnvSpec
from rlhive.policy_fn.actor import ActorCritic, actor_critic


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
