"""RoboHive's environments as plain numpy, one episode after another: what workers step."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.build import build, make_spec
from rlhive.envs.frames import Frames
from rlhive.envs.interface import StepResult, check_seed
from rlhive.envs.names import check_name
from rlhive.envs.pixels import choose_pixels, own_pixels
from rlhive.envs.render import View, choose_backend
from rlhive.envs.rewind import Origin, keeps_hidden_state, private_global_rng

if TYPE_CHECKING:
    import torch
    from torchrl.envs import EnvBase


class RoboHive:
    """One RoboHive environment: its observation in float32, the registered time limit, and seeds that hold.

    The observation is `get_obs()`, and `get_proprioception()` for ids with images of their own (`…_v2d-v0`): their
    `get_obs()` leaves out the state on purpose. An id with an encoder (`…_vr3m18-v0`) is built without it.

    Args:
        name: id of RoboHive's suites.
        seed: seeds the episodes to come; without one they differ from object to object.
        pixels: the images that `render` draws; None for those that RoboHive itself gives the id, if any.

    Raises:
        ValueError: `name` is not an id of RoboHive, or has no such camera; `seed` is not a whole number from 0 on.
        RuntimeError: images are wanted and no GL backend works here.
    """

    spec: EnvSpec

    def __init__(self, name: str, *, seed: int | None = None, pixels: PixelSpec | None = None) -> None:
        check_name(name)
        if seed is not None:
            check_seed(seed)
        pixels = pixels or own_pixels(name)
        if pixels is not None:
            choose_backend()  # before mujoco is imported
        self.env, max_episode_steps = build(name)
        self.spec = make_spec(name, self.env, max_episode_steps, pixels)
        self._view = None if pixels is None else View(name, self.env, pixels)
        self._proprioceptive = own_pixels(name) is not None and self.env.proprio_keys is not None
        self._limit = float("inf") if max_episode_steps is None else max_episode_steps
        self._elapsed = 0
        self._frames: Frames | None = None  # the last images drawn in this episode
        self._drawn: int | None = None  # the steps taken when the newest of them was drawn
        self._origin = Origin(self.env)
        self._seed(seed)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode and return its first observation, f32 [O]; a `seed` alone determines all of it.

        Raises:
            ValueError: `seed` is not a whole number from 0 on.
            RuntimeError: the environment is closed.
        """
        self._check_open()
        if seed is not None:
            check_seed(seed)
            self._rewind()
            self._seed(seed)
        self._elapsed = 0
        self._frames, self._drawn = None, None
        with private_global_rng(self._global_rng):
            result = self.env.reset()  # some return (observation, info), some the observation alone
        return self._vector(result[0] if isinstance(result, tuple) else result)

    def step(self, action: np.ndarray) -> StepResult:
        """Apply `action` f32 [A], clipped to its bounds, for one control period.

        Raises:
            ValueError: `action` has another shape, or is not finite (a clip would let NaN through to the simulator).
            RuntimeError: the environment is closed.
        """
        self._check_open()
        if np.shape(action) != (self.spec.action_dim,):
            raise ValueError(
                f"{self.spec.name}: the action must have shape [{self.spec.action_dim}], got {list(np.shape(action))}"
            )
        if not np.isfinite(action).all():
            raise ValueError(f"{self.spec.name}: the action must be finite, got {action}")
        observation, reward, terminated, _, info = self.env.step(action)
        self._elapsed += 1
        return StepResult(
            self._vector(observation),
            float(reward),
            bool(terminated),
            self._elapsed >= self._limit,
            bool(info["solved"]),
            float(info["rwd_sparse"]),
        )

    def render(self, out: np.ndarray | None = None, depth: np.ndarray | None = None) -> np.ndarray:
        """Draw the present state as u8 [cameras,H,W,C], as `env.get_exteroception()` does.

        With several frames the images of the calls before, within the episode, come first: draw after every step. The
        first one is repeated.

        Args:
            out: where to, without a copy in between; None for a new array.
            depth: where the distances f32 [cameras,H,W] in metres go; None for none.

        Raises:
            RuntimeError: the environment has no images, or they cannot be drawn here, or it is closed.
        """
        self._check_open()
        if self._view is None or self.spec.pixels is None:
            raise RuntimeError(f"{self.spec.name} has no images: RoboHive(…, pixels=PixelSpec(…)) adds them")
        if out is None:
            out = np.empty(self.spec.pixels.shape, np.uint8)
        self._view.draw(out[..., -3:], depth)
        if self.spec.pixels.frames > 1:
            self._frames = self._frames or Frames(self.spec.pixels)
            out[...] = self._frames.append(out[..., -3:].copy(), again=self._drawn == self._elapsed)
            self._drawn = self._elapsed
        return out

    def images(self) -> dict[str, np.ndarray]:
        """What `render` draws in new arrays: "pixels" and, where the spec has it, "depth"; nothing without images."""
        pixels = self.spec.pixels
        if pixels is None:
            return {}
        if not pixels.depth:
            return {"pixels": self.render()}
        depth = np.empty(pixels.shape[:3], np.float32)
        return {"pixels": self.render(depth=depth), "depth": depth}

    def restore(self, state: Mapping[str, np.ndarray], seed: int = 0) -> np.ndarray:
        """Start an episode in a state that RoboHive logged, and return its observation, f32 [O].

        Args:
            state: one row of each of a trial's `env_infos/state`.
            seed: what it leaves out, such as the sizes of objects, is as in the episode of this seed. If all else is
                as well, the episode is that one, bit for bit.

        Raises:
            ValueError: the state is not one of this environment.
        """
        first = self.reset(seed)
        given: dict[str, np.ndarray | None] = {}
        own = self.env.get_env_state()
        for key, value in own.items():
            if value is not None and (key not in state or np.shape(state[key]) != np.shape(value)):
                got = list(np.shape(state[key])) if key in state else "missing"
                raise ValueError(
                    f"the logged state's {key!r} is {got}, that of {self.spec.name} is {list(np.shape(value))}"
                )
            given[key] = None if value is None else np.asarray(state[key], np.float64)
        if all(np.array_equal(value, own[key]) for key, value in given.items() if value is not None):
            return first
        self.env.set_env_state(given)
        return self._vector(self.env.get_obs())

    def close(self) -> None:
        """Free the simulator; may be called twice."""
        self._view = None
        if self.env is not None:
            self.env.close()
            self.env = None
            # Cycles hold 100 MB of the simulator that Python's collector does not see, and so would not hurry for.
            gc.collect()

    def __reduce__(self) -> Any:
        # RoboHive's own copies are built anew: in another state, and without a word of it.
        raise TypeError(
            f"{self.spec.name} cannot be copied or pickled: make another, by make(...) or RoboHive(...)"
        )

    def _check_open(self) -> None:
        if self.env is None:
            raise RuntimeError(f"{self.spec.name}: the environment is closed")

    def _rewind(self) -> None:
        if keeps_hidden_state(self.spec.name):
            self.close()
            self.env, _ = build(self.spec.name)
            if self.spec.pixels is not None:
                self._view = View(self.spec.name, self.env, self.spec.pixels)
        else:
            self._origin.restore(self.env)

    def _vector(self, observation: np.ndarray) -> np.ndarray:
        """What a policy gets beside the images: f32 [O]."""
        if self._proprioceptive:
            observation = self.env.get_proprioception()[1]
        return np.asarray(observation, dtype=np.float32)

    def _seed(self, seed: int | None) -> None:
        # RoboHive's reset ignores its seed, and its seed() leaves the robot with the old generator: give the
        # one generator that all parts hold the state that the seed stands for.
        sequence = np.random.SeedSequence(seed)
        self.env.np_random.bit_generator.state = np.random.PCG64(sequence).state
        self._global_rng = np.random.RandomState(np.random.MT19937(sequence))


