"""RoboHive's environments in plain numpy, one episode after another: what the workers step."""

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
    """One RoboHive environment with float32 observations, its registered time limit, and seeds that determine episodes.

    The observation is `get_obs()`, or `get_proprioception()` for ids with images of their own (`…_v2d-v0`), whose
    `get_obs()` leaves out the state on purpose. An id with an encoder (`…_vr3m18-v0`) is built without it.

    Args:
        name: id of RoboHive's suites.
        seed: determines the episodes to come; without one they differ from object to object.
        pixels: the images that `render` draws; None for the id's own in RoboHive, if any.

    Raises:
        ValueError: `name` is not an id of RoboHive, or lacks one of the cameras; `seed` is not a whole number >= 0.
        RuntimeError: images are asked for and no GL backend works here.
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
            ValueError: `seed` is not a whole number >= 0.
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
            ValueError: `action` has another shape, or is not finite (clipping would pass NaN on to the simulator).
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
        """Draw the current state as u8 [cameras,H,W,C], as `env.get_exteroception()` does.

        With several frames the images of earlier calls in this episode come first, so draw after every step. At the
        start the first image is repeated.

        Args:
            out: the array to draw into, without a copy in between; None for a new one.
            depth: the array to write distances in metres to, f32 [cameras,H,W]; None for no depth.

        Raises:
            RuntimeError: the environment has no images or is closed, or images cannot be drawn here.
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
        """The images in new arrays: "pixels" and, if the spec has it, "depth"; empty without images."""
        pixels = self.spec.pixels
        if pixels is None:
            return {}
        if not pixels.depth:
            return {"pixels": self.render()}
        depth = np.empty(pixels.shape[:3], np.float32)
        return {"pixels": self.render(depth=depth), "depth": depth}

    def restore(self, state: Mapping[str, np.ndarray], seed: int = 0) -> np.ndarray:
        """Start an episode in a state that RoboHive logged and return its observation, f32 [O].

        Args:
            state: one row of every entry of a trial's `env_infos/state`.
            seed: determines what the state leaves out, such as the sizes of objects. If the state is the first one of
                this seed's episode, the result is that episode, bit for bit.

        Raises:
            ValueError: the state does not fit this environment.
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
            # Reference cycles hold 100 MB of the simulator that Python's collector does not see, so it would not hurry.
            gc.collect()

    def __reduce__(self) -> Any:
        # RoboHive's own way of copying silently builds a new environment in another state.
        raise TypeError(
            f"{self.spec.name} cannot be copied or pickled: make another with make(...) or RoboHive(...)"
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
        """The part of the observation beside the images: f32 [O]."""
        if self._proprioceptive:
            observation = self.env.get_proprioception()[1]
        return np.asarray(observation, dtype=np.float32)

    def _seed(self, seed: int | None) -> None:
        # RoboHive's reset ignores its seed, and its seed() leaves the robot with the old generator: set the state of
        # the one generator that all parts share.
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
    """The RoboHive environment `name` for TorchRL; `seed` alone determines its rollouts.

    Args:
        name: id of RoboHive's suites.
        seed: determines the episodes to come.
        device: where its tensors are.
        from_pixels: whether an id without images of its own gets some; then `cameras` and `image_size` are needed.
        cameras: names of cameras in the model; None for the id's own.
        image_size: height and width in pixels, one number for a square; None for the id's own.
        quality: "full" or "fast", see `PixelSpec`.
        depth: whether each image comes with a depth image.
        frames: how many successive images are stacked.

    Raises:
        ValueError: `name` is not an id of RoboHive (the message names the nearest ones), or the images or the seed are
            invalid.
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
    """The spec of environment `name`, found by building and closing it (about a second).

    Raises:
        ValueError: `name` is not an id of RoboHive.
    """
    env = RoboHive(name)
    env.close()
    return env.spec
