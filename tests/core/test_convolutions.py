"""Convolutions of seeds side by side: the values of `vmap`, with the bits that each seed has alone."""

import attrs
import pytest
import torch
from tensordict import TensorDict
from torch.func import grad, vmap

from rlhive.config import load_config
from rlhive.core.compile import trace
from rlhive.core.convolutions import exact_convolutions
from rlhive.core.keys import make_generators
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree import stack_seeds
from rlhive.machine import has_compiler
from rlhive.policy_fn.cnn import CNN
from rlhive.policy_fn.encoders import r3m
from rlhive.training.learner import make_learner
from tests.helpers import make_spec

PIXELS = PixelSpec(cameras=("left_cam", "top_cam"), height=40, width=48, quality="fast", frames=2)
BATCH = 6
IMAGES = ["images.image_size=(40, 48)", "images.cameras=('left_cam', 'top_cam')", "images.frames=2"]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def draw_seen(draw, size, shape):
    return {
        "observation": torch.randn(size, 5, generator=draw),
        "pixels": torch.randint(256, (size, *shape), generator=draw, dtype=torch.uint8),
    }


def draw_batch(seed, shape):
    draw = torch.Generator().manual_seed(seed)
    flags = torch.zeros(BATCH, 1, dtype=torch.bool)
    reward = torch.randn(BATCH, 1, generator=draw)
    following = {**draw_seen(draw, BATCH, shape), "reward": reward, "terminated": flags, "done": flags}
    action = torch.rand(BATCH, 2, generator=draw)
    return TensorDict({**draw_seen(draw, BATCH, shape), "action": action, "next": following}, [BATCH])


def learn(name, bindings, seeds):
    """The state after two updates of each seed, the metrics of the last one, and what the policy does then."""
    small = [f"SEEDS={seeds}", "sac_network.hidden_sizes=(16, 16)", f"train.batch_size={BATCH}"]
    config = load_config([name], [*small, *bindings])
    spec = attrs.evolve(make_spec(), pixels=config.pixels)
    learner = make_learner(config, spec, config.make_encoder())
    generators = [make_generators(seed) for seed in seeds]
    state = learner.init(generators)
    for _ in range(2):
        batch = stack_seeds([draw_batch(seed, config.pixels.shape) for seed in seeds])
        state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
    noise = torch.stack([torch.full((1, 2), 0.1 * seed) for seed in seeds])
    return state, metrics, learner.act(state, batch[:, :1].select("observation", "pixels"), noise)


@pytest.mark.parametrize(
    ("name", "bindings"),
    [
        ("sac_cnn.gin", (*IMAGES, "train.compile=False")),
        pytest.param("sac_cnn.gin", (*IMAGES, "train.compile=True"), marks=pytest.mark.slow),  # a minute
    ],
)
def test_a_seed_that_sees_is_the_same_alone_and_among_others(threads, name, bindings):
    assert has_compiler(), "install g++: Inductor needs it"
    together, alone = (learn(name, bindings, seeds) for seeds in ((5, 2, 9), (2,)))
    for ours, own in zip(together, alone, strict=True):
        equal = ours[1:2] == own
        assert bool(equal.all())


@pytest.mark.parametrize("groups", [1, 3])
def test_convolutions_one_by_one_have_the_values_of_vmap(groups):
    cnn = CNN(PIXELS.height, PIXELS.width, PIXELS.frames, layers=((8, 5, 2), (8, 3, 1)), dim=7)
    params = stack_seeds([cnn.init(torch.Generator().manual_seed(seed)).double() for seed in range(groups)])
    pixels = torch.stack([draw_batch(seed, PIXELS.shape)["pixels"] for seed in range(groups)])
    gradient = vmap(grad(lambda params, pixels: cnn.apply(params, pixels).square().sum()))
    for fn in (vmap(cnn.apply), gradient):
        result, expected = trace(fn, params, pixels)(params, pixels), fn(params, pixels)
        difference = result - expected
        assert bool((difference.abs() <= 1e-9 + 1e-9 * expected.abs()).all())


def test_fine_tuned_r3m_is_the_same_to_rounding_alone_and_among_others():
    encoder = r3m(PixelSpec(("top_cam",), 64, 64), weights="random", frozen=False)
    params = stack_seeds([encoder.init(torch.Generator().manual_seed(seed)) for seed in range(2)])
    pixels = torch.stack([draw_batch(seed, (1, 64, 64, 3))["pixels"][:2] for seed in range(2)])
    apply = vmap(encoder.apply)
    together = trace(apply, params, pixels)(params, pixels)
    alone = trace(apply, params[1:], pixels[1:])(params[1:], pixels[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)


def test_convolutions_of_other_than_images_stay_as_they_are():
    draw = torch.Generator().manual_seed(0)
    for conv, size in ((torch.nn.functional.conv1d, (5,)), (torch.nn.functional.conv3d, (5, 5, 5))):
        x, weight = torch.randn(2, 4, 3, *size, generator=draw), torch.randn(2, 6, 3, *size, generator=draw)
        fn = vmap(grad(lambda weight, x, conv=conv: conv(x, weight).square().sum()))
        torch.testing.assert_close(trace(fn, weight, x)(weight, x), fn(weight, x))


def test_a_convolution_of_no_seeds_keeps_its_bias():
    draw = torch.Generator().manual_seed(0)
    shapes = (4, 3, 3, 3), (4,), (2, 3, 8, 8)
    weight, bias, x = (torch.randn(shape, generator=draw) for shape in shapes)

    def loss(weight, bias, x):
        return torch.nn.functional.conv2d(x, weight, bias, 2).square().sum()

    fn = grad(loss, argnums=(0, 1, 2))
    torch.testing.assert_close(trace(fn, weight, bias, x)(weight, bias, x), fn(weight, bias, x))


@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions_are_exact_inside_alone(tf32):
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, allow_tf32=tf32):
        with pytest.raises(KeyboardInterrupt), exact_convolutions():
            assert (cudnn.conv.fp32_precision, cudnn.deterministic) == ("ieee", True)
            raise KeyboardInterrupt
        assert (cudnn.allow_tf32, cudnn.deterministic) == (tf32, False)
