"""A new HDF5 file on a disk that may turn out to be full, with which HDF5 itself cannot deal.

It cannot close a file that it cannot write, and crashes when it closes it again.
"""

from __future__ import annotations

import io
import os
from typing import Any

import h5py

from rlhive.core.interrupt import hold_signals


class _Disk(io.FileIO):
    """The bytes on disk; from the first failure on, what HDF5 writes stays in memory, where it finds it again."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []  # places and what is there, later ones over earlier ones

    def write(self, data: Any) -> int:
        place, rest = self.tell(), memoryview(data).cast("B")
        try:
            while self.failure is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        if self.failure is not None:
            self._kept.append((place, bytes(data)))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        place, found = self.tell(), memoryview(buffer).cast("B")
        super().readinto(found)
        for start, data in self._kept:
            first, last = max(place, start), min(place + len(found), start + len(data))
            if first < last:
                found[first - place : last - place] = data[first - start : last - start]
        return len(found)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return self.tell() if size is None else size


class NewH5(h5py.File):
    """A file to write into as into any of h5py's, at a path that is overwritten.

    HDF5 guards its bookkeeping by checksums in the format chosen here. It loses what it was writing, or crashes, where
    Ctrl-C is raised in `_Disk`, which it calls: whoever writes does so in `hold_signals`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._disk = _Disk(path)
        with hold_signals():
            super().__init__(self._disk, "w", libver=("v110", "v110"))

    def check(self) -> None:
        """Tells of what could not be written; to be asked now and then, and after the file is closed.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self._disk.failure is not None:
            raise self._disk.failure

    def close(self) -> None:
        """Writes what is not on disk yet, and closes."""
        with hold_signals():
            super().close()
            self._disk.close()
