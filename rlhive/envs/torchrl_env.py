"""A RoboHive environment for TorchRL, with the keys that learning needs and nothing else from `info`."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.interface import check_seed
from rlhive.envs.robohive import RoboHive


class RoboHiveEnv(EnvBase):
    """One RoboHive environment, batch size [].

    "observation" f32 [O] is the vector of `RoboHive`, and "action" f32 [A] is bounded. Under "next" a step writes
    "reward" and "rwd_sparse" f32 [1], "terminated", "truncated", "done" and "solved" bool [1]. With images there is
    also "pixels" u8 [cameras,H,W,C] beside "observation", and "depth" f32 [cameras,H,W] in metres if asked for.

    Attributes:
        env_spec: what a policy needs to know about the environment.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int | None = None,
        device: str | torch.device = "cpu",
        pixels: PixelSpec | None = None,
    ) -> None:
        self._env = RoboHive(name, seed=seed, pixels=pixels)
        self._seed_of_next_reset: int | None = None
        self.env_spec = self._env.spec
        super().__init__(device=torch.device(device), batch_size=torch.Size([]))
        self.observation_spec = Composite(
            observation=Unbounded((self.env_spec.observation_dim,)),
            solved=_flag(),
            rwd_sparse=Unbounded((1,)),
            **_image_specs(self.env_spec.pixels),
        ).to(self.device)
        low, high = torch.tensor(self.env_spec.action_low), torch.tensor(self.env_spec.action_high)
        self.action_spec = Bounded(low, high).to(self.device)
        self.reward_spec = Unbounded((1,)).to(self.device)
        self.done_spec = Composite(done=_flag(), terminated=_flag(), truncated=_flag()).to(self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDict:
        if tensordict is not None and not tensordict.get("_reset", torch.tensor(True)).all():
            raise RuntimeError(
                f'{self.env_spec.name} is one environment, reset as a whole: leave "_reset" out, or make it all True'
            )
        observation = self._env.reset(self._seed_of_next_reset)
        self._seed_of_next_reset = None
        flags = ("solved", "done", "terminated", "truncated")
        zeros = {key: torch.zeros(1, dtype=torch.bool) for key in flags}
        state = {"observation": torch.from_numpy(observation), "rwd_sparse": torch.zeros(1), **zeros}
        return TensorDict(state | self._images(), [], device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        result = self._env.step(tensordict["action"].detach().to("cpu", torch.float32).numpy())
        state = {
            "observation": torch.from_numpy(result.observation),
            "reward": torch.tensor([result.reward], dtype=torch.float32),
            "rwd_sparse": torch.tensor([result.rwd_sparse], dtype=torch.float32),
            "terminated": torch.tensor([result.terminated]),
            "truncated": torch.tensor([result.truncated]),
            "done": torch.tensor([result.terminated or result.truncated]),
            "solved": torch.tensor([result.solved]),
        }
        return TensorDict(state | self._images(), [], device=self.device)

    def _images(self) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(image) for key, image in self._env.images().items()}

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            check_seed(seed)
        self._seed_of_next_reset = seed

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Free the simulator."""
        self._env.close()
        super().close(raise_if_closed=raise_if_closed)


def _image_specs(pixels: PixelSpec | None) -> dict[str, TensorSpec]:
    if pixels is None:
        return {}
    specs: dict[str, TensorSpec] = {"pixels": Bounded(0, 255, pixels.shape, dtype=torch.uint8)}
    return specs | ({"depth": Unbounded(pixels.shape[:3])} if pixels.depth else {})


def _flag() -> Binary:
    return Binary(n=1, dtype=torch.bool, shape=(1,))
