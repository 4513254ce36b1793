"""Builds SimHive's tree of files, checked one by one, from the first source that has all of them."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from rlhive.core.files import flush
from rlhive.envs.simhive_sources import (
    NOT_ON_INDEX,
    VERSION,
    VERSION_FILE,
    Manifest,
    SimHiveError,
    Source,
    SourceUnavailableError,
    TreeFiles,
    downloads_directory,
)

SOURCE_FILE = ".rlhive-source"


def install(tree: Path, candidates: list[Source], manifest: Manifest) -> None:
    """Builds the tree beside its place from the first source that has it, then renames it; an old tree is renamed away.

    Raises:
        SimHiveError: no source holds the exact files, or there is too little free space.
        OSError: the disk is full after all or not writable.
    """
    failures = []
    for source in candidates:
        say(f"installing SimHive {VERSION} in {tree} from {source.label}")
        _check_free_space(tree.parent, source.megabytes)
        scratch = Path(tempfile.mkdtemp(prefix=f"{tree.name}.partial-", dir=tree.parent))
        try:
            _write_tree(scratch / "tree", source, source.files(scratch / "source"), manifest)
            if tree.exists():
                tree.rename(scratch / "old")
            (scratch / "tree").rename(tree)
        except SourceUnavailableError as error:
            failures.append(f"{source.label}: {error}")
            say(f"not from {failures[-1]}")
        else:
            shutil.rmtree(downloads_directory(tree.parent), ignore_errors=True)
            return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise SimHiveError(
        f"SimHive {VERSION} could not be installed ({'; '.join(failures)}): check the network, "
        "or set RLHIVE_SIMHIVE to an exact directory or tar archive of it"
    )


def _write_tree(tree: Path, source: Source, contents: TreeFiles, manifest: Manifest) -> None:
    exact = set()
    # The first file waits for git or the package index, which should not show as slow progress of this bar.
    first = list(itertools.islice(contents, 1))
    files = itertools.chain(first, contents)
    for name, content in tqdm(files, desc="models", total=len(manifest), unit="file", disable=None):
        if hashlib.sha256(content).hexdigest() == manifest[name]:
            write_file(tree / name, content)
            exact.add(name)
    write_file(tree / VERSION_FILE, VERSION.encode())
    write_file(tree / SOURCE_FILE, source.label.encode())
    wrong = sorted(manifest.keys() - exact - NOT_ON_INDEX - {VERSION_FILE})
    if wrong:
        raise SourceUnavailableError(
            f"{len(wrong)} of {len(manifest)} files missing or wrong, such as {wrong[0]}"
        )


def write_file(path: Path, content: bytes) -> None:
    """Writes a file, and the directories it is in, and waits until its content is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    flush(path)


def _check_free_space(directory: Path, megabytes: int) -> None:
    free = shutil.disk_usage(directory).free // 1_000_000
    if free < megabytes:
        raise SimHiveError(
            f"{directory} has {free} MB free and installing SimHive takes {megabytes} MB: "
            "free some space, or set RLHIVE_CACHE to a directory on a larger disk"
        )


def say(line: str) -> None:
    """Writes a line to stderr at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
