"""Features in the place of images: each image encoded once, those of ended episodes too."""

import pytest
import torch

from rlhive.envs import VectorEnv
from rlhive.policy_fn.encoders import Flat
from rlhive.training.encoded_env import EncodedEnv
from tests.envs.short_episodes import PIXELS, short_franka

ACTIONS = 2 * torch.rand(5, 2, 1, 9, generator=torch.Generator().manual_seed(0)) - 1


class Counting(Flat):
    """Counts the images it is given."""

    def apply(self, params, pixels):
        counts.append(len(pixels))
        return super().apply(params, pixels)


counts: list[int] = []


def flat(seen):
    """By hand."""
    return torch.cat([seen["observation"], seen["pixels"].flatten(2).float() / 255.0], dim=-1)


@pytest.fixture(scope="module")
def both():
    """What two environments with episodes of three steps show, and the same encoded."""
    counts.clear()
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=0) as plain:
        whole = [plain.reset(), *play(plain)]
    encoder = Counting()
    with VectorEnv(short_franka, seeds=[1, 2], num_workers=0) as vector:
        envs = EncodedEnv(vector, encoder, encoder.init(torch.Generator()))
        assert envs.shape == (2, 1) and envs.spec.pixels == PIXELS
        encoded = [envs.reset(), *play(envs)]
    return whole, encoded


def play(envs):
    for action in ACTIONS:
        envs.send(action)
        yield envs.recv()


def test_observation_and_features_in_one(both):
    for whole, encoded in zip(*both, strict=True):
        assert torch.equal(encoded["observation"], flat(whole))
        assert "pixels" not in encoded.keys()  # noqa: SIM118


def test_the_true_successors_are_encoded(both):
    for whole, encoded in zip(both[0][1:], both[1][1:], strict=True):
        assert torch.equal(encoded["next", "observation"], flat(whole["next"]))
        for name in ("reward", "terminated", "truncated", "done", "solved"):
            assert torch.equal(encoded["next", name], whole["next", name])
    assert any(step["next", "done"].any() for step in both[1][1:])


def test_no_image_is_encoded_twice(both):
    # Reset, five steps, and the last images of the two episodes that ended.
    assert counts == [
        2,
        2,
        2,
        2,
        2,
        2,
        2,
    ]
