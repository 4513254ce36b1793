"""Environments whose images a frozen encoder turns into part of the observation, once per step, in the parent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.convolutions import exact_convolutions
from rlhive.core.env_spec import EnvSpec
from rlhive.core.types import Params
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.encoders import Encoder


class EncodedEnv:
    """A `VectorEnv` whose "observation" is `[observation, features]`, without images.

    Args:
        envs: environments with images.
        encoder: a frozen encoder.
        params: its weights, on the device that encodes.

    Attributes:
        pixels: the images uint8 `[S, E, cameras, H, W, C]` that the latest "observation" was made from.
    """

    pixels: Tensor

    def __init__(self, envs: VectorEnv, encoder: Encoder, params: Params) -> None:
        self._envs, self._encoder, self._params = envs, encoder, params
        self._device = next(iter(params.values(True, True)), torch.zeros(())).device

    @property
    def spec(self) -> EnvSpec:
        """The spec of the environments, without the features."""
        return self._envs.spec

    @property
    def shape(self) -> tuple[int, int]:
        """S and E."""
        return self._envs.shape

    def reset(self, episode_seeds: Sequence[Sequence[int]] | None = None) -> TensorDict:
        """As `VectorEnv.reset`."""
        return self._encode_first(self._envs.reset(episode_seeds))

    def resume(self, numbers: Tensor, actions: Sequence[Sequence[Tensor]]) -> TensorDict:
        """As `VectorEnv.resume`."""
        return self._encode_first(self._envs.resume(numbers, actions))

    def send(self, action: Tensor) -> None:
        """As `VectorEnv.send`."""
        self._envs.send(action)

    def recv(self) -> TensorDict:
        """As `VectorEnv.recv`; an image is encoded once, even if it is both the successor and the next observation."""
        step = self._envs.recv()
        following = step["next"]
        done = following["done"].squeeze(-1)
        self.pixels, features = step["pixels"], self._features(step["pixels"])
        last = features
        if done.any():
            last = features.clone()
            last[done] = self._features(following["pixels"][done].unsqueeze(0)).squeeze(0)
        following = following.exclude("pixels", "depth")
        following["observation"] = torch.cat([following["observation"], last], dim=-1)
        now = torch.cat([step["observation"], features], dim=-1)
        return TensorDict({"observation": now, "next": following}, batch_size=step.batch_size)

    def keep(self, indices: Sequence[int]) -> None:
        """As `VectorEnv.keep`."""
        self._envs.keep(indices)

    def _encode_first(self, first: TensorDict) -> TensorDict:
        self.pixels = first["pixels"]
        observation = torch.cat([first["observation"], self._features(self.pixels)], dim=-1)
        return TensorDict({"observation": observation}, batch_size=first.batch_size)

    @torch.no_grad()
    @exact_convolutions()
    def _features(self, pixels: Tensor) -> Tensor:
        """uint8 `[X, Y, cameras, H, W, C]` to float32 `[X, Y, F]`, in one batch."""
        images = pixels.flatten(0, 1).to(self._device)
        return self._encoder.apply(self._params, images).cpu().unflatten(0, pixels.shape[:2])
