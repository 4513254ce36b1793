"""Where SimHive's files come from: a local copy, the pinned git commits, the package index.

Every source iterates over `(name, content)` of the manifest's files, so that nothing else in an archive, repository or
wheel is ever written, and all sources are checked in the same way.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import functools
import importlib.util
import json
import lzma
import os
import posixpath
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from rlhive.paths import cache_dir

VERSION = "0.7.0"
VERSION_FILE = "simhive-version"  # robohive reads it
NOT_ON_INDEX = frozenset({"object_sim/objects.png"})  # a picture that no model reads, so a source may lack it

Manifest = Mapping[str, str]  # name in the tree -> sha256
TreeFiles = Iterator[tuple[str, bytes]]

_PROBE_SECONDS = 10.0
_FETCH_SECONDS = 900.0
_INDEX_BYTES = 280_000_000  # both wheels, unpacked
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class SimHiveError(RuntimeError):
    """SimHive cannot be installed; the message says in one line what to do."""


class SourceUnavailableError(SimHiveError):
    """This source cannot be reached or lacks the exact files; another one may have them."""


class Commit(NamedTuple):
    """One of SimHive's git repositories, at the commit RoboHive asks for."""

    url: str
    sha: str
    folder: str


class Source(NamedTuple):
    """One place to take SimHive from."""

    label: str
    megabytes: int  # free space needed at the peak, the tree included
    files: Callable[[Path], TreeFiles]  # reads the models, given an empty scratch directory


def sources() -> list[Source]:
    """The sources to try, in order; only `RLHIVE_SIMHIVE` if that is set."""
    manifest = read_manifest()
    given = os.environ.get("RLHIVE_SIMHIVE")
    if given:
        path = Path(given).expanduser()
        return [Source(f"RLHIVE_SIMHIVE={given}", 190, lambda _: local_files(path, manifest))]
    commits = pinned_commits(_robohive_init())
    downloads = downloads_directory(cache_dir())
    return [
        Source("git", 600, lambda scratch: git_files(scratch, manifest, commits)),
        Source("package index", 650, lambda scratch: index_files(scratch, downloads, manifest)),
    ]


def downloads_directory(cache: Path) -> Path:
    """Where the package index's wheels are kept until SimHive is installed, in the same directory as SimHive."""
    return cache / "downloads"


def robohive_directory() -> Path:
    """The directory of robohive, found without importing it.

    Raises:
        SimHiveError: it is not installed.
    """
    spec = importlib.util.find_spec("robohive")
    if spec is None or not spec.submodule_search_locations:
        raise SimHiveError(
            'robohive is not installed in this Python: `uv sync`, or README.md, "Install as a package"'
        )
    return Path(spec.submodule_search_locations[0])


def _robohive_init() -> Path:
    spec = importlib.util.find_spec("robohive_init")
    if spec is None or not spec.origin:
        raise SimHiveError("robohive_init is missing from this Python: install robohive==0.7.0 again")
    return Path(spec.origin)


