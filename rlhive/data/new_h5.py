"""A new HDF5 file on a disk that may fill up.

HDF5 itself cannot handle that: it fails to close a file that it cannot write, and crashes when it tries again.
"""

from __future__ import annotations

import io
import os
from typing import Any

import h5py

from rlhive.core.interrupt import hold_signals


class _Disk(io.FileIO):
    """The file on disk; after the first failure, writes are kept in memory, so that HDF5 can still read them back."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []  # offsets and bytes; later entries overwrite earlier ones

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
    """A new h5py file; whatever is at the path is overwritten.

    In the file format chosen here HDF5 protects its metadata with checksums. It loses data or crashes if Ctrl-C is
    raised in `_Disk`, which it calls, so every write must be inside `hold_signals`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._disk = _Disk(path)
        with hold_signals():
            super().__init__(self._disk, "w", libver=("v110", "v110"))

    def check(self) -> None:
        """Raises the first error of writing; to be called after writes, and after the file is closed.

        Raises:
            OSError: the disk is full or failed.
        """
        if self._disk.failure is not None:
            raise self._disk.failure

    def close(self) -> None:
        """Writes everything that is not on disk yet, and closes the file."""
        with hold_signals():
            super().close()
            self._disk.close()
