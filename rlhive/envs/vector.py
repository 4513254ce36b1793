"""Many environments for the learner: S seeds x E environments in worker processes with shared memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.chunk import Arrays, Factory
from rlhive.envs.interface import check_seed
from rlhive.envs.names import check_name
from rlhive.envs.pixels import own_pixels
from rlhive.envs.pool import LocalPool, Pool, ProcessPool
from rlhive.envs.render import MAX_RENDERERS, choose_backend
from rlhive.envs.robohive import RoboHive

TIMEOUT = 120.0  # seconds; a slow machine without a GPU draws a hundred large images in that time


class VectorEnv:
    """S seeds x E environments, stepped while the caller does something else; episodes restart automatically.

    Episode n of environment e of seed k is drawn from `np.random.SeedSequence((seeds[k], e, n))` alone: neither the
    other seeds nor the number of workers matter to it. Environments that carry state from one episode to the next
    (`keeps_hidden_state`) are seeded at their first episode only.

    Args:
        name_or_factory: RoboHive id, or a picklable callable without arguments that builds a `NumpyEnv`.
        seeds: the S seeds, integers >= 0.
        num_envs: environments per seed, E.
        num_workers: processes that share them; 0 steps them in this process, with the same results.
            By default one for each core except one, which the learner keeps; so 0 on a single core, where workers
            and learner could not run at the same time.
        pixels: the images of the environments; None for the id's own in RoboHive, if any.
        max_renderers: how many processes may draw images; each has one GL context for all its environments.
        timeout: seconds after which a worker that does not answer is an error, above 0.

    Raises:
        ValueError: an unknown id, no seeds, a seed that is not a whole number >= 0, too few environments or workers, a
            timeout <= 0, more workers with images than `max_renderers`, an unknown camera, or a factory that cannot be
            sent to workers.
        RuntimeError: an environment cannot be built; the message is the original one.
    """

    spec: EnvSpec

    def __init__(
        self,
        name_or_factory: str | Factory,
        *,
        seeds: Sequence[int],
        num_envs: int = 1,
        num_workers: int | None = None,
        pixels: PixelSpec | None = None,
        max_renderers: int = MAX_RENDERERS,
        timeout: float = TIMEOUT,
    ) -> None:
        listed = isinstance(seeds, Sequence | np.ndarray) and len(seeds) > 0
        if not (listed and num_envs >= 1 and (num_workers or 0) >= 0 and timeout > 0.0):
            raise ValueError(
                "VectorEnv needs a list of one seed or more, num_envs >= 1, num_workers >= 0 and timeout > 0; "
                f"got seeds={seeds!r}, num_envs={num_envs}, num_workers={num_workers}, timeout={timeout}"
            )
        for seed in seeds:
            check_seed(seed)
        self.shape = (len(seeds), num_envs)
        self._pending = False
        places = [(int(seed), number) for seed in seeds for number in range(num_envs)]
        self._rows = np.arange(len(places))  # rows of the shared arrays, in the order of [S,E]
        name, factory, draws = _resolve(name_or_factory, pixels)
        count = worker_count(num_workers, len(places), draws=draws, max_renderers=max_renderers)
        if count == 0:
            self._pool: Pool = LocalPool(name, factory, places)
        else:
            self._pool = ProcessPool(name, factory, places, count, timeout)
        self.spec = self._pool.spec

    def reset(self, episode_seeds: Sequence[Sequence[int]] | None = None) -> TensorDict:
        """Start a new episode everywhere and return what the policies see first, with batch size [S,E].

        That is "observation" f32 [S,E,O] and, as in `recv`, "pixels" and "depth".

        Args:
            episode_seeds: a seed [S][E] for each environment, an integer >= 0 that alone determines its episode;
                without them each continues its own stream.

        Raises:
            ValueError: `episode_seeds` has another shape, or one of them is not a whole number >= 0.
            RuntimeError: steps were sent and not yet received, or an environment or its process fails.
        """
        if self._pending:
            raise RuntimeError("reset() between send() and recv(): receive the steps first")
        values = None
        if episode_seeds is not None:
            if [len(row) for row in episode_seeds] != [self.shape[1]] * self.shape[0]:
                raise ValueError(f"episode_seeds must have shape {self.shape}, got {episode_seeds}")
            flat = [seed for row in episode_seeds for seed in row]
            for seed in flat:
                check_seed(seed)
            values = self._to_rows([int(seed) for seed in flat])
        self._pool.start("reset", values)
        return self._first()

    def resume(self, numbers: Tensor, actions: Sequence[Sequence[Tensor]]) -> TensorDict:
        """Bring every environment back into an episode of its stream and return what the policies see there.

        This starts the episode again and repeats its actions. Only environments that carry state from one episode to
        the next, such as Myo's tired muscles, do not end up exactly where they were.

        Args:
            numbers: the episode of each environment, counted from 0, int64 [S,E].
            actions: those taken so far in that episode, f32 [S][E][T,A]; T may differ between environments.

        Raises:
            RuntimeError: steps were sent and not yet received, or an environment or its process fails.
        """
        if self._pending:
            raise RuntimeError("resume() between send() and recv(): receive the steps first")
        taken = [own.numpy() for of_seed in actions for own in of_seed]
        self._pool.start("resume", self._to_rows(list(zip(numbers.flatten().tolist(), taken, strict=True))))
        return self._first()

    def _first(self) -> TensorDict:
        self._pool.wait()
        first = {"observation": self._fresh(self._pool.arrays.observation)}
        images = {key: self._fresh(now) for key, now, _ in self._images(self._pool.arrays)}
        return TensorDict(first | images, batch_size=self.shape)

    def send(self, action: Tensor) -> None:
        """Start one step of every environment with `action` f32 [S,E,A] and return at once; `recv` waits for it.

        Raises:
            ValueError: not a tensor, a wrong shape, or a value that is not finite; nothing is stepped.
            RuntimeError: the steps sent before are not received yet.
        """
        expected = (*self.shape, self.spec.action_dim)
        if not isinstance(action, Tensor):
            raise ValueError(
                f"action must be a tensor of shape {expected}, got {type(action).__name__}: torch.from_numpy makes "
                "one of an array"
            )
        if tuple(action.shape) != expected:
            raise ValueError(f"action must have shape {expected}, got {tuple(action.shape)}")
        if self._pending:
            raise RuntimeError("send() twice: receive the first steps before sending the next")
        values = action.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.spec.name}: the action must be finite, got {values[~np.isfinite(values)][0]}"
            )
        self._pool.arrays.action[self._rows] = values.reshape(len(self._rows), -1)
        self._pool.start("step")
        self._pending = True

    def recv(self) -> TensorDict:
        """The steps sent before, as fresh tensors with batch size [S,E].

        "observation" f32 [S,E,O] is what the policy sees next: after the end of an episode, the first of the new one.
        ("next", "observation") is the true successor: there, the last of the old episode. Beside it are
        "reward" and "rwd_sparse" f32 [S,E,1], "terminated", "truncated", "done" and "solved" bool [S,E,1].

        With images, "pixels" u8 [S,E,cameras,H,W,C] and ("next", "pixels") belong to the two observations, and so does
        "depth" f32 [S,E,cameras,H,W]. If no episode ended, both are the same tensor, so that images are copied once.

        Raises:
            RuntimeError: nothing was sent, or an environment or its process failed, which closes all workers.
        """
        if not self._pending:
            raise RuntimeError("recv() without send()")
        self._pending = False
        self._pool.wait()
        arrays = self._pool.arrays
        following = {
            "observation": self._fresh(arrays.next_observation),
            "reward": self._fresh(arrays.reward),
            "rwd_sparse": self._fresh(arrays.rwd_sparse),
            "terminated": self._fresh(arrays.terminated),
            "truncated": self._fresh(arrays.truncated),
            "done": self._fresh(arrays.terminated | arrays.truncated),
            "solved": self._fresh(arrays.solved),
        }
        now = {"observation": self._fresh(arrays.observation)}
        for key, image, last in self._images(arrays):
            now[key] = self._fresh(image)
            following[key] = self._successor(now[key], last, following["done"])
        # As in TorchRL's own environments: checks that cannot fail here would cost a twentieth of the Franka's step.
        unchecked, shape = TensorDict._new_unsafe, torch.Size(self.shape)
        return unchecked({**now, "next": unchecked(following, batch_size=shape)}, batch_size=shape)

    def keep(self, indices: Sequence[int]) -> None:
        """Continue with only the seeds at `indices` of `[S]`; the environments of the others are closed.

        Raises:
            RuntimeError: steps were sent and not yet received.
        """
        if self._pending:
            raise RuntimeError("keep() between send() and recv(): receive the steps first")
        self._rows = self._rows.reshape(self.shape)[list(indices)].flatten()
        self.shape = (len(indices), self.shape[1])
        self._pool.start("keep", self._to_rows([1] * len(self._rows)))
        self._pool.wait()

    def close(self) -> None:
        """End the worker processes; may be called twice."""
        self._pool.close()

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _fresh(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows[self._rows].reshape(*self.shape, *rows.shape[1:]))

    def _images(self, arrays: Arrays) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """For each kind of image: its key, what the policy sees next, and the last image of episodes that ended."""
        pixels = self.spec.pixels
        if pixels is None:
            return []
        images = [("pixels", arrays.pixels, arrays.next_pixels)]
        return images + ([("depth", arrays.depth, arrays.next_depth)] if pixels.depth else [])

    def _successor(self, image: Tensor, last: np.ndarray, done: Tensor) -> Tensor:
        """The image after the step: `image`, or the last one of the episode where that is done."""
        ended = done.flatten()
        if not ended.any():
            return image
        successor = image.clone()
        rows = self._rows[ended.numpy()]
        successor.flatten(0, 1)[ended] = torch.from_numpy(last[rows])
        return successor

    def _to_rows(self, values: Sequence[Any]) -> list[Any]:
        """One value per environment, `[S * E]`, in the order of the pool's rows; 0 for closed environments."""
        rows: list[Any] = [0] * len(self._pool.arrays.action)
        for row, value in zip(self._rows, values, strict=True):
            rows[row] = value
        return rows


