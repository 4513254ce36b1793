"""A video of one episode, rendered by MuJoCo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import torch
from torch import Tensor
from tqdm import tqdm

from rlhive.core.env_spec import EnvSpec
from rlhive.core.evaluation import check_same_environment
from rlhive.core.files import replacing
from rlhive.envs.robohive import RoboHive

WIDTH, HEIGHT = 640, 480  # fits into the offscreen buffer of every model


def film(act: Callable[[Tensor], Tensor], spec: EnvSpec, episode_seed: int, path: Path) -> None:
    """Plays an episode in this process and renders each step with MuJoCo, from the model's first camera.

    Args:
        act: `act(observation [1, O]) -> action [1, A]`.
        spec: the environment the policy was trained on.
        episode_seed: determines the episode.
        path: the .mp4 file, which is there only when it is whole.

    Raises:
        RuntimeError: rendering does not work here.
        ValueError: the environment is not the one the policy was trained on.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read where mujoco is imported first
    with rendering_errors():
        import mujoco  # noqa: F401 - loads the GL backend, before RoboHive would
    env = RoboHive(spec.name)
    try:
        check_same_environment(env.spec, spec)
        model, data = env.env.sim.model.ptr, env.env.sim.data.ptr
        with (
            open_renderer(model) as renderer,
            replacing(path) as beside,
            imageio.get_writer(beside, fps=1.0 / env.spec.dt) as writer,
            tqdm(total=env.spec.max_episode_steps, desc="video", unit="picture") as progress,
        ):
            observation, done = env.reset(episode_seed), False
            while not done:
                renderer.update_scene(data, camera=0 if model.ncam else -1)
                writer.append_data(renderer.render())  # type: ignore[attr-defined]
                progress.update()
                action = act(torch.from_numpy(observation)[None])[0]
                result = env.step(action.numpy())
                observation, done = result.observation, result.terminated or result.truncated
    finally:
        env.close()


def open_renderer(model: Any) -> Any:
    """A MuJoCo renderer without shadows, which are nine tenths of the time without a GPU; a context manager.

    Raises:
        RuntimeError: there is none on this machine.
    """
    import mujoco

    with rendering_errors():
        renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    return renderer


@contextlib.contextmanager
def rendering_errors() -> Iterator[None]:
    """Turns whatever a GL backend raises, each has errors of its own, into one line with the fix."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"--video: MUJOCO_GL={os.environ['MUJOCO_GL']} cannot render here ({error}); "
            "`python -m rlhive.doctor` says what to do"
        ) from error
