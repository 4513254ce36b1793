"""Writing files so that a reader finds either the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the path to system errors that do not name one, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path beside `path` to write to; its file becomes `path` in one step when the block ends well.

    An exception in the block leaves `path` as it was and removes what was written. Leftovers of processes that were
    killed while writing this file are removed first.
    """
    path = Path(path)
    beside = place_beside(path)
    try:
        with naming(path):
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new directory beside `path` to write to, which becomes `path` in one step when the block ends well.

    An exception in the block leaves nothing of it behind; parents that were made stay. What killed processes were
    writing for this path is removed first.

    Raises:
        OSError: `path` is there and is no empty directory, or the disk is full.
    """
    path = Path(path)
    beside = place_beside(path)
    try:
        with naming(path):
            beside.mkdir(parents=True)
            yield beside
            for part in (*beside.rglob("*"), beside):
                flush(part)
            os.replace(beside, path)
            flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush(path: str | os.PathLike[str]) -> None:
    """Waits until a file, or the entries of a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_beside(path: Path) -> Path:
    """A new name beside `path` to write its file or directory to; removes what killed processes left there."""
    remove_left_over(path.parent, f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}")
    # Random, since several threads may write to one path. The suffix stays last: some writers choose the format by it.
    writer = f"{os.urandom(4).hex()}.{os.uname().nodename}.{os.getpid()}"
    return path.with_name(f".{path.stem}.{writer}.tmp{path.suffix}")


def remove_left_over(directory: Path, pattern: str) -> None:
    """Removes what killed processes of this machine were writing: names that contain ".HOST.PID.tmp".

    Files of other hosts stay, since those may still be writing to a shared directory.
    """
    host = os.uname().nodename
    for left_over in directory.glob(pattern):
        before, _, pid = left_over.name.rpartition(".tmp")[0].rpartition(".")
        if not before.endswith(f".{host}") or not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)


def check_new(path: str | os.PathLike[str], ending: str = "") -> None:
    """Refuses a path at which no new file or directory can be made.

    Args:
        path: where it is to be.
        ending: that its name must have.

    Raises:
        ValueError: something is there already, the name ends otherwise, or its directory does not exist.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path}: is there already; choose another name")
    if not os.fspath(path).endswith(ending) or not Path(path).parent.is_dir():
        suffix = f" ending in {ending}" if ending else ""
        raise ValueError(f"{path}: must be a new name{suffix} in a directory that exists")


def check_writable(directory: str | os.PathLike[str]) -> None:
    """Checks that files can be made in a directory, by making one: for root, `os.access` is no guide.

    Raises:
        OSError: none can.
    """
    with tempfile.TemporaryFile(dir=directory):
        pass


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in one step."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def append(path: str | os.PathLike[str], content: bytes) -> None:
    """Appends to a file: all of the content, or nothing if the system refuses it, as on a full disk."""
    with naming(path), Path(path).open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(size)
            raise


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_file(path: str | os.PathLike[str]) -> BaseFileLock | None:
    """Locks a file for as long as the result is referenced; None if another process holds the lock."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