def read_manifest() -> dict[str, str]:
    """SHA-256 of every file of the exact tree, by name."""
    lines = (files("rlhive.envs") / f"simhive-{VERSION}.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def local_files(path: Path, manifest: Manifest) -> TreeFiles:
    """The manifest's files from a directory, or from a tar archive of one.

    Raises:
        SimHiveError: the path does not exist or is neither.
    """
    if path.is_dir():
        return _directory_files(path, manifest)
    if not path.is_file():
        raise SimHiveError(
            f"RLHIVE_SIMHIVE={path} does not exist: give a directory or a tar archive of SimHive"
        )
    return _archive_files(path, manifest)


def _directory_files(root: Path, manifest: Manifest) -> TreeFiles:
    for name in manifest:
        if (root / name).is_file():
            yield name, (root / name).read_bytes()


def _archive_files(path: Path, manifest: Manifest) -> TreeFiles:
    folders = {name.partition("/")[0] for name in manifest}
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                head, _, rest = name.partition("/")
                name = name if head in folders else rest
                content = archive.extractfile(member) if member.isfile() and name in manifest else None
                if content is not None:
                    yield name, content.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise SimHiveError(
            f"RLHIVE_SIMHIVE={path} is not a whole tar archive ({error}): get it again"
        ) from error


def pinned_commits(script: Path) -> list[Commit]:
    """The repositories and commits that RoboHive's own `robohive_init.py` fetches, read from its source."""
    calls = [
        {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fetch_git"
    ]
    return [Commit(str(c["repo_url"]), str(c["commit_hash"]), str(c["clone_directory"])) for c in calls]


def git_files(scratch: Path, manifest: Manifest, commits: list[Commit]) -> TreeFiles:
    """The manifest's files from shallow fetches of the pinned commits; `scratch` receives the repositories.

    Raises:
        SourceUnavailableError: git is missing, or its host does not answer within 10 s.
    """
    if not shutil.which("git"):
        raise SourceUnavailableError("git is not installed")
    _git(["ls-remote", "--quiet", commits[0].url, "HEAD"], seconds=_PROBE_SECONDS)
    for commit in tqdm(commits, desc="git", unit="repository", disable=None):
        clone = scratch / commit.folder
        _git(["init", "--quiet", str(clone)], seconds=_PROBE_SECONDS)
        fetch = ["-C", str(clone), "fetch", "--quiet", "--depth=1", commit.url, commit.sha]
        _git(fetch, seconds=_FETCH_SECONDS)
        _git(["-C", str(clone), "checkout", "--quiet", "FETCH_HEAD"], seconds=_FETCH_SECONDS)
    yield from _directory_files(scratch, manifest)


def _git(arguments: list[str], *, seconds: float) -> None:
    # Keep files as committed (their hashes are checked), never prompt, never stall.
    settings = ["core.autocrlf=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=20"]
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    _run(command, seconds=seconds, environment=quiet)


def index_files(scratch: Path, downloads: Path, manifest: Manifest) -> TreeFiles:
    """The manifest's files from two wheels of the package index, with their differences from the exact tree undone.

    `simhive-VERSION-index.json` lists renamed files and edits `[start, stop, text]` of their lines. The user's own
    installer fetches the wheels, so that mirrors and proxies apply; it keeps downloads in `downloads`, where an
    interrupted installation finds them again.

    Raises:
        SourceUnavailableError: no installer, no index, or wheels other than the pinned ones.
    """
    _fetch_wheels(scratch, downloads)
    recipe = json.loads((files("rlhive.envs") / f"simhive-{VERSION}-index.json").read_text(encoding="utf-8"))
    for name in manifest:
        original = recipe["renamed"].get(name, name)
        path = scratch / ("myosuite" if name.startswith("myo_sim/") else "robohive") / "simhive" / original
        if not path.is_file():
            continue
        content = path.read_bytes()
        if name in recipe["edits"]:
            lines = content.decode().splitlines(keepends=True)
            for start, stop, text in reversed(recipe["edits"][name]):
                lines[start:stop] = [text]
            content = "".join(lines).encode()
        yield name, content


def _fetch_wheels(target: Path, downloads: Path) -> None:
    with as_file(files("rlhive.envs") / f"simhive-{VERSION}-index.txt") as requirements:
        command = [*_installer(), "--target", str(target), "--requirement", str(requirements)]
        command += ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
        caches = {
            "UV_CACHE_DIR": str(downloads / "uv"),
            "PIP_CACHE_DIR": str(downloads / "pip"),
            "PIP_USER": "0",
        }
        with tqdm(total=_INDEX_BYTES, desc="wheels", unit="B", unit_scale=True, disable=None) as bar:

            def show_size() -> None:
                if not bar.disable:
                    bar.update(min(_size(downloads) or _size(target), _INDEX_BYTES) - bar.n)

            _run(command, seconds=_FETCH_SECONDS, environment=caches, tick=show_size)


def _installer() -> list[str]:
    # Use the tool that made this environment, as its index settings work: `uv run` sets UV, and environments made by
    # `python -m venv` have pip while those made by uv do not.
    pip = [sys.executable, "-m", "pip", "install", "--no-compile"]
    if "UV" not in os.environ and importlib.util.find_spec("pip"):
        return pip
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    raise SourceUnavailableError("neither uv nor pip is installed")


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the installer moves its files meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _run(
    command: list[str],
    *,
    seconds: float,
    environment: Mapping[str, str],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run a command, whose last line of output is the error if it fails; end it and its children on any exit.

    The command also ends if this process is killed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        deadline = time.monotonic() + seconds
        try:
            while process.poll() is None and time.monotonic() < deadline:
                tick()
                time.sleep(0.1)
            if process.returncode is None:
                raise SourceUnavailableError(f"no answer in {seconds:.0f} s from {' '.join(command[:1])}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    if process.returncode:
        last = [line.strip() for line in lines if line.strip()][-1:]
        raise SourceUnavailableError(last[0] if last else f"{command[0]} failed ({process.returncode})")
