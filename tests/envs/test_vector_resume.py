"""Environments go back into an episode by the actions taken there, bit for bit."""

import attrs
import numpy as np
import pytest
import torch

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.vector import VectorEnv
from tests.envs.toy import ReachPoint

NAMES = ["FrankaReachRandom-v0", "door-v1", "FK1_LightOnRandom-v4", "DKittyWalkRandom-v0", "baoding-v1"]


def random_actions(envs, steps):
    """Actions within the limits, `[steps, S, E, A]`."""
    low, high = torch.tensor(envs.spec.action_low), torch.tensor(envs.spec.action_high)
    rng = np.random.default_rng(0)
    uniform = torch.from_numpy(rng.random((steps, *envs.shape, envs.spec.action_dim), dtype=np.float32))
    return low + uniform * (high - low)


def play(envs, actions):
    steps = []
    for action in actions:
        envs.send(action)
        steps.append(envs.recv())
    return steps


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_under_way_is_found_again(name):
    with (
        VectorEnv(name, seeds=[3], num_workers=0) as envs,
        VectorEnv(name, seeds=[3], num_workers=0) as fresh,
    ):
        limit = envs.spec.max_episode_steps
        actions = random_actions(envs, limit + 14)
        envs.reset()
        steps = play(envs, actions[: limit + 7])
        number = sum(int(step["next", "done"]) for step in steps)
        elapsed = next((i for i, step in enumerate(reversed(steps)) if step["next", "done"]), len(steps))
        taken = actions[limit + 7 - elapsed : limit + 7, 0, 0]
        found = fresh.resume(torch.tensor([[number]]), [[taken]])
        assert number >= 1 and torch.equal(found["observation"], steps[-1]["observation"])
        for one, other in zip(play(envs, actions[-7:]), play(fresh, actions[-7:]), strict=True):
            assert bool((one == other).all())


@pytest.mark.parametrize(("frames", "drawn"), [(1, [3]), (3, [0, 1, 2, 3])])
def test_a_resumed_episode_draws_what_is_seen_of_it_and_once(frames, drawn):
    steps = []

    class Seen(ReachPoint):
        def __init__(self):
            super().__init__()
            self.spec = attrs.evolve(self.spec, pixels=PixelSpec(("eye",), 1, 1, frames=frames))

        def render(self, out, depth):
            steps.append(self._elapsed)

    with VectorEnv(Seen, seeds=[1], num_workers=0) as env:
        env.resume(torch.zeros(1, 1, dtype=torch.int64), [[torch.zeros(3, 1)]])
    assert steps == drawn


def test_each_environment_is_in_an_episode_of_its_own():
    with VectorEnv("FrankaReachRandom-v0", seeds=[1, 5], num_envs=2, num_workers=2) as envs:
        envs.reset()
        first = envs.reset()["observation"]
        none = torch.zeros(0, envs.spec.action_dim)
        found = envs.resume(torch.ones(2, 2, dtype=torch.int64), [[none, none], [none, none]])
        assert torch.equal(found["observation"], first)
        envs.keep([1])
        assert torch.equal(
            envs.resume(torch.ones(1, 2, dtype=torch.int64), [[none, none]])["observation"], first[1:]
        )
