"""SimHive, the models of RoboHive's environments: installed once per user, linked into robohive.

`python -m rlhive.envs.simhive` installs it; `--verify` compares an installed tree with the exact one.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from rlhive.command import Parser, finish
from rlhive.command_line import command_line
from rlhive.core.files import check_writable, file_sha256
from rlhive.envs.simhive_sources import (
    NOT_ON_INDEX,
    VERSION,
    VERSION_FILE,
    Manifest,
    SimHiveError,
    read_manifest,
    robohive_directory,
    sources,
)
from rlhive.envs.simhive_tree import SOURCE_FILE, install, say, write_file
from rlhive.paths import cache_dir

__all__ = ["VERSION", "SimHiveError", "SimHiveStatus", "ensure", "status"]

_NAME = f"simhive-{VERSION}"
# robohive's myohand_die.xml reads it as `simhive/myo_sim/../../envs/…`: through the link, beside the tree.
_OUTSIDE = "envs/myo/assets/hand/dice.png"
# Threads that build environments ask for the models at once; the lock in `_locked` is for other processes.
_THREADS = threading.Lock()


@attrs.frozen
class SimHiveStatus:
    """What is installed.

    Attributes:
        path: the tree that robohive reads, None if there is none.
        source: where it came from.
        differing: files that are missing or differ from the manifest.
    """

    path: Path | None
    source: str
    differing: tuple[str, ...]


def ensure() -> Path:
    """The SimHive tree that robohive reads; the first call installs it, later ones take microseconds.

    A tree that robohive already finds is kept, unless `RLHIVE_CACHE` names another place for it.

    Raises:
        SimHiveError: robohive is missing, no source can be reached, or the disk is full or read-only.
    """
    link, tree = _places()
    return link.resolve() if is_in_place() else _install_and_link(link, tree, again=False)


def is_in_place() -> bool:
    """Whether `ensure` has nothing to do."""
    link, tree = _places()
    return is_installed() and (
        "RLHIVE_CACHE" not in os.environ or not link.is_symlink() or link.resolve() == tree
    )


def is_installed() -> bool:
    """Whether robohive finds a tree, in whatever place."""
    return _is_tree(robohive_directory() / "simhive")


def status() -> SimHiveStatus:
    """What robohive finds, compared with the manifest file by file (about a second). Installs nothing."""
    link = robohive_directory() / "simhive"
    if not _is_tree(link):
        return SimHiveStatus(None, "not installed", ())
    source = link / SOURCE_FILE
    label = source.read_text().strip() if source.is_file() else "not installed by rlhive"
    return SimHiveStatus(link.resolve(), label, tuple(differing_files(link, read_manifest())))


def differing_files(tree: Path, manifest: Manifest) -> list[str]:
    """Names of the manifest's files that are missing in `tree` or have other content there."""
    paths = {name: tree / name for name in manifest}
    return [name for name, path in paths.items() if not path.is_file() or file_sha256(path) != manifest[name]]


def count_differing(count: int) -> str:
    """How many files differ, in words."""
    return "1 file differs" if count == 1 else f"{count} files differ"


def suites_touched(name: str) -> list[str]:
    """The suites of RoboHive whose environments use the folder of a file; none for documents."""
    if name in NOT_ON_INDEX or not name.endswith((".xml", ".stl", ".msh", ".obj", ".png")):
        return []
    folder = re.compile(rb"simhive/" + name.partition("/")[0].encode() + rb"\b")
    suites = robohive_directory() / "envs"
    code = [path for path in suites.rglob("*") if path.suffix in (".py", ".xml")]
    using = {path.relative_to(suites).parts[0] for path in code if folder.search(path.read_bytes())}
    return sorted(using - {"tcdm"})  # robohive does not register that one


def _places() -> tuple[Path, Path]:
    """The link that robohive reads, and the tree that it should lead to."""
    return robohive_directory() / "simhive", cache_dir() / _NAME


def _is_tree(path: Path) -> bool:
    try:
        return (path / VERSION_FILE).read_text() == VERSION
    except OSError:
        return False


def _install_and_link(link: Path, tree: Path, *, again: bool) -> Path:
    if link.exists() and not link.is_symlink():
        raise SimHiveError(f"{link} is a directory, not SimHive {VERSION}: move it away and run this again")
    if not _leads_to(link, tree):
        with _linking(link, tree):
            check_writable(link.parent)  # before 171 MB are installed for nothing
    try:
        with _THREADS, _locked(tree):
            for left in tree.parent.glob(f"{tree.name}.partial-*"):
                shutil.rmtree(left, ignore_errors=True)
            if again or not _is_tree(tree):
                write_file(tree.parent / _OUTSIDE, (link.parent / _OUTSIDE).read_bytes())
                install(tree, sources(), read_manifest())
            _link(link, tree)
    except OSError as error:
        remedy = "make that possible, or set RLHIVE_CACHE to another directory"
        raise _failure(f"cannot install SimHive in {tree.parent}", error, remedy) from error
    return tree


def _failure(what: str, error: OSError, remedy: str) -> SimHiveError:
    if error.errno == errno.EMFILE:
        remedy = "allow this process more open files (ulimit -n)"
    return SimHiveError(f"{what}: {error.strerror or error}; {remedy}")


@contextmanager
def _locked(tree: Path) -> Iterator[None]:
    tree.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(tree.with_name(f"{tree.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is installing SimHive: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _leads_to(link: Path, tree: Path) -> bool:
    return link.is_symlink() and link.resolve() == tree


def _link(link: Path, tree: Path) -> None:
    if _leads_to(link, tree):
        return
    beside = link.with_name(f".simhive-{os.getpid()}")
    with _linking(link, tree):
        beside.symlink_to(tree)
        beside.replace(link)


@contextmanager
def _linking(link: Path, tree: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = f"make that possible in {link.parent}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            owner = "as the owner of this Python environment, or use an environment of your own"
            remedy = f"run `ln -sfn {tree} {link}` {owner}"
        raise _failure("cannot link SimHive into robohive", error, remedy) from error


def _verify() -> int:
    found = status()
    if found.path is None:
        raise SimHiveError(f"SimHive is not installed: `{command_line('rlhive.envs.simhive')}` installs it")
    suites = {name: suites_touched(name) for name in found.differing}
    for name, touched in suites.items():
        state = "differs" if (found.path / name).is_file() else "missing"
        sys.stdout.write(f"{state}  {name}  (suites: {', '.join(touched) or 'none'})\n")
    sys.stdout.write(
        f"{found.path} ({found.source}): {count_differing(len(suites))} from SimHive {VERSION}\n"
    )
    if any(suites.values()):
        sys.stdout.write(f"`{command_line('rlhive.envs.simhive')}` installs the exact files\n")
    return int(any(suites.values()))


def _install_command() -> int:
    tree = ensure()
    if any(suites_touched(name) for name in status().differing):
        say(f"{tree} is not SimHive {VERSION} any more: installing it again")
        tree = _install_and_link(*_places(), again=True)
    sys.stdout.write(f"SimHive {VERSION} is installed in {tree} ({status().source})\n")
    return 0


def main() -> int:
    """The command line: installs SimHive, or with `--verify` compares it with the exact tree."""
    parser = Parser(prog="python -m rlhive.envs.simhive", description=__doc__)
    parser.add_argument(
        "--verify", action="store_true", help="list the files that differ, and the suites they touch"
    )
    return _verify() if parser.parse_args().verify else _install_command()


if __name__ == "__main__":
    finish("rlhive.envs.simhive", main)
