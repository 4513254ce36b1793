"""A small convolutional encoder that is trained with the policy, as pure functions over a parameter tree."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from attrs import validators as v
from tensordict import TensorDict
from torch import Generator, Tensor, nn

from rlhive.core.keys import as_generator
from rlhive.core.types import Params
from rlhive.policy_fn.mlp import init_norm, layer_norm

if TYPE_CHECKING:
    from rlhive.core.pixel_spec import PixelSpec

Layer = tuple[int, int, int]  # channels, kernel size, stride
LAYERS: tuple[Layer, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # of Mnih 2015


def _layers(values: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(layer) for layer in values)


_positive = v.and_(v.instance_of(int), v.ge(1))


@attrs.frozen
class CNN:
    """Convolutions, then a linear layer, LayerNorm and tanh (as in DrQ); every camera goes through the same.

    Attributes:
        height: of an image, in pixels.
        width: of an image, in pixels.
        frames: how many images in time are stacked in the last dimension.
        layers: channels, kernel size and stride of each convolution.
        dim: length of the features of a camera.
    """

    height: int = attrs.field(validator=_positive)
    width: int = attrs.field(validator=_positive)
    frames: int = attrs.field(default=1, validator=_positive)
    layers: tuple[Layer, ...] = attrs.field(
        default=LAYERS,
        converter=_layers,
        validator=v.and_(v.min_len(1), v.deep_iterable(v.and_(v.min_len(3), v.deep_iterable(_positive)))),
    )
    dim: int = attrs.field(default=50, validator=_positive)

    name = "cnn"
    frozen = False

    def __attrs_post_init__(self) -> None:
        if min(self._map_size()) < 1:
            raise ValueError(
                f"images of {self.height}x{self.width} are too small for the layers {self.layers}"
            )

    def feature_dim(self, pixels: PixelSpec) -> int:
        """Length of the features of one step."""
        return len(pixels.cameras) * self.dim

    def init(self, key: int | Generator) -> Params:
        """Draws `{"conv_0": {"weight", "bias"}, ..., "trunk": {"weight", "bias", "norm"}}` from a generator or seed.

        Weights are orthogonal, as in DrQ, and biases 0; each tree is drawn alone, several are stacked afterwards.
        """
        key = as_generator(key)
        params: dict[str, Any] = {}
        inputs = 3 * self.frames
        for index, (channels, size, _) in enumerate(self.layers):
            params[f"conv_{index}"] = _init(key, (channels, inputs, size, size), gain=math.sqrt(2.0))
            inputs = channels
        params["trunk"] = _init(key, (self.dim, inputs * math.prod(self._map_size())), gain=1.0)
        params["trunk"]["norm"] = init_norm(self.dim)
        return TensorDict(params, batch_size=[])

    def apply(self, params: Params, pixels: Tensor) -> Tensor:
        """Encodes each camera's images.

        Args:
            params: the tree of `init`.
            pixels: uint8 `[B, cameras, H, W, 3 * frames]`.

        Returns:
            `[B, cameras * dim]` in -1..1, camera after camera, in the dtype of the parameters.

        Raises:
            ValueError: images of another dtype or size.
        """
        size = (self.height, self.width, 3 * self.frames)
        if pixels.dtype != torch.uint8 or pixels.shape[-3:] != size:
            expected = ", ".join(map(str, size))
            raise ValueError(
                f"images must be uint8 [..., {expected}], got {pixels.dtype} {list(pixels.shape)}"
            )
        dtype = params["conv_0", "weight"].dtype
        x = pixels.flatten(0, 1).permute(0, 3, 1, 2).to(dtype) / 255.0 - 0.5
        for index, (_, _, stride) in enumerate(self.layers):
            layer = params[f"conv_{index}"]
            x = F.relu(F.conv2d(x, layer["weight"], layer["bias"], stride))
        trunk = params["trunk"]
        x = F.linear(x.flatten(1), trunk["weight"], trunk["bias"])
        x = torch.tanh(layer_norm(trunk["norm"], x))
        return x.unflatten(0, pixels.shape[:2]).flatten(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"kind": self.name, **attrs.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CNN:
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in values.items() if name != "kind"})

    def _map_size(self) -> tuple[int, int]:
        """Height and width of what the last convolution gives."""
        height, width = self.height, self.width
        for _, size, stride in self.layers:
            height, width = (height - size) // stride + 1, (width - size) // stride + 1
        return height, width


def _init(key: Generator, shape: tuple[int, ...], gain: float) -> dict[str, Any]:
    weight = nn.init.orthogonal_(torch.empty(shape, dtype=torch.float32), gain, generator=key)
    return {"weight": weight, "bias": torch.zeros(shape[0], dtype=torch.float32)}
