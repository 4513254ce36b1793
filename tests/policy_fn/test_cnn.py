"""The trained encoder: shapes, init, seeds under vmap, gradients."""

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.func import grad, vmap

from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree_file import named_leaves
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import cnn
from rlhive.policy_fn.resnet import ResNet
from tests.helpers import make_pixel_policy
from tests.policy_fn.resnets import random_pixels

TWO_CAMERAS = PixelSpec(cameras=("left", "right"), height=64, width=64, quality="fast")


def trees(encoder, count):
    return [encoder.init(torch.Generator().manual_seed(seed)) for seed in range(count)]


@pytest.mark.parametrize(("height", "width", "frames"), [(64, 64, 1), (84, 84, 3), (48, 64, 2)])
def test_features_of_each_camera_in_turn(height, width, frames):
    encoder = CNN(height, width, frames)
    (params,) = trees(encoder, 1)
    pixels = random_pixels(5, 2, height, width, 3 * frames)
    features = encoder.apply(params, pixels)
    assert features.shape == (5, encoder.feature_dim(TWO_CAMERAS)) and features.dtype == torch.float32
    assert features.abs().max() < 1.0 and features.std() > 0.1
    torch.testing.assert_close(features[:, encoder.dim :], encoder.apply(params, pixels[:, 1:]))


def test_init_is_orthogonal_and_repeatable():
    encoder = CNN(64, 64)
    one, again = trees(encoder, 1)[0], trees(encoder, 1)[0]
    assert (one == again).all()
    rows = one["conv_1", "weight"].flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2.0 * torch.eye(len(rows)), rtol=1e-4, atol=1e-4)
    assert not (one == trees(encoder, 2)[1]).all()


def test_seeds_under_vmap_equal_a_loop_over_them():
    encoder = CNN(64, 64)
    each = trees(encoder, 3)
    pixels = random_pixels(3, 8, 1, 64, 64, 3)
    together = vmap(encoder.apply)(torch.stack(each), pixels)
    gradient = grad(lambda params, images: encoder.apply(params, images).square().mean())
    gradients = vmap(gradient)(torch.stack(each), pixels)
    for index, params in enumerate(each):
        torch.testing.assert_close(together[index], encoder.apply(params, pixels[index]))
        alone = named_leaves(gradient(params, pixels[index]))
        for name, leaf in named_leaves(gradients[index]).items():
            torch.testing.assert_close(leaf, alone[name], rtol=1e-4, atol=1e-6)


def test_one_seed_under_vmap_has_the_bits_of_none():
    encoder = CNN(64, 64)
    [params], pixels = trees(encoder, 1), random_pixels(2, 1, 64, 64, 3)
    assert torch.equal(vmap(encoder.apply)(params[None], pixels[None])[0], encoder.apply(params, pixels))


def test_policies_that_see_can_be_vmapped_over_observations(franka_spec):
    policy = make_pixel_policy(attrs.evolve(franka_spec, pixels=PixelSpec(("a", "b"), 24, 24, frames=2)))
    seen = TensorDict(
        {"observation": torch.randn(5, 21), "pixels": random_pixels(5, 2, 24, 24, 6)}, batch_size=[5]
    )
    mapped = vmap(lambda one: policy.apply(policy.params, policy.env_state, one))(seen.unsqueeze(1))
    torch.testing.assert_close(mapped.squeeze(1), policy(seen), rtol=0, atol=1e-6)


def test_images_that_lie_backwards_in_memory_or_in_a_file_are_seen_as_they_are(franka_spec):
    policy = make_pixel_policy(attrs.evolve(franka_spec, pixels=PixelSpec(("a", "b"), 24, 24)))
    vector, pixels = np.zeros((3, 21), np.float32), random_pixels(3, 2, 24, 24, 3).numpy()
    written = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)  # not to be written to
    for turned in (
        pixels[..., ::-1],
        np.flip(pixels, (2, 3)),
        pixels[::-1],
        np.asfortranarray(pixels),
        written,
    ):
        assert np.array_equal(
            policy({"observation": vector, "pixels": turned}),
            policy({"observation": vector, "pixels": turned.copy()}),
        )
    assert np.array_equal(pixels, written)


def test_what_a_policy_that_sees_does_not_read_is_named(franka_spec):
    policy = make_pixel_policy(attrs.evolve(franka_spec, pixels=PixelSpec(("a",), 24, 24)))
    seen = {"observation": np.zeros(21, np.float32), "pixels": np.zeros((1, 24, 24, 3), np.uint8)}
    with pytest.raises(ValueError, match=r"unexpected \['depth'\] beside"):
        policy(seen | {"depth": np.zeros((1, 24, 24), np.float32)})


def test_gradients_equal_finite_differences():
    encoder = CNN(16, 16, layers=((2, 4, 2), (2, 3, 1)), dim=3)
    params = trees(encoder, 1)[0].double()
    pixels = random_pixels(2, 1, 16, 16, 3)

    def loss(tree):  # `apply` computes in float32, so the differences are wide
        return encoder.apply(tree.float(), pixels).square().sum().double()

    gradient = named_leaves(grad(loss)(params))
    for name, leaf in named_leaves(params).items():
        index = gradient[name].abs().flatten().argmax()
        moved = [params.clone() for _ in range(2)]
        for tree, sign in zip(moved, (1, -1), strict=True):
            named_leaves(tree)[name].view(-1)[index] += sign * 1e-3
        numeric = (loss(moved[0]) - loss(moved[1])) / 2e-3
        torch.testing.assert_close(numeric, gradient[name].flatten()[index], rtol=0.02, atol=1e-3)
        assert gradient[name].any() and leaf.isfinite().all()


def test_what_is_in_the_spec_comes_back():
    encoder = cnn(attrs.evolve(TWO_CAMERAS, frames=3), layers=[(16, 8, 4), (32, 4, 2)], dim=32)
    assert CNN.from_dict(encoder.to_dict()) == encoder
    assert encoder.name == "cnn" and not encoder.frozen


@pytest.mark.parametrize("wrong", [{"height": 0}, {"layers": ((8, 3),)}, {"dim": 0}, {"height": 8}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError):
        CNN(**{"height": 64, "width": 64, **wrong})


def test_a_seed_draws_what_its_generator_does():
    for network in (cnn(TWO_CAMERAS, dim=8), ResNet(18)):
        drawn = named_leaves(network.init(torch.Generator().manual_seed(3)))
        assert all(torch.equal(leaf, drawn[name]) for name, leaf in named_leaves(network.init(3)).items())


def test_messages_name_the_dtype_of_tensors_and_what_belongs_beside_pixels(franka_spec):
    spec = attrs.evolve(franka_spec, pixels=PixelSpec(("top_cam",), 32, 32))
    policy = make_pixel_policy(spec)
    vector, pixels = torch.zeros(spec.observation_dim), torch.zeros(spec.pixels.shape, dtype=torch.uint8)
    for dtype in (torch.bool, torch.int16):
        with pytest.raises(ValueError, match=rf"got {str(dtype).removeprefix('torch.')} "):
            policy({"observation": vector, "pixels": pixels.to(dtype)})
    with pytest.raises(ValueError, match='beside "pixels", or "observation"'):
        policy({"pixels": pixels})
    expected = policy({"observation": vector, "pixels": pixels})
    assert torch.equal(policy({"observation": vector.long(), "pixels": pixels}), expected)
