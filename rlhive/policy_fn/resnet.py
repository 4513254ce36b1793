"""ResNet-18, -34 and -50 (He 2015, https://arxiv.org/abs/1512.03385) without their head, as pure functions."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from attrs import validators as v
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.keys import as_generator
from rlhive.core.types import Params

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = {18: 1, 34: 1, 50: 4}
_EPS = 1e-5  # BatchNorm's, as torchvision's networks were trained
DEPTHS = tuple(_BLOCKS)


@attrs.frozen
class ResNet:
    """The convolutions of a ResNet up to the average pooling, with BatchNorm in eval mode; no parameters inside.

    The tree of parameters is torchvision's `state_dict` with nested names, without `fc` and without
    `num_batches_tracked`.

    Attributes:
        depth: 18, 34 or 50.
    """

    depth: int = attrs.field(validator=v.in_(DEPTHS))

    @property
    def feature_dim(self) -> int:
        """Length of an embedding: 512, or 2048 of ResNet-50."""
        return _WIDTHS[-1] * _EXPANSION[self.depth]

    def init(self, key: int | Generator) -> Params:
        """Draws them from a seed or CPU generator as torchvision does, float32; running statistics are 0 and 1."""
        key = as_generator(key)
        params: dict[str, Any] = {"conv1": _init_conv(key, 3, 64, 7), "bn1": _init_norm(64)}
        inputs = 64
        for stage, (width, blocks) in enumerate(zip(_WIDTHS, _BLOCKS[self.depth], strict=True)):
            outputs = width * _EXPANSION[self.depth]
            layer = {"0": _init_block(key, inputs, width, outputs, project=stage > 0 or inputs != outputs)}
            for index in range(1, blocks):
                layer[str(index)] = _init_block(key, outputs, width, outputs, project=False)
            params[f"layer{stage + 1}"] = layer
            inputs = outputs
        return TensorDict(params, batch_size=[])

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Embeds images; fastest on a CPU when their memory is in channels-last order.

        Args:
            params: the tree of `init`, or of `fold`. Running statistics are constants: their gradient is 0.
            images: `[B, 3, H, W]`, normalised as the weights expect, 224x224 usually.

        Returns:
            `[B, feature_dim]`.
        """
        x = F.relu(_convolve(params, "conv1", "bn1", images, stride=2), inplace=True)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for stage, blocks in enumerate(_BLOCKS[self.depth]):
            layer = params[f"layer{stage + 1}"]
            for index in range(blocks):
                x = _apply_block(layer[str(index)], x, stride=2 if stage > 0 and index == 0 else 1)
        return x.mean((-2, -1), dtype=torch.promote_types(x.dtype, torch.float32))


def _init_conv(key: Generator, inputs: int, outputs: int, size: int) -> dict[str, Tensor]:
    std = math.sqrt(2.0 / (outputs * size * size))  # Kaiming's, by fan-out
    shape = (outputs, inputs, size, size)
    return {"weight": torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=key)}


def _init_norm(width: int) -> dict[str, Tensor]:
    zeros, ones = torch.zeros(width, dtype=torch.float32), torch.ones(width, dtype=torch.float32)
    return {"weight": ones, "bias": zeros, "running_mean": zeros.clone(), "running_var": ones.clone()}


def _init_block(key: Generator, inputs: int, width: int, outputs: int, *, project: bool) -> dict[str, Any]:
    """A basic block (3x3, 3x3), or where it widens its output, a bottleneck (1x1, 3x3, 1x1)."""
    shapes = [(inputs, width, 3), (width, width, 3)]
    if outputs != width:
        shapes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
    block: dict[str, Any] = {}
    for index, (fan_in, fan_out, size) in enumerate(shapes, start=1):
        block[f"conv{index}"] = _init_conv(key, fan_in, fan_out, size)
        block[f"bn{index}"] = _init_norm(fan_out)
    if project:
        block["downsample"] = {"0": _init_conv(key, inputs, outputs, 1), "1": _init_norm(outputs)}
    return block


def _apply_block(params: Params, x: Tensor, stride: int) -> Tensor:
    count = 3 if "conv3" in params.keys() else 2  # noqa: SIM118
    y = x
    for index in range(1, count + 1):
        y = _convolve(params, f"conv{index}", f"bn{index}", y, stride if index == count - 1 else 1)
        if index < count:
            y = F.relu(y, inplace=True)
    if "downsample" in params.keys():  # noqa: SIM118
        x = _convolve(params["downsample"], "0", "1", x, stride)
    return F.relu(y.add_(x), inplace=True)


def _convolve(params: Params, conv: str, norm: str, x: Tensor, stride: int) -> Tensor:
    weight, bias = params[conv]["weight"], params[conv].get("bias", None)
    y = F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)
    if bias is not None:  # folded
        return y
    stats = params[norm]
    mean, var = stats["running_mean"].detach(), stats["running_var"].detach()
    return F.batch_norm(y, mean, var, stats["weight"], stats["bias"], training=False, eps=_EPS)


def fold(params: Params) -> Params:
    """Each BatchNorm merged into the convolution before it: the same function with a third fewer operations.

    Args:
        params: the tree of `ResNet.init`, batch size `[]`.

    Returns:
        A tree of convolutions `{"weight", "bias"}`, weights in channels-last order.
    """
    folded = {}
    for name, value in params.items():
        norm = params.get(_NORM_OF.get(name, ""), None)
        if norm is not None and "weight" in value.keys():  # noqa: SIM118
            folded[name] = _fold_one(value["weight"], norm)
        elif "running_var" not in value.keys():  # noqa: SIM118
            folded[name] = fold(value)
    return TensorDict(folded, batch_size=[])


_NORM_OF = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "0": "1"}


def _fold_one(weight: Tensor, norm: Params) -> dict[str, Tensor]:
    # In float64, so that folding rounds once.
    scale = norm["weight"].double() / (norm["running_var"].double() + _EPS).sqrt()
    folded = weight.double() * scale[:, None, None, None]
    bias = norm["bias"].double() - norm["running_mean"].double() * scale
    return {
        "weight": folded.float().contiguous(memory_format=torch.channels_last),
        "bias": bias.float(),
    }
