"""The update of each algorithm, and of a policy that sees, on a GPU: the values that it has on the CPU."""

import attrs
import numpy as np
import pytest
import torch

import gin
from rlhive.algorithms import ALGORITHMS
from rlhive.config import load_config
from rlhive.core.keys import make_generators
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.random import Key
from rlhive.core.tree import stack_seeds, to_device
from rlhive.data.trace import trace_file, write_trial
from rlhive.losses_fn.pixels import draw_shifts
from rlhive.policy_fn import load
from rlhive.training.learner import keys_of, make_learner
from tests.helpers import make_batch, make_pixel_policy, make_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BATCH = 32
IMAGES = "images.image_size=(40, 48)", "images.cameras=('left_cam', 'top_cam')", "images.frames=2"
SEEING = "sac_cnn.gin", ("sac_network.hidden_sizes=(64, 64)", *IMAGES)


def update(device, file, settings, seeds=(2,)):
    """The moments of Adam, as the gradients are, and the metrics after one update of each seed."""
    settings = [*settings, f"DEVICE='{device}'", f"SEEDS={list(seeds)}", f"train.compile={device == 'cuda'}"]
    config = load_config([file], [f"train.batch_size={BATCH}", *settings])
    spec = attrs.evolve(make_spec(), pixels=config.pixels)
    learner = make_learner(config, spec, config.make_encoder())
    generators = [make_generators(seed) for seed in seeds]
    batch, state = stack_seeds([draw_batch(seed, config.pixels) for seed in seeds]), learner.init(generators)
    gin.clear_config()
    noise = learner.draw_loss_noise(generators) if device == "cuda" else noise_of_gpu(config, learner, seeds)
    after, metrics = learner.train_step(state, to_device(batch, device), noise)
    return after["opt_state"].cpu(), metrics.cpu()


def noise_of_gpu(config, learner, seeds):
    """What a GPU draws by itself, from the keys of streams that nothing was drawn from."""
    draw, streams = ALGORITHMS[config.algorithm].draw_noise, [make_generators(seed)["loss"] for seed in seeds]
    keys = [Key(key, torch.tensor(0)) for key in keys_of(streams)["key"]]
    noise = stack_seeds([draw(key, learner.network, BATCH) for key in keys])
    if config.pixels is not None:
        noise.update(stack_seeds([draw_shifts(stream, BATCH) for stream in streams]))
    return noise


def draw_batch(seed, pixels):
    draw = torch.Generator().manual_seed(seed)
    batch = make_batch(draw, BATCH)
    if pixels is not None:
        for seen in (batch, batch["next"]):
            seen["pixels"] = torch.randint(256, (BATCH, *pixels.shape), generator=draw, dtype=torch.uint8)
    return batch


def assert_close(found, expected, rtol, atol):
    for one, other in zip(found.values(True, True), expected.values(True, True), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        SEEING,
        ("iql.gin", ()),
        ("td3_bc.gin", ()),
        ("bc_mixture.gin", ()),
    ],
)
def test_an_update_equals_that_of_the_cpu(tmp_path, file, settings):
    if not file.startswith("sac"):
        with trace_file(tmp_path / "demo.h5", "FrankaReachRandom-v0") as written:
            write_trial(
                written,
                "Trial0",
                {"observations": np.ones((3, 21)), "actions": np.zeros((3, 9)), "rewards": np.zeros(3)},
            )
        settings = [f"DATASET='{tmp_path / 'demo.h5'}'"]
    (found, metrics), (expected, expected_metrics) = (
        update(device, file, settings) for device in ("cuda", "cpu")
    )
    assert_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_seed_that_sees_is_among_others_what_it_is_alone():
    """To rounding: convolutions are those of all seeds in groups here."""
    together, again, alone = (update("cuda", *SEEING, seeds) for seeds in ((5, 2, 9), (5, 2, 9), (2,)))
    for ours, same, own in zip(together, again, alone, strict=True):
        assert bool((ours == same).all())
        assert_close(ours[1:2], own, rtol=1e-4, atol=1e-5)


def test_a_policy_that_sees_acts_as_on_the_cpu():
    env = attrs.evolve(make_spec(), pixels=PixelSpec(("left_cam",), 64, 64))
    policy, draw = make_pixel_policy(env), torch.Generator().manual_seed(0)
    there = load(policy.params, policy.env_state, spec=policy.spec, device="cuda")
    images = torch.randint(256, (8, 1, 64, 64, 3), generator=draw, dtype=torch.uint8)
    seen = {"observation": torch.randn(8, 5, generator=draw), "pixels": images}
    torch.testing.assert_close(there(seen), policy(seen), rtol=1e-5, atol=1e-5)
