"""Which encoder turns the images of an environment into features: by name, by gin file, or from spec.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
import torch
from tensordict import TensorDict
from torch import Generator, Tensor

from rlhive.core.normalizer import normalize
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.types import EnvState, Params
from rlhive.envs.names import encoder_of
from rlhive.policy_fn.cnn import CNN, LAYERS, Layer
from rlhive.policy_fn.r3m import BFLOAT16, FLOAT32, PUBLISHED, R3M, load_r3m
from rlhive.policy_fn.resnet import fold


class Encoder(Protocol):
    """Turns the images of one step into features: pure functions, no parameters inside."""

    @property
    def name(self) -> str:
        """A name for people to read."""

    @property
    def frozen(self) -> bool:
        """Whether its parameters stay fixed; otherwise they are trained with the critics."""

    def feature_dim(self, pixels: PixelSpec) -> int:
        """Length of the features of one step."""

    def init(self, key: int | Generator) -> Params:
        """The parameters, drawn from a seed or CPU generator; those of a frozen encoder are always the same."""

    def apply(self, params: Params, pixels: Tensor) -> Tensor:
        """uint8 `[B, cameras, H, W, C]` to `[B, F]`; also under vmap, and grad over `params`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON, in which "kind" is the name of its class in `KINDS`."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Encoder:
        """The inverse of `to_dict`."""


@attrs.frozen
class Flat:
    """The values of the images, 0..1, one after another: RoboHive's `_vflat` ids."""

    name = "flat"
    frozen = True

    def feature_dim(self, pixels: PixelSpec) -> int:
        """Length of the features of one step."""
        cameras, height, width, channels = pixels.shape
        return cameras * height * width * channels

    def init(self, key: int | Generator) -> Params:
        """An empty tree."""
        return TensorDict({}, batch_size=[])

    def apply(self, params: Params, pixels: Tensor) -> Tensor:
        """uint8 `[B, cameras, H, W, C]` to float32 `[B, cameras * H * W * C]`."""
        return pixels.flatten(1).float() / 255.0

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"kind": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Flat:
        """The inverse of `to_dict`."""
        return cls()


EncoderFactory: TypeAlias = Callable[[PixelSpec], Encoder]
# By the "kind" that `to_dict` gives; users add their own encoders here.
KINDS: dict[str, type[Encoder]] = {"r3m": R3M, "cnn": CNN, "flat": Flat}


def learned(encoder: Encoder | None) -> Encoder | None:
    """The encoder if it is trained with the policy, else None."""
    return None if encoder is None or encoder.frozen else encoder


def feature_dim(encoder: Encoder | None, pixels: PixelSpec | None) -> int:
    """F: how many numbers the images add to the observation, 0 without images."""
    return 0 if encoder is None or pixels is None else encoder.feature_dim(pixels)


def encoder_tree(encoder: Encoder) -> Params:
    """A tree with the names and shapes of the encoder's own, without its weights."""
    if not isinstance(encoder, R3M):
        return encoder.init(Generator())
    params = encoder.network.init(Generator())
    return fold(params) if encoder.frozen else params


def describe(encoder: Encoder | None) -> str:
    """A short description of the encoder for people to read."""
    if encoder is None:
        return "no encoder"
    text = f"encoder {encoder.name}"
    if isinstance(encoder, R3M):
        text += f", weights {encoder.weights}" + f", {BFLOAT16}" * (encoder.precision == BFLOAT16)
    return f"{text}, {'frozen' if encoder.frozen else 'learning'}"


def network_input(encoder: Encoder | None, params: Params, env_state: EnvState, seen: TensorDict) -> Tensor:
    """The input of actor and critics for what the environment shows; it is normalised here and nowhere else.

    Features of a frozen encoder are normalised like observations; those of an encoder that learns are not.

    Args:
        encoder: the encoder of "pixels"; None without images, or if the observation already has their features.
        params: with "encoder", if there is one.
        env_state: `{"observation": {"loc", "scale", "count"}}`.
        seen: raw "observation" `[B, O]`, and "pixels" uint8 `[B, cameras, H, W, C]`.

    Returns:
        `[B, O]`, or `[B, O + F]`.
    """
    normalizer, observation = env_state["observation"], seen["observation"]
    if encoder is None:
        return normalize(normalizer, observation)
    features = encoder.apply(params["encoder"], seen["pixels"]).to(observation.dtype)
    if encoder.frozen:
        return normalize(normalizer, torch.cat([observation, features], dim=-1))
    return torch.cat([normalize(normalizer, observation), features], dim=-1)


def r3m(
    pixels: PixelSpec,
    *,
    depth: int = 18,
    weights: str = PUBLISHED,
    frozen: bool = True,
    precision: str = FLOAT32,
) -> R3M:
    """R3M's ResNet of that depth; see `load_r3m`."""
    _check_one_frame(pixels)
    return load_r3m(f"r3m{depth}", weights=weights, frozen=frozen, precision=precision)


def rrl(
    pixels: PixelSpec,
    *,
    depth: int = 34,
    weights: str = PUBLISHED,
    frozen: bool = True,
    precision: str = FLOAT32,
) -> R3M:
    """The same network with ImageNet's weights, as in RRL (https://arxiv.org/abs/2107.03380)."""
    _check_one_frame(pixels)
    return load_r3m(f"rrl{depth}", weights=weights, frozen=frozen, precision=precision)


def _check_one_frame(pixels: PixelSpec) -> None:
    if pixels.frames != 1:
        raise ValueError(
            f"a ResNet takes single images, got images.frames={pixels.frames}; @cnn takes several"
        )


def cnn(pixels: PixelSpec, *, layers: Sequence[Layer] = LAYERS, dim: int = 50) -> CNN:
    """The small CNN for these images; it is trained with the critics."""
    return CNN(pixels.height, pixels.width, pixels.frames, layers, dim)


def flat(pixels: PixelSpec) -> Flat:
    """The images as they are."""
    return Flat()


def named_encoder(env_name: str) -> tuple[str, dict[str, Any]]:
    """The encoder that the id of an environment with images asks for: the name of a factory here, and its settings.

    The id names it (`…_vrrl50-v0`); without a name (`…_v2d-v0`) it is R3M.

    Raises:
        ValueError: RLHive does not have that encoder.
    """
    name = encoder_of(env_name) or "r3m"
    if name == "flat":
        return name, {}
    if name.startswith("vc1"):
        raise ValueError(
            f"{env_name}: there is no encoder VC-1 here; take the id with _v2d and train.encoder=@r3m"
        )
    return name[:3], {"depth": int(name[3:])} if name[3:] else {}


def encoder_from_dict(values: Mapping[str, Any]) -> Encoder:
    """The encoder that `to_dict` described.

    Raises:
        ValueError: an unknown kind, or settings that make no sense.
    """
    kind = values.get("kind")
    if kind not in KINDS:
        raise ValueError(
            f"encoder: unknown kind {kind!r}; there are {', '.join(KINDS)}, and what is entered in "
            "rlhive.policy_fn.encoders.KINDS before"
        )
    return KINDS[kind].from_dict(dict(values))


def check_kind(encoder: Encoder) -> None:
    """Refuses an encoder that `encoder_from_dict` could not make again.

    Raises:
        ValueError: saying where to enter it.
    """
    kind, made = str(encoder.to_dict().get("kind")), type(encoder)
    if KINDS.get(kind) is not made:
        raise ValueError(
            f"no run of the encoder {made.__name__} could be loaded: enter it, as its to_dict() has kind={kind!r}, by "
            f"rlhive.policy_fn.encoders.KINDS[{kind!r}] = {made.__name__} in the module that makes it"
        )
