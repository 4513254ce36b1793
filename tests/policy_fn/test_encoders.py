"""Which encoder an environment gets, and what actor and critics see of it."""

import itertools

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.core.normalizer import init_normalizer, normalize, update_normalizer
from rlhive.core.pixel_spec import PixelSpec
from rlhive.policy_fn import load
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import Flat, cnn, encoder_from_dict, feature_dim, named_encoder, network_input
from rlhive.policy_fn.loading import DTYPES
from rlhive.policy_fn.r3m import R3M
from rlhive.runs.run_spec import new_run_spec
from tests.helpers import make_pixel_policy

PIXELS = PixelSpec(cameras=("a", "b"), height=16, width=12)
SMALL = cnn(PIXELS, layers=((4, 4, 2),), dim=3)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("FrankaReachRandom_v2d-v0", ("r3m", {})),
        ("FrankaReachRandom_vr3m50-v0", ("r3m", {"depth": 50})),
        ("door_vrrl18-v1", ("rrl", {"depth": 18})),
        ("FrankaReachRandom_vflat-v0", ("flat", {})),
    ],
)
def test_the_id_names_the_encoder(name, encoder):
    assert named_encoder(name) == encoder


def test_an_encoder_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="there is no encoder VC-1 here; take the id with _v2d"):
        named_encoder("FrankaReachRandom_vvc1s-v0")


@pytest.mark.parametrize("encoder", [R3M("rrl34", "random", frozen=False), SMALL, Flat()])
def test_an_encoder_is_its_description(encoder):
    assert encoder_from_dict(encoder.to_dict()) == encoder


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown kind 'vit'; there are r3m, cnn, flat.*KINDS"):
        encoder_from_dict({"kind": "vit"})


def test_flat_images():
    pixels = (
        torch.arange(2 * 16 * 12 * 3, dtype=torch.int64)
        .remainder(256)
        .to(torch.uint8)
        .reshape(1, *PIXELS.shape)
    )
    features = Flat().apply(Flat().init(torch.Generator()), pixels)
    assert features.shape == (1, feature_dim(Flat(), PIXELS)) and features[0, 255] == 1.0
    assert feature_dim(None, None) == 0


@pytest.mark.parametrize("encoder", [Flat(), SMALL])
def test_the_networks_see_what_is_normalised_once(encoder):
    draw = torch.Generator().manual_seed(0)
    params = TensorDict({"encoder": encoder.init(draw)})
    seen = TensorDict(
        {
            "observation": 5.0 + torch.randn(3, 4, generator=draw),
            "pixels": torch.randint(256, (3, *PIXELS.shape), generator=draw).to(torch.uint8),
        }
    )
    features = encoder.apply(params["encoder"], seen["pixels"])
    raw = seen["observation"] if isinstance(encoder, CNN) else torch.cat([seen["observation"], features], -1)
    normalizer = update_normalizer(init_normalizer(raw.shape[-1]), raw)
    expected = (raw - normalizer["loc"]) / normalizer["scale"].clamp(min=1e-3)
    if isinstance(encoder, CNN):
        expected = torch.cat([expected, features], -1)
    env_state = TensorDict({"observation": normalizer})
    torch.testing.assert_close(network_input(encoder, params, env_state, seen.lock_()), expected)


@pytest.mark.parametrize(
    ("encoder", "dtype"),
    [(R3M("r3m18", "random"), torch.bfloat16), *itertools.product((SMALL, Flat()), DTYPES)],
)
def test_a_policy_that_sees_computes_in_any_dtype(encoder, dtype, franka_spec):
    policy = make_pixel_policy(attrs.evolve(franka_spec, pixels=PIXELS), encoder)
    seen = {"observation": np.ones(21, np.float32), "pixels": np.full(PIXELS.shape, 99, np.uint8)}
    other = load(policy.params, policy.env_state, spec=policy.spec, dtype=dtype)
    assert np.allclose(other(seen), policy(seen), rtol=0, atol=0.05) and other(seen).dtype == np.float32


def test_a_policy_without_cameras_acts_on_the_observation_alone(franka_spec):
    env = attrs.evolve(franka_spec, pixels=PixelSpec((), 64, 64, "fast"))
    network = actor_critic(env, hidden_sizes=(8,))
    spec = new_run_spec("sac", env, network, Flat())
    params = network.init(torch.Generator().manual_seed(0))
    observations = torch.randn(9, env.observation_dim, generator=torch.Generator().manual_seed(0))
    normalizer = update_normalizer(init_normalizer(env.observation_dim), observations)
    policy = load(params, TensorDict({"observation": normalizer}), spec=spec)
    seen = {"observation": np.ones((2, env.observation_dim), np.float32)}
    seen["pixels"] = np.zeros((2, *env.pixels.shape), np.uint8)
    normalized = normalize(normalizer, torch.from_numpy(seen["observation"]))
    assert np.allclose(policy(seen), network.mode(params["actor"], normalized).numpy())