def worker_count(
    wanted: int | None, num_envs: int, *, draws: bool, max_renderers: int = MAX_RENDERERS
) -> int:
    """How many processes share the environments.

    Args:
        wanted: how many are asked for; None for one per usable core, except one for the learner.
        num_envs: number of environments of all seeds; there are no more processes than these.
        draws: whether each process draws images.
        max_renderers: how many processes may draw.

    Raises:
        ValueError: more processes than `max_renderers` are asked for, and they draw images.
    """
    if wanted is None:
        cores = len(os.sched_getaffinity(0)) - 1
        return min(cores, num_envs, max_renderers) if draws else min(cores, num_envs)
    if draws and wanted > max_renderers:
        raise ValueError(
            f"num_workers={wanted} would open {wanted} GL contexts, more than max_renderers={max_renderers}: "
            "give fewer workers, or a larger max_renderers"
        )
    return min(wanted, num_envs)


def _resolve(name_or_factory: str | Factory, pixels: PixelSpec | None) -> tuple[str, Factory, bool]:
    """The name for messages, the factory that workers call, and whether GL draws images."""
    if not isinstance(name_or_factory, str):
        if pixels is not None:
            raise ValueError("pixels need the id of an environment; a factory must set its own images")
        return getattr(name_or_factory, "__name__", repr(name_or_factory)), name_or_factory, False
    from rlhive.envs import simhive

    check_name(name_or_factory)
    simhive.ensure()  # once, here, with its progress bar, not in every worker
    pixels = pixels or own_pixels(name_or_factory)
    if pixels is not None:
        choose_backend()  # likewise, and before mujoco is imported
    return name_or_factory, functools.partial(RoboHive, name_or_factory, pixels=pixels), pixels is not None
