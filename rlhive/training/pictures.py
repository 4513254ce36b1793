"""Pictures of a run's policies: the images that its last evaluation saw, and videos of some evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.algorithms import POLICY_KEYS
from rlhive.core.files import replacing
from rlhive.envs.vector import VectorEnv
from rlhive.policy_fn.loading import load
from rlhive.runs.run_files import EVALUATION_SEED, SEEN_FILE, VIDEOS
from rlhive.training.encoded_env import EncodedEnv
from rlhive.training.evaluation import Act, evaluation_seeds

if TYPE_CHECKING:
    from rlhive.training.run import Run

MOMENTS = 8  # of the episode, evenly spaced


class Strip:
    """A wrapper of `act` that keeps some of the images it acts on: those of the first seed's first episode.

    Args:
        act: as in `run_episodes`.
        envs: environments with images, about to be reset.
    """

    def __init__(self, act: Act, envs: VectorEnv | EncodedEnv) -> None:
        self._act, self._envs, self._calls = act, envs, 0
        self._steps = np.linspace(0, (envs.spec.max_episode_steps or 1) - 1, MOMENTS).astype(int)
        self._images: dict[int, Tensor] = {}

    def __call__(self, seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The result of `act`."""
        if self._calls in self._steps:
            pixels = self._envs.pixels if isinstance(self._envs, EncodedEnv) else seen["pixels"]
            self._images[self._calls] = pixels[0, 0, ..., -3:].clone()
        self._calls += 1
        return self._act(seen, rest)

    def picture(self, length: int) -> np.ndarray:
        """u8 `[cameras * H, T * W, 3]`: cameras from top to bottom, an episode of that length from left to right."""
        images = [torch.cat(list(image)) for step, image in self._images.items() if step < length]
        return torch.cat(images, dim=1).numpy()


def write_strip(run_dir: Path, strip: Strip, length: int) -> None:
    """Writes the images of an episode of that length as a PNG, replacing those of the previous evaluation."""
    from matplotlib.image import imsave

    with replacing(run_dir / SEEN_FILE) as beside:
        imsave(beside, strip.picture(length))


def film_run(run: Run) -> str:
    """Films the first training seed's policy in the first evaluation episode, into `videos/<step>.mp4`.

    Returns:
        The result, in one line: a failed film does not end the run.
    """
    path = run.run_dir / VIDEOS / f"{run.step}.mp4"
    try:
        _film(run, path)
    except (OSError, RuntimeError, ValueError) as error:
        return f"step {run.step}: no video: {error}"
    return f"filmed {path}"


def _film(run: Run, path: Path) -> None:
    from rlhive.video import film

    params, env_state = (run.state[0][part].cpu() for part in ("params", "env_state"))
    policy = load(params.select(*POLICY_KEYS[run.spec.algorithm], strict=False), env_state, spec=run.spec)
    path.parent.mkdir(exist_ok=True)

    def act(seen: TensorDict, rest: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return policy.act(dict(seen.items()), rest)

    episode_seed = evaluation_seeds(EVALUATION_SEED, 1)[0]
    film(act, run.spec.env, episode_seed, path, run.config.video_cameras)
