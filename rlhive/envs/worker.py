"""The worker processes of a `ProcessPool`: how one is started, and what it runs."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from rlhive import WORKER_NAME
from rlhive.core.interrupt import shield_children
from rlhive.envs.chunk import Chunk, Factory, Place, byte_count, map_arrays

# Workers yield to the learner, which needs their steps only after its update: on two cores a training step took 9.7 ms
# instead of 11.3 (means of four and three alternating runs, FrankaReachRandom-v0).
NICENESS = 5


class Worker(NamedTuple):
    """A worker process, the parent's end of the pipe to it, and its rows: those of `places`, from `first_row` on."""

    process: BaseProcess
    connection: Connection
    places: Sequence[Place]
    first_row: int


def spawn(
    cores: set[int], name: str, factory: Factory, places: Sequence[Place], first_row: int, rows: int
) -> Worker:
    """Start a worker process on `cores` that builds the environments at `places`; it answers with their spec.

    Raises:
        ValueError: this process may not start workers, or `factory` cannot be sent to one; it says what to change.
    """
    _check_main(name, factory)
    context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
    here, there = context.Pipe()
    process = context.Process(
        name=WORKER_NAME,
        target=_work,
        args=(there, cores, name, factory, places, first_row, rows),
        daemon=True,
    )
    try:
        with shield_children():  # signals are for the parent, which ends the workers when it is done
            process.start()
    except (OSError, RuntimeError):  # about starting processes, not about what is sent
        raise
    except Exception as error:  # pickling the factory may raise anything
        raise ValueError(_cannot_be_sent(name, str(error))) from None
    there.close()  # so that the worker's death shows as end of file here
    return Worker(process, here, places, first_row)


def _check_main(name: str, factory: Factory) -> None:
    """Refuses to start workers that this process may not have, or that could not import its program, as each must.

    Raises:
        ValueError: workers cannot be started; the message says what to change.
    """
    is_imported_by_a_worker = getattr(multiprocessing.current_process(), "_inheriting", False)
    if is_imported_by_a_worker:
        raise ValueError(
            "this program starts worker processes whenever it is imported, and each of them imports it: put the lines "
            "that start environments under `if __name__ == '__main__':`, or give num_workers=0"
        )
    if multiprocessing.current_process().daemon:
        raise ValueError(
            "this process is daemonic, as those of multiprocessing.Pool are, and may start no worker processes: give "
            'num_workers=0, or start it with concurrent.futures.ProcessPoolExecutor and the context "spawn"'
        )
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path == "<stdin>":
        raise ValueError(
            f"{name}: worker processes import the program that starts them, and cannot read it from stdin: "
            "keep it in a file, or give num_workers=0"
        )
    made_by = getattr(factory, "func", factory)  # of a functools.partial
    if path is None and getattr(made_by, "__module__", None) == "__main__":
        raise ValueError(_cannot_be_sent(name, "it is defined in a notebook or by python -c"))


def _cannot_be_sent(name: str, why: str) -> str:
    return (
        f"{name} cannot be sent to worker processes: give a function or class at the top of a module, or "
        f"num_workers=0 ({why})"
    )


def _work(
    connection: Connection,
    cores: set[int],
    name: str,
    factory: Factory,
    places: Sequence[Place],
    first_row: int,
    rows: int,
) -> None:
    """Main function of a worker process: builds, then obeys the parent until it closes the pipe or dies."""
    try:
        os.nice(NICENESS)
        _stay_on(cores)
        chunk = Chunk(name, factory, places)
        connection.send(("done", chunk.spec))
        with open(reduction.recv_handle(connection), "rb+") as file:
            buffer = mmap.mmap(file.fileno(), byte_count(rows, chunk.spec))
        chunk.attach(map_arrays(buffer, rows, chunk.spec), first_row)
        connection.send(("done", None))
        while True:
            chunk.obey(*connection.recv())
            connection.send(("done", None))
    except (EOFError, ConnectionError):
        return  # the parent is gone or has closed its end
    except Exception as error:
        connection.send(("error", str(error)))


def _stay_on(cores: set[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        text = ", ".join(map(str, sorted(cores)))
        raise RuntimeError(f"a worker process cannot run on the core(s) {text}: {error.strerror}") from error
