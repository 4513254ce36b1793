"""Images per second of the frozen encoder, against torchvision's module and TorchRL's transform with the same weights.

    OMP_NUM_THREADS=1 uv run pytest benchmarks/test_encoder_benchmark.py -s

Every side makes embeddings of the same uint8 images of 224x224, in eval mode and without gradients; they are compared
first. All sides take turns in one process; the medians over the rounds count. How fast the same thread multiplies
matrices is measured, too: convolutions in float32 cannot be much faster than that.
"""

import functools
import time
from pathlib import Path

import attrs
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.transforms import R3MTransform
from torchvision.transforms import Normalize

from benchmarks.timing import in_turns
from rlhive.policy_fn.r3m import from_module
from tests.policy_fn.resnets import assert_same_embeddings, random_pixels, torchvision_resnet

ROUNDS = 3
OTHER_SIZE = "TorchRL at its default 244x244"  # other embeddings, which are not compared
# Multiplications of an image, as torchvision documents them.
PRODUCTS = {
    18: 1.814e9,
    34: 3.664e9,
    50: 4.089e9,
}
LEAST = {
    # As fast as a matrix product, or nearly, and so is TorchRL: 1.02 to 1.22 times its speed.
    "RLHive": {"torchvision": 1.0, "TorchRL": 0.95, OTHER_SIZE: 1.3},
    "RLHive bfloat16": {"torchvision": 1.3, "TorchRL": 1.3},  # where the processor has instructions for it
}


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
        "RLHive bfloat16": lambda pixels: attrs.evolve(encoder, precision="bfloat16").apply(params, pixels),
        "torchvision": torchvision_side(depth),
        "TorchRL": torchrl_side(depth),
        OTHER_SIZE: torchrl_side(depth, size=244),
    }


@torch.no_grad()
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_images_per_second(benchmark, sides, depth):
    ratios, has_bfloat16 = {}, "bf16" in Path("/proc/cpuinfo").read_text()
    for batch in (1, 4, 16, 64):
        pixels = random_pixels(batch, 1, 224, 224, 3)
        expected = sides["torchvision"](pixels)
        for name in ("RLHive", "TorchRL"):
            assert_same_embeddings(sides[name](pixels), expected)
        assert (sides["RLHive bfloat16"](pixels) - expected).abs().max() < 1e-2 * expected.abs().max()
        rates = images_per_second(sides, pixels)
        share = 2.0 * PRODUCTS[depth] * rates["RLHive"] / matrix_speed()
        print(
            f"\nResNet-{depth}, batch {batch}: {', '.join(f'{of} {rate:.1f}' for of, rate in rates.items())};"
        )
        print(f"  float32 at {share:.0%} of the speed of a matrix product", end="")
        benchmark.extra_info[f"batch {batch}"] = {**rates, "share of a matrix product": share}
        for ours, others in LEAST.items():
            ratios |= {(ours, other, batch): rates[ours] / rates[other] for other in others}
    print("\nratios: " + ", ".join(f"{' / '.join(map(str, of))} {ratio:.2f}" for of, ratio in ratios.items()))
    benchmark.pedantic(sides["RLHive"], args=(pixels,), rounds=1)
    for (ours, other, batch), ratio in ratios.items():
        if has_bfloat16 or ours == "RLHive":
            assert ratio >= LEAST[ours][other], (ours, other, batch, ratio)


def matrix_speed():
    """Floating point operations per second of the best of 100 products of 1024x1024 matrices."""
    matrix, times = torch.ones(1024, 1024), []
    for _ in range(100):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return 2.0 * 1024**3 / min(times)


def images_per_second(sides, pixels):
    """Of each side, over rounds in which they take turns; small batches several times a round."""
    embeds = {name: functools.partial(embed, pixels) for name, embed in sides.items()}
    seconds = in_turns(embeds, rounds=ROUNDS, calls=max(1, 8 // len(pixels)))
    return {name: len(pixels) / value for name, value in seconds.items()}
