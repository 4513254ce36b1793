"""Where a replay's transitions are kept: TorchRL's storages, in memory or in files of a directory of their own."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import torch
from filelock import BaseFileLock
from torchrl.data import LazyMemmapStorage, LazyTensorStorage

from rlhive.core.files import lock_file, naming


def make_storage(
    max_rows: int, scratch_dir: str | os.PathLike[str] | None, device: torch.device
) -> LazyTensorStorage | LazyMemmapStorage:
    """TorchRL's storage for `max_rows` rows; it allocates its memory with the first row.

    Raises:
        ValueError: a directory without a name, a file, or on another device than the CPU.
    """
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # its messages would break the progress bar
    if scratch_dir is None:
        # Python keeps each storage's lock there.
        with naming("/dev/shm"):
            return LazyTensorStorage(max_rows, device=device)
    if device.type != "cpu":
        raise ValueError(
            f"memory-mapped transitions are kept on the CPU, got device={device} with scratch_dir"
        )
    if not os.fspath(scratch_dir):
        raise ValueError("replay.scratch_dir must be a directory, or None for memory, got ''")
    if Path(scratch_dir).is_file():
        raise ValueError(f"replay.scratch_dir must be a directory, got the file {str(scratch_dir)!r}")
    Path(scratch_dir).mkdir(parents=True, exist_ok=True)
    return LazyMemmapStorage(max_rows, scratch_dir=str(scratch_dir), existsok=True)


def lock_directory(scratch_dir: str | os.PathLike[str]) -> BaseFileLock:
    """Keeps other replays, whose files have the same names, out of a directory while the lock is referenced.

    Raises:
        ValueError: another replay is there.
    """
    lock = lock_file(Path(scratch_dir) / ".replay.lock")
    if lock is None:
        raise ValueError(
            f"{scratch_dir} holds the replay of another run: give each its own replay.scratch_dir"
        )
    return lock


def check_room(scratch_dir: str | os.PathLike[str], needed: int) -> None:
    """Refuses a directory whose disk has no room for `needed` bytes; files that will be replaced count as room.

    Raises:
        ValueError: saying what is free.
    """
    replaced = sum(512 * path.stat().st_blocks for path in Path(scratch_dir).rglob("*.memmap"))
    if (free := shutil.disk_usage(scratch_dir).free + replaced) < needed:
        raise ValueError(f"{scratch_dir} has {free:.2e} bytes free, the replay buffer needs {needed:.2e}")


def reserve_files(scratch_dir: str | os.PathLike[str]) -> None:
    """Reserves disk space for all rows in the files of a storage that has its first row.

    The files are sparse: a process that writes to them when the disk is full is killed (SIGBUS).

    Raises:
        ValueError: there is no room for them.
    """
    for path in Path(scratch_dir).rglob("*.memmap"):
        size = path.stat().st_size
        try:
            with naming(path), path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"{scratch_dir} has no room for the replay buffer, {path.name} alone needs {size:.2e} bytes: free some "
                "or choose another replay.scratch_dir"
            ) from None
