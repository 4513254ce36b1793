"""Images per second of the frozen encoder, against torchvision's module and TorchRL's transform with the same weights.

    OMP_NUM_THREADS=1 uv run pytest benchmarks/test_encoder_benchmark.py -s

Every side makes embeddings of the same uint8 images of 224x224, in eval mode and without gradients; they are compared
first. All sides take turns in one process; the medians over the rounds count.
"""

import statistics
import time

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.transforms import R3MTransform
from torchvision.transforms import Normalize

from rlhive.policy_fn.r3m import from_module
from tests.policy_fn.resnets import assert_same_embeddings, random_pixels, torchvision_resnet

ROUNDS = 7
OTHER_SIZE = "TorchRL at its default 244x244"  # other embeddings, so it is shown and not compared


def torchvision_side(depth):
    module, normalize = torchvision_resnet(depth), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def embed(pixels):
        images = pixels[:, 0].permute(0, 3, 1, 2).contiguous().float() / 255.0  # as ToTensor does
        return module(normalize(images))

    return embed


def torchrl_side(depth, size=224):
    transform = R3MTransform(f"resnet{depth}", in_keys=["pixels"], size=size).eval()
    transform[-1].convnet.load_state_dict(torchvision_resnet(depth).state_dict())

    def embed(pixels):
        batch = TensorDict({"pixels": pixels[:, 0]}, batch_size=[len(pixels)])
        return transform(batch)["r3m_vec"]

    return embed


@pytest.fixture
def sides(depth, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path))
    encoder = from_module(torchvision_resnet(depth), f"rrl{depth}")
    params = encoder.init(torch.Generator())
    return {
        "RLHive": lambda pixels: encoder.apply(params, pixels),
        "torchvision": torchvision_side(depth),
        "TorchRL": torchrl_side(depth),
        OTHER_SIZE: torchrl_side(depth, size=244),
    }


@torch.no_grad()
@pytest.mark.timeout(900)
@pytest.mark.parametrize("depth", [18, 50])
def test_images_per_second(benchmark, sides, depth):
    ratios = {}
    for batch in (1, 4, 16, 64):
        pixels = random_pixels(batch, 1, 224, 224, 3)
        expected = sides["torchvision"](pixels)
        for name in ("RLHive", "TorchRL"):
            assert_same_embeddings(sides[name](pixels), expected)
        rates = images_per_second(sides, pixels)
        benchmark.extra_info[f"batch {batch}"] = rates
        print(
            f"\nResNet-{depth}, batch {batch}: "
            + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
        )
        ratios |= {(name, batch): rates["RLHive"] / rate for name, rate in rates.items()}
    print("ratios: " + ", ".join(f"{name} {batch} {ratio:.2f}" for (name, batch), ratio in ratios.items()))
    benchmark.pedantic(sides["RLHive"], args=(pixels,), rounds=1)
    least = {"RLHive": 1.0, "torchvision": 1.0, "TorchRL": 1.3}
    assert all(ratio >= least[name] for (name, _), ratio in ratios.items()), ratios


def images_per_second(sides, pixels):
    """Of each side, over rounds in which they take turns; small batches several times a round."""
    times = {name: [] for name in sides}
    repeats = max(1, 8 // len(pixels))
    for _ in range(ROUNDS):
        for name, embed in sides.items():
            started = time.perf_counter()
            for _ in range(repeats):
                embed(pixels)
            times[name].append((time.perf_counter() - started) / repeats)
    return {name: len(pixels) / statistics.median(of_side) for name, of_side in times.items()}
