"""R3M and RRL: the authors' preprocessing and module, one embedding per image whatever the batch, fine-tuning."""

import subprocess
import sys

import attrs
import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree_file import named_leaves
from rlhive.data.features import make_encode
from rlhive.policy_fn.encoder_weights import write_weights
from rlhive.policy_fn.r3m import R3M, from_module, load_r3m, preprocess
from rlhive.policy_fn.resnet import ResNet
from tests.policy_fn.resnets import assert_same_embeddings, r3m_module, random_pixels, torchvision_resnet

KEY = torch.Generator()
CAMERA = PixelSpec(cameras=("right",), height=64, width=64, quality="fast")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (64, 64), (240, 424), (300, 257), (480, 640)])
def test_equals_the_authors_module_at_every_image_size(size):
    module = r3m_module(18)
    encoder = from_module(module, "r3m18")
    pixels = random_pixels(2, 1, *size, 3)
    images = pixels[:, 0].permute(0, 3, 1, 2)
    expected = module.module(images, list(images.shape[1:]))
    for frozen in (True, False):
        encoder = R3M(encoder.name, encoder.weights, frozen)
        assert_same_embeddings(encoder.apply(encoder.init(KEY), pixels), expected)


@torch.no_grad()
@pytest.mark.parametrize("depth", [34, 50])
def test_deeper_ones_equal_the_authors_module(depth):
    module = r3m_module(depth)
    encoder = from_module(module, f"r3m{depth}")
    pixels = random_pixels(1, 2, 224, 224, 3)
    features = encoder.apply(encoder.init(KEY), pixels)
    assert features.shape == (1, 2 * encoder.feature_dim(CAMERA))
    images = pixels[0].permute(0, 3, 1, 2)
    assert_same_embeddings(features, module.module(images, [3, 224, 224]).flatten()[None])


def test_preprocessing_equals_torchvisions_transforms_bit_for_bit():
    from torchvision import transforms

    steps = [transforms.Resize(256), transforms.CenterCrop(224)]
    steps.append(transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    for height, width in ((64, 64), (84, 84), (240, 424), (480, 640)):
        images = random_pixels(2, height, width, 3)
        expected = transforms.Compose(steps)(images.permute(0, 3, 1, 2).float() / 255.0)
        assert torch.equal(preprocess(images), expected)


@torch.no_grad()
def test_an_image_has_one_embedding_in_any_batch_and_position():
    encoder = load_r3m("r3m18", weights="random")
    params = encoder.init(KEY)
    pixels = random_pixels(14, 1, 64, 64, 3)
    whole = encoder.apply(params, pixels)
    for count in (1, 2, 3, 8, 13):
        assert torch.equal(encoder.apply(params, pixels[:count]), whole[:count])
    assert torch.equal(encoder.apply(params, pixels.flip(0)), whole.flip(0))
    two_cameras = encoder.apply(params, pixels.unflatten(0, (7, 2)).squeeze(2))
    assert torch.equal(two_cameras.view_as(whole), whole)


@torch.no_grad()
def test_bfloat16_features_are_close_and_one_per_image_too():
    encoder = from_module(torchvision_resnet(18), "r3m18")
    rounded = attrs.evolve(encoder, precision="bfloat16")
    params, pixels = encoder.init(KEY), random_pixels(6, 1, 64, 64, 3)
    assert (rounded.init(KEY) == params).all()  # files hold float32
    expected, found = encoder.apply(params, pixels), rounded.apply(params, pixels)
    assert found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.abs().max()
    assert 1e-4 < error < 1e-2
    for count in (1, 2, 5):
        assert torch.equal(rounded.apply(params, pixels[:count]), found[:count])


_EMBED = """
import sys, torch
from rlhive.policy_fn.r3m import R3M
from tests.policy_fn.resnets import random_pixels
torch.set_num_threads(2)
for weights in sys.argv[1:]:
    encoder = R3M("r3m18", weights)
    features = encoder.apply(encoder.init(torch.Generator()), random_pixels(4, 1, 64, 64, 3))
    print(features.numpy().tobytes().hex())
"""


def test_another_process_with_more_threads_gives_the_same_embeddings():
    given = from_module(torchvision_resnet(18), "r3m18").weights
    command = [sys.executable, "-c", _EMBED, given, "random"]
    there = subprocess.check_output(command, text=True).split()
    for weights, features in zip((given, "random"), there, strict=True):
        encoder = R3M("r3m18", weights)
        here = encoder.apply(encoder.init(torch.Generator()), random_pixels(4, 1, 64, 64, 3))
        assert here.numpy().tobytes().hex() == features


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_embeddings_to_the_rounding():
    images, nothing = random_pixels(16, 1, 64, 64, 3).numpy(), np.zeros((16, 0), np.float32)
    found, expected = (
        make_encode(R3M("r3m18", "random"), device)(nothing, images) for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5 * np.abs(expected).max())


def test_fine_tuning_gradients_are_those_of_the_module():
    module = r3m_module(18)
    encoder = from_module(module, "r3m18", frozen=False)
    params, pixels = encoder.init(KEY), random_pixels(2, 1, 64, 64, 3)
    gradient = named_leaves(grad(lambda tree: encoder.apply(tree, pixels).square().mean())(params))
    module.zero_grad()
    module.module(pixels[:, 0].permute(0, 3, 1, 2), [3, 64, 64]).square().mean().backward()
    for name, parameter in module.module.convnet.named_parameters():
        found = gradient.pop(name.replace(".", "/"))
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-4 * scale)
    assert not any(leaf.any() for leaf in gradient.values())  # running statistics stay