def make(
    name: str,
    *,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    from_pixels: bool = False,
    cameras: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    quality: str = "full",
    depth: bool = False,
    frames: int = 1,
) -> EnvBase:
    """The RoboHive environment `name` for TorchRL; `seed` fully determines its rollouts.

    Args:
        name: id of RoboHive's suites.
        seed: of the episodes to come.
        device: of the tensors.
        from_pixels: whether an id without images of its own gets some; needs `cameras` and `image_size` then.
        cameras: names of cameras of the model; None for the id's own.
        image_size: height and width in pixels, one number for a square; None for the id's own.
        quality: "full" or "fast", see `PixelSpec`.
        depth: whether a depth image comes with each.
        frames: how many images in time are stacked.

    Raises:
        ValueError: `name` is not an id of RoboHive, the message has the nearest ones; or images or a seed that cannot
            be.
    """
    if seed is not None:
        check_seed(seed)
    pixels = choose_pixels(  # before TorchRL, which takes seconds to import
        name,
        from_pixels=from_pixels,
        cameras=cameras,
        image_size=image_size,
        quality=quality,
        depth=depth,
        frames=frames,
    )
    from rlhive.envs.torchrl_env import RoboHiveEnv

    return RoboHiveEnv(name, seed=seed, device=device, pixels=pixels)


def env_spec(name: str) -> EnvSpec:
    """The spec of environment `name`, which is built for it and closed again (about a second).

    Raises:
        ValueError: `name` is not an id of RoboHive.
    """
    env = RoboHive(name)
    env.close()
    return env.spec
