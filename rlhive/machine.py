"""What this machine has: a C++ compiler, and memory for this process within its container and its limits."""

from __future__ import annotations

import re
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of Linux's control groups, both versions: the limit, the use, and the part of the use that is reclaimed when needed.
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def has_compiler() -> bool:
    """Whether there is the C++ compiler that Inductor needs."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def free_memory() -> int:
    """Bytes that this process can still allocate without swapping, according to Linux."""
    return max(0, min(_kilobytes(PROC / "meminfo", "MemAvailable"), _of_address_space(), *_of_groups()))


def _kilobytes(path: Path, name: str) -> int:
    """A line such as "VmSize:  1024 kB", in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{path}: has no {name}")
    return 1024 * int(found[1])


def _of_address_space() -> int:
    """Bytes left by `ulimit -v`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return (
        sys.maxsize if limit == resource.RLIM_INFINITY else limit - _kilobytes(PROC / "self/status", "VmSize")
    )


def _of_groups() -> Iterator[int]:
    """Bytes left to each control group of this process that has a limit, such as Docker and SLURM set."""
    own = PROC / "self/cgroup"  # missing if Linux was built without control groups
    for line in own.read_text(errors="surrogateescape").splitlines() if own.exists() else []:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (CGROUPS / "memory", VERSION_1) if controllers else (CGROUPS, VERSION_2)
        group = root / path.lstrip("/")  # it may be missing in a container, whose own group is the root
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield from _of_group(folder, *names)


def _of_group(folder: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    try:
        free = int((folder / limit).read_text()) - int((folder / usage).read_text())
    except (OSError, ValueError):  # there are no such files, or the limit is "max"
        return
    yield free + _given_back(folder / "memory.stat", cache)


def _given_back(path: Path, cache: str) -> int:
    try:
        found = re.search(rf"^{cache} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:  # a container may show its limit but no statistics
        return 0
    return int(found[1]) if found else 0
