"""R3M (Nair 2022, https://arxiv.org/abs/2203.12601) and RRL: embeddings of images by a ResNet with given weights.

    python -m rlhive.policy_fn.r3m convert IN OUT

turns a published checkpoint into safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from attrs import validators as v
from torch import Generator, Tensor, nn

from rlhive.core.errors import LoadError
from rlhive.core.files import file_sha256
from rlhive.core.settings import one_of
from rlhive.core.types import Params
from rlhive.policy_fn.encoder_weights import (
    SOURCES,
    depth_of,
    find_weights,
    keep_weights,
    load_weights,
    module_weights,
    published_path,
    published_weights,
    weights_sha256,
    write_weights,
)
from rlhive.policy_fn.resnet import ResNet, fold
from rlhive.suggest import suggest

if TYPE_CHECKING:
    from rlhive.core.pixel_spec import PixelSpec

NAMES = tuple(SOURCES)
PUBLISHED, RANDOM = "published", "random"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
IMAGE_SIZE, _RESIZED = 224, 256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_CPU_IMAGES = 4  # at a time: small activations stay in the caches; measured up to 10 % faster than 64


@attrs.frozen
class R3M:
    """An image encoder with published, given or random weights; no parameters inside. Made by `load_r3m`.

    Attributes:
        name: "r3m18", "r3m34", "r3m50", or "rrl18" … with ImageNet's weights (Shah 2021).
        weights: SHA-256 of the weights (`weights_sha256`), or "random".
        frozen: whether the weights stay fixed; otherwise they are fine-tuned, except BatchNorm's statistics.
        precision: what a frozen encoder's convolutions compute in, "float32" or "bfloat16"; weights, features and
            preprocessing are always float32.
    """

    name: str = attrs.field(validator=one_of(NAMES))
    weights: str = attrs.field(validator=v.matches_re(f"{RANDOM}|[0-9a-f]{{64}}"))
    frozen: bool = attrs.field(default=True, validator=v.instance_of(bool))
    precision: str = attrs.field(default=FLOAT32, validator=one_of((FLOAT32, BFLOAT16)))

    def __attrs_post_init__(self) -> None:
        if not self.frozen and self.precision != FLOAT32:
            raise ValueError(f"an encoder that is fine-tuned computes in {FLOAT32}, got {self.precision}")

    @property
    def network(self) -> ResNet:
        """The ResNet."""
        return ResNet(int(self.name[-2:]))

    def feature_dim(self, pixels: PixelSpec) -> int:
        """Length of the features of one step: cameras x 512, or 2048 of a ResNet-50."""
        return len(pixels.cameras) * self.network.feature_dim

    def init(self, key: int | Generator) -> Params:
        """The weights, from the cache; or the random ones, which are the same in every process, run and seed.

        Args:
            key: not used, since the weights do not depend on the run's seed.

        Returns:
            The tree of `ResNet.init`; of a frozen encoder with BatchNorm merged into the convolutions.

        Raises:
            LoadError: the weights are not in the cache.
        """
        if self.weights == RANDOM:
            params = self.network.init(torch.Generator().manual_seed(0))
        else:
            params = find_weights(self.name, self.weights)
        return fold(params) if self.frozen else params  # once, not for every batch

    def apply(self, params: Params, pixels: Tensor) -> Tensor:
        """Embeds each camera's image; an image's embedding does not depend on the others in the batch.

        Args:
            params: the tree of `init`.
            pixels: uint8 `[B, cameras, H, W, 3]`.

        Returns:
            float32 `[B, cameras * D]`, camera after camera; float64 if the parameters are.
        """
        images = pixels.flatten(0, 1)
        if self.precision == BFLOAT16:
            params = params.apply(Tensor.bfloat16)
        dtype = params["conv1", "weight"].dtype
        # An exported graph cannot loop over its batch.
        whole = images.device.type != "cpu" or torch.compiler.is_exporting()
        parts = [images] if whole else images.split(_CPU_IMAGES)
        features = torch.cat([self.network.apply(params, preprocess(part).to(dtype)) for part in parts])
        return features.unflatten(0, pixels.shape[:2]).flatten(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"kind": "r3m", **attrs.asdict(self), "image_size": IMAGE_SIZE}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> R3M:
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in values.items() if name not in ("kind", "image_size")})


def load_r3m(name: str, *, weights: str = PUBLISHED, frozen: bool = True, precision: str = FLOAT32) -> R3M:
    """The encoder of that name, its weights found and kept in the cache.

    Args:
        name: one of `NAMES`.
        weights: "published", from the cache or downloaded; the path of a file (`load_weights`); or "random".
        frozen: whether the weights stay fixed.
        precision: "float32" or "bfloat16", see `R3M`.

    Raises:
        LoadError: there are no such weights, or they are of another network; one line that says what to do.
    """
    if name not in NAMES:
        raise ValueError(f"there is no encoder {name!r}: {suggest(name, NAMES)}")
    found = R3M(name, RANDOM, frozen, precision)
    if weights == RANDOM:
        return found
    if weights == PUBLISHED:
        params = published_weights(name)
        _check_depth(name, params, published_path(name))
        return attrs.evolve(found, weights=weights_sha256(params))
    if Path(weights).is_dir():  # "" is the present one
        raise LoadError(f"weights={weights!r}: must be {PUBLISHED!r}, {RANDOM!r} or a file of weights")
    return attrs.evolve(found, weights=_keep(name, load_weights(weights), weights))


def from_module(module: nn.Module, name: str, *, frozen: bool = True) -> R3M:
    """The encoder with the weights of an `r3m` model or of torchvision's ResNet, which are kept in the cache.

    Args:
        module: what the authors' `load_r3m` gives, or a torchvision ResNet; in train or eval mode.
        name: one of `NAMES`: what to call it.
        frozen: whether the weights stay fixed.

    Raises:
        LoadError: the module is another network.
    """
    return R3M(name, _keep(name, module_weights(module), type(module).__name__), frozen)


def _keep(name: str, params: Params, source: str) -> str:
    _check_depth(name, params, source)
    return keep_weights(name, params, source)


def _check_depth(name: str, params: Params, source: object) -> None:
    depth = depth_of(params)
    if name[-2:] != str(depth):
        raise LoadError(
            f"{source}: holds a ResNet-{depth}, but {name} is a ResNet-{name[-2:]}; use {name[:3]}{depth}"
        )


def preprocess(images: Tensor) -> Tensor:
    """The authors' preprocessing: to 0..1, the middle 224x224 of the image resized to 256, ImageNet's mean and std.

    Args:
        images: uint8 `[B, H, W, 3]`; of 224x224 are taken as they are.

    Returns:
        float32 `[B, 3, 224, 224]`, in channels-last order.
    """
    if images.dtype != torch.uint8 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 [..., H, W, 3], got {images.dtype} {list(images.shape)}")
    x = images.permute(0, 3, 1, 2).float() / 255.0
    height, width = x.shape[-2:]
    if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
        short = min(height, width)
        size = (_RESIZED * height // short, _RESIZED * width // short)
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
        top, left = (round((length - IMAGE_SIZE) / 2.0) for length in size)
        x = x[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    mean, std = (torch.tensor(of, device=x.device, dtype=torch.float32).view(3, 1, 1) for of in (_MEAN, _STD))
    return (x - mean) / std


def main(argv: Sequence[str]) -> int:
    """`convert IN OUT`: reads the published file IN and writes OUT; returns the exit code."""
    if len(argv) != 4 or argv[1] != "convert":
        raise ValueError("usage: python -m rlhive.policy_fn.r3m convert IN OUT")
    source, target = Path(argv[2]), Path(argv[3])
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the name of what is written must end in .safetensors")
    params = load_weights(source)
    sha256 = write_weights(target, params, f"{source.name} sha256:{file_sha256(source)}")
    sys.stdout.write(f"{target}: ResNet-{depth_of(params)}, weights {sha256}\n")
    return 0


if __name__ == "__main__":
    from rlhive import command

    command.start("rlhive.policy_fn.r3m", main, lambda: None, sys.argv)
