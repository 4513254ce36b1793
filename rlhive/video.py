"""A video of one episode, in real time, from one camera or several in a grid."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from tensordict import TensorDict
from tqdm import tqdm

from rlhive.core.env_spec import EnvSpec
from rlhive.core.files import replacing
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.render import Renderer, camera_id, choose_backend, rendering_errors, view_options
from rlhive.envs.robohive import RoboHive
from rlhive.policy_fn.compare import check_same_environment
from rlhive.training.evaluation import Act

WIDTH, HEIGHT = 640, 480  # of each camera's picture


def film(
    act: Act,
    spec: EnvSpec,
    episode_seed: int,
    path: Path,
    cameras: Sequence[str] = (),
) -> None:
    """Plays an episode in this process and films it in real time, with one picture of each camera per step.

    The pictures are drawn like those of quality "fast", whatever the policy itself sees.

    Args:
        act: as for `run_episodes`, but with batch size `[1]`.
        spec: the environment the policy was trained on.
        episode_seed: determines the episode.
        path: the .mp4 file, which appears only when it is complete.
        cameras: names of cameras in the model; if empty, those of the policy, or else the model's first one.

    Raises:
        RuntimeError: rendering does not work here, or ffmpeg cannot write the file.
        ValueError: an unknown camera, or the environment is not the one the policy was trained on.
    """
    env = _build(spec.name, spec.pixels)
    try:
        check_same_environment(env.spec, spec)
        studio = Studio(env, cameras or (spec.pixels.cameras if spec.pixels else ()))
        with (
            _writing_errors(path),
            replacing(path) as beside,
            imageio.get_writer(beside, fps=1.0 / env.spec.dt) as writer,
            tqdm(total=env.spec.max_episode_steps, desc="video", unit="picture", disable=None) as progress,
        ):
            observation, done, rest = env.reset(episode_seed), False, None
            while not done:
                writer.append_data(studio.shoot())  # type: ignore[attr-defined]
                progress.update()
                action, rest = act(_seen(env, observation), rest)
                result = env.step(action[0].numpy())
                observation, done = result.observation, result.terminated or result.truncated
    finally:
        env.close()


def check_cameras(env_name: str, cameras: Sequence[str]) -> None:
    """Refuses an environment or cameras that could not be filmed.

    Raises:
        RuntimeError: rendering does not work here.
        ValueError: an unknown camera.
    """
    env = _build(env_name, None)
    try:
        Studio(env, cameras)
    finally:
        env.close()


class Studio:
    """Cameras of an environment whose pictures form one grid, row by row.

    Args:
        env: the environment.
        cameras: names of its cameras; if empty, the model's first one, or a view from afar if it has none.

    Raises:
        ValueError: an unknown camera.
    """

    def __init__(self, env: RoboHive, cameras: Sequence[str]) -> None:
        self._sim = env.env.sim_obsd
        model = self._sim.model.ptr
        self._cameras = [camera_id(env.spec.name, model, name) for name in cameras]
        self._cameras = self._cameras or [0 if model.ncam else -1]
        self._options = view_options(env.env)
        self._columns = math.ceil(math.sqrt(len(self._cameras)))
        rows = math.ceil(len(self._cameras) / self._columns)
        self._picture = np.zeros((rows * HEIGHT, self._columns * WIDTH, 3), np.uint8)
        with rendering_errors():
            self._renderer = Renderer(model, HEIGHT, WIDTH, "fast")

    def shoot(self) -> np.ndarray:
        """The picture of the current state, u8 [H,W,3]; the next call overwrites it."""
        model, data = self._sim.model.ptr, self._sim.data.ptr
        with rendering_errors():
            self._renderer.prepare(model)
            for index, camera in enumerate(self._cameras):
                top, left = HEIGHT * (index // self._columns), WIDTH * (index % self._columns)
                tile = self._picture[top : top + HEIGHT, left : left + WIDTH]
                self._renderer.draw(model, data, self._options, camera, tile)
        return self._picture


@contextlib.contextmanager
def _writing_errors(path: Path) -> Iterator[None]:
    """Keeps ffmpeg's command, which imageio prints on many lines, out of the message of a failure."""
    try:
        yield
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"{path}: ffmpeg cannot write the video ({reason}); is there room for it?"
        ) from None


def _build(name: str, pixels: PixelSpec | None) -> RoboHive:
    choose_backend()
    with rendering_errors():
        import mujoco  # noqa: F401 - loads the GL backend, before RoboHive would
    return RoboHive(name, pixels=pixels)


def _seen(env: RoboHive, observation: np.ndarray) -> TensorDict:
    parts = {"observation": observation, **env.images()}
    return TensorDict({key: torch.from_numpy(part)[None] for key, part in parts.items()}, batch_size=[1])