def test_fine_tuned_seeds_under_vmap_equal_a_loop():
    encoder = R3M("r3m18", "random", frozen=False)
    trees = [encoder.init(KEY), encoder.init(KEY).apply(lambda leaf: leaf * 1.01)]
    pixels = random_pixels(2, 3, 1, 64, 64, 3)
    together = vmap(encoder.apply)(torch.stack(trees), pixels)
    for index, params in enumerate(trees):
        assert_same_embeddings(together[index], encoder.apply(params, pixels[index]))


def test_what_is_in_the_spec_comes_back():
    for encoder in (R3M("r3m18", "random", precision="bfloat16"), R3M("rrl34", "random", frozen=False)):
        assert R3M.from_dict(encoder.to_dict()) == encoder
    assert encoder.to_dict() == {
        "kind": "r3m",
        "name": "rrl34",
        "weights": "random",
        "frozen": False,
        "precision": "float32",
        "image_size": 224,
    }


def test_weights_that_are_not_there_are_refused_with_what_to_do(cache):
    with pytest.raises(
        LoadError, match=r"no checksum .* download .*r3m_18\.pt and run .* convert FILE .*r3m18"
    ):
        load_r3m("r3m18")
    with pytest.raises(LoadError, match=f"sha256 {'a' * 64} .* convert FILE {cache}"):
        R3M("r3m18", "a" * 64).init(KEY)
    with pytest.raises(LoadError, match="no such file"):
        load_r3m("r3m18", weights="weights.pt")


def test_published_weights_of_another_depth_are_refused(cache):
    kept = cache / "encoders" / "r3m18.safetensors"
    write_weights(kept, ResNet(34).init(0), "a test")
    with pytest.raises(LoadError, match=f"{kept}: holds a ResNet-34, but r3m18 is a ResNet-18"):
        load_r3m("r3m18")


def test_wrong_names_networks_and_images_are_refused():
    with pytest.raises(ValueError, match=r"did you mean r3m18"):
        load_r3m("r3m-18")
    with pytest.raises(ValueError, match="weights"):
        R3M("r3m18", "published")
    with pytest.raises(ValueError, match="fine-tuned computes in float32, got bfloat16"):
        R3M("r3m18", "random", frozen=False, precision="bfloat16")
    with pytest.raises(LoadError, match=r"holds a ResNet-34, but r3m18 is a ResNet-18; use r3m34"):
        from_module(torchvision_resnet(34), "r3m18")
    with pytest.raises(ValueError, match="must be uint8"):
        preprocess(torch.zeros(1, 224, 224, 3))
