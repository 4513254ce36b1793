"""Many environments for the learner: S seeds x E environments in worker processes over shared memory."""

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

TIMEOUT = 120.0  # seconds: a slow machine draws a hundred large images in that time, without a GPU


class VectorEnv:
    """S seeds x E environments, stepped while the caller does something else; episodes restart by themselves.

    Episode n of environment e of seed k is drawn from `np.random.SeedSequence((seeds[k], e, n))` alone: neither the
    other seeds nor the number of workers matter to it. Environments that carry state from one episode to the next
    (`keeps_hidden_state`) are seeded at their first episode only.

    Args:
        name_or_factory: RoboHive id, or a picklable callable without arguments that builds a `NumpyEnv`.
        seeds: the S seeds, integers >= 0.
        num_envs: environments per seed, E.
        num_workers: processes that share them; 0 steps them in this process, with the same results.
            By default one per core but one, which the learner keeps: 0 on a single core, where they could not
            run at the same time.
        pixels: the images of the environments; None for those that RoboHive itself gives the id, if any.
        max_renderers: how many processes may draw images; each has one GL context for all its environments.
        timeout: seconds after which a worker that does not answer is an error, above 0.

    Raises:
        ValueError: an unknown id, no seeds, one that is not a whole number from 0 on, too few environments or workers,
            a timeout of 0 or less, more workers with images than `max_renderers`, no such camera, or a factory that
            cannot be sent to workers.
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
        self._rows = np.arange(len(places))  # of the shared arrays, in the order of [S,E]
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
            episode_seeds: a seed [S][E] for each environment, an integer >= 0 which alone determines its episode;
                without them each goes on in its own stream.

        Raises:
            ValueError: `episode_seeds` has another shape, or one of them is not a whole number from 0 on.
            RuntimeError: steps sent are not yet received, or an environment or its process fails.
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
        """Take every environment back into an episode of its stream and return what the policies see there.

        It begins that episode anew and takes the same actions. Only environments that carry something from one episode
        to the next, the tired muscles of Myo's, say, do not come out exactly where they were.

        Args:
            numbers: the episode of each environment, counted from 0, int64 [S,E].
            actions: those taken there so far, f32 [S][E][T,A], T for each its own.

        Raises:
            RuntimeError: steps sent are not yet received, or an environment or its process fails.
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
        """Let every environment take one step with `action` f32 [S,E,A] and return at once; `recv` waits.

        Raises:
            ValueError: no tensor, a wrong shape, or a value that is not finite; nothing was stepped.
            RuntimeError: the steps sent before are not yet received.
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

        "observation" f32 [S,E,O] is what the policy sees next, after the end of an episode the first of the
        new one; ("next", "observation") is the true successor, the last of its episode there. Beside it are
        "reward" and "rwd_sparse" f32 [S,E,1], "terminated", "truncated", "done" and "solved" bool [S,E,1].

        With images "pixels" u8 [S,E,cameras,H,W,C] and ("next", "pixels") are what the two observations are of, and
        "depth" f32 [S,E,cameras,H,W] likewise. Where no episode ended both are one and the same tensor, so that images
        are copied once.

        Raises:
            RuntimeError: nothing was sent, or an environment or its process failed, which ends all workers.
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
        # As TorchRL's own environments do it: checks that cannot fail here cost a twentieth of the Franka's step.
        unchecked, shape = TensorDict._new_unsafe, torch.Size(self.shape)
        return unchecked({**now, "next": unchecked(following, batch_size=shape)}, batch_size=shape)

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with the seeds at `indices` of `[S]` alone; the environments of the others are closed.

        Raises:
            RuntimeError: steps sent are not yet received.
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
        """Key, what the policy sees next, and what it saw last where an episode ended, for each kind of image."""
        pixels = self.spec.pixels
        if pixels is None:
            return []
        images = [("pixels", arrays.pixels, arrays.next_pixels)]
        return images + ([("depth", arrays.depth, arrays.next_depth)] if pixels.depth else [])

    def _successor(self, image: Tensor, last: np.ndarray, done: Tensor) -> Tensor:
        """The image after the step: `image`, but the last one where the episode is done."""
        ended = done.flatten()
        if not ended.any():
            return image
        successor = image.clone()
        rows = self._rows[ended.numpy()]
        successor.flatten(0, 1)[ended] = torch.from_numpy(last[rows])
        return successor

    def _to_rows(self, values: Sequence[Any]) -> list[Any]:
        """A value for each environment `[S * E]`, in the order of the pool's rows, 0 for those that are closed."""
        rows: list[Any] = [0] * len(self._pool.arrays.action)
        for row, value in zip(self._rows, values, strict=True):
            rows[row] = value
        return rows


def worker_count(
    wanted: int | None, num_envs: int, *, draws: bool, max_renderers: int = MAX_RENDERERS
) -> int:
    """How many processes share the environments.

    Args:
        wanted: how many are asked for; None for one per core that this process may use but one, the learner's.
        num_envs: of all seeds; no more processes than these.
        draws: whether each process draws images.
        max_renderers: how many may.

    Raises:
        ValueError: more processes that draw images are asked for than may.
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
    """The name for messages, what builds one environment in a worker, and whether GL draws its images."""
    if not isinstance(name_or_factory, str):
        if pixels is not None:
            raise ValueError("pixels go with the id of an environment; a factory builds its images itself")
        return getattr(name_or_factory, "__name__", repr(name_or_factory)), name_or_factory, False
    from rlhive.envs import simhive

    check_name(name_or_factory)
    simhive.ensure()  # here, once, with its progress bar; the workers only find it done
    pixels = pixels or own_pixels(name_or_factory)
    if pixels is not None:
        choose_backend()  # likewise, and before mujoco is imported anywhere
    return name_or_factory, functools.partial(RoboHive, name_or_factory, pixels=pixels), pixels is not None
