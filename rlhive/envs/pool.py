"""Steps environments in this process, or in worker processes that the parent talks to over pipes."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NoReturn, Protocol

from rlhive.command_line import command_line
from rlhive.core.env_spec import EnvSpec
from rlhive.envs.chunk import Arrays, Chunk, Factory, Place, byte_count, map_arrays
from rlhive.envs.worker import Worker, spawn


class Pool(Protocol):
    """All environments of a `VectorEnv`, in row order."""

    spec: EnvSpec
    arrays: Arrays

    def start(self, command: str, values: Sequence[Any] | None = None) -> None: ...

    def wait(self) -> None: ...

    def close(self) -> None: ...


class LocalPool:
    """Steps all environments in this process, when `wait` is called."""

    def __init__(self, name: str, factory: Factory, places: Sequence[Place]) -> None:
        self.chunk = Chunk(name, factory, places)
        self.spec = self.chunk.spec
        self.arrays = map_arrays(bytearray(byte_count(len(places), self.spec)), len(places), self.spec)
        self.chunk.attach(self.arrays, 0)
        self.closed = False

    def start(self, command: str, values: Sequence[Any] | None = None) -> None:
        """Note a command of `Chunk.obey`.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self.closed:
            raise RuntimeError(f"the environments of {self.chunk.name} are closed")
        self.todo = (command, values)

    def wait(self) -> None:
        """Carry out the command given to `start`."""
        self.chunk.obey(*self.todo)

    def close(self) -> None:
        """Close the environments."""
        self.closed = True
        self.chunk.close()


class ProcessPool:
    """Steps environments in `count` worker processes, a block of rows each; they end with the parent.

    A worker that does not answer for `timeout` seconds is an error; while it builds, it has that long per environment.
    """

    def __init__(
        self, name: str, factory: Factory, places: Sequence[Place], count: int, timeout: float
    ) -> None:
        bounds = [len(places) * i // count for i in range(count + 1)]
        self.name, self.rows, self.timeout = name, len(places), timeout
        self.workers: list[Worker] = []
        # Runs when Python ends at the latest, before multiprocessing waits for workers, which ignore its SIGTERM.
        self._end = Finalize(self, _end, args=(self.workers,), exitpriority=10)
        with self._closing_on_error():
            for (start, stop), cores in zip(itertools.pairwise(bounds), _cores(count), strict=True):
                self.workers.append(spawn(cores, name, factory, places[start:stop], start, self.rows))
            specs = [self._answer(worker, len(worker.places)) for worker in self.workers]
            self.spec = specs[0]
            self._share_arrays()

    def _share_arrays(self) -> None:
        # An anonymous file, handed over the pipe: no named file stays behind, however the processes end.
        size = byte_count(self.rows, self.spec)
        with open(os.memfd_create("rlhive"), "rb+") as file:
            os.ftruncate(file.fileno(), size)
            self.arrays = map_arrays(mmap.mmap(file.fileno(), size), self.rows, self.spec)
            for worker in self.workers:
                reduction.send_handle(worker.connection, file.fileno(), worker.process.pid)
                self._answer(worker)

    def start(self, command: str, values: Sequence[Any] | None = None) -> None:
        """Give a command of `Chunk.obey` to every worker and return at once; `values`: one per row.

        Raises:
            RuntimeError: a worker died, or the pool is closed.
        """
        if not self.workers:
            raise RuntimeError(f"the environments of {self.name} are closed")
        with self._closing_on_error():
            for worker in self.workers:
                start, stop = worker.first_row, worker.first_row + len(worker.places)
                try:
                    worker.connection.send((command, None if values is None else values[start:stop]))
                except ConnectionError:
                    self._fail(worker)

    def wait(self) -> None:
        """Return when every worker has carried out its command.

        Raises:
            RuntimeError: an environment failed, or a worker died or does not answer; all workers are closed.
        """
        with self._closing_on_error():
            for worker in self.workers:
                self._answer(worker)

    def close(self) -> None:
        """End the workers, which notice the closed pipe; one that stays busy for more than 5 s is killed."""
        self._end()

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """Closes the workers on any error or Ctrl-C: an answer left in a pipe would be taken for the next one."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _answer(self, worker: Worker, patience: int = 1) -> Any:
        try:
            if not _arrives(worker.connection, self.timeout * patience):
                self._give_up(worker, self.timeout * patience)
            status, value = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._fail(worker)
        if status == "error":
            raise RuntimeError(value)
        return value

    def _fail(self, worker: Worker) -> NoReturn:
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        killed = (
            "; something killed it, perhaps the system when memory ran out: use fewer environments or workers"
        )
        raise RuntimeError(
            f"the worker process of {self.name}, seeds {_seeds(worker)}, died (exit code {code})"
            f"{killed if code == -signal.SIGKILL else '; its error is above' if code == 1 else ''}"
        ) from None

    def _give_up(self, worker: Worker, seconds: float) -> NoReturn:
        worker.process.kill()
        raise RuntimeError(
            f"the worker process of {self.name}, seeds {_seeds(worker)}, has not answered for {seconds:g} s: "
            f"if it draws images, its GL driver may hang (see `{command_line('rlhive.doctor')}`; try "
            "MUJOCO_GL=osmesa, or fewer max_renderers on a GPU); if it is only slow, give VectorEnv a longer timeout"
        )


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join(timeout=5)
        worker.process.kill()
        worker.process.join(timeout=5)  # a process that hangs in a driver may not even die
    workers.clear()


def _seeds(worker: Worker) -> list[int]:
    return sorted({seed for seed, _ in worker.places})


def _arrives(connection: Connection, seconds: float) -> bool:
    """Whether something arrives within so many seconds, not counting those in which this process is stopped."""
    while seconds > 0.0:
        if connection.poll(min(1.0, seconds)):
            return True
        seconds -= 1.0
    return False


def _cores(count: int) -> list[set[int]]:
    """The cores that each of `count` workers may use: one each, if there are enough workers to use all cores.

    Left to the system, two workers on two cores often share one of them: 1.5 times the steps/s of one worker instead of
    1.8. Fewer workers than cores are not bound, so that they do not share cores with those of another run.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count < len(cores):
        return [set(cores)] * count
    return [{cores[index % len(cores)]} for index in range(count)]
