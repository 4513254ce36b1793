"""The peer of the wall-clock benchmark: Stable-Baselines3's SAC with the networks and settings of gin/sac.gin.

    uv run --group bench python benchmarks/sb3_sac.py FrankaReachRandom-v0 6000

Prints one JSON object: seconds and environment steps of the training loop alone, and the sizes of the networks.
"""

from __future__ import annotations

import json
import sys
import time

import gymnasium
from stable_baselines3 import SAC
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from rlhive.envs import simhive
from rlhive.envs.importing import quiet


class LayerNormPolicy(SACPolicy):
    """SB3's networks with a LayerNorm before each hidden activation of the critics, which it has no option for."""

    def make_critic(self, features_extractor=None):
        critic = super().make_critic(features_extractor)
        for index, network in enumerate(critic.q_networks):
            layers, width = [], 0
            for layer in network:
                layers += [nn.LayerNorm(width), layer] if isinstance(layer, nn.ReLU) else [layer]
                width = getattr(layer, "out_features", width)
            critic.q_networks[index] = critic._modules[f"qf{index}"] = nn.Sequential(*layers)
        return critic


def main(env_name: str, steps: int) -> None:
    simhive.ensure()
    with quiet():
        import robohive  # noqa: F401

        env = gymnasium.make(env_name)
    model = SAC(
        LayerNormPolicy,
        env,
        learning_rate=1e-3,
        gamma=0.95,
        learning_starts=1000,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
        seed=1,
    )
    sizes = {
        name: sum(leaf.numel() for leaf in module.parameters())
        for name, module in (("actor", model.actor), ("critic", model.critic))
    }
    started = time.perf_counter()
    with quiet():
        model.learn(steps)
    report = {"seconds": time.perf_counter() - started, "steps": steps, "num_parameters": sizes}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
