"""What memory there is for a process, by the machine and by what limits it."""

import resource

import pytest

from rlhive import memory
from rlhive.memory import free_memory

GIGABYTE = 10**9


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine with 64 GB free whose files are in the directory given."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:   {64 * GIGABYTE // 1024} kB\n")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limit(folder, names, most, used, cache):
    for name, value in zip(
        (*names[:2], "memory.stat"), (most, used, f"anon 5\n{names[2]} {cache}\n"), strict=True
    ):
        write(folder / name, f"{value}\n")


def test_without_limits_it_is_that_of_the_machine(linux):
    assert free_memory() == 64 * GIGABYTE // 1024 * 1024
    write(linux / "proc/self/cgroup", "0::/user.slice\n")
    limit(linux / "cgroup/user.slice", memory.VERSION_2, "max", 10, 10)
    assert free_memory() == 64 * GIGABYTE // 1024 * 1024


@pytest.mark.parametrize("group", ["", "slurm", "slurm/job_1"])
def test_the_group_above_limits_too(linux, group):
    write(linux / "proc/self/cgroup", "0::/slurm/job_1\n")
    limit(linux / "cgroup/slurm/job_1", memory.VERSION_2, 16 * GIGABYTE, 1, 0)
    limit(linux / "cgroup" / group, memory.VERSION_2, 8 * GIGABYTE, 3 * GIGABYTE, 2 * GIGABYTE)
    assert free_memory() == 7 * GIGABYTE  # what is cached of files is given back


def test_the_first_version_of_control_groups(linux):
    write(linux / "proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n")
    limit(
        linux / "cgroup/memory", memory.VERSION_1, 8 * GIGABYTE, 3 * GIGABYTE, GIGABYTE
    )  # a container's own
    assert free_memory() == 6 * GIGABYTE


def test_a_group_that_is_over_its_limit_has_none(linux):
    write(linux / "proc/self/cgroup", "0::/\n")
    limit(linux / "cgroup", memory.VERSION_2, 1, 2, 0)
    assert free_memory() == 0


def test_the_address_space_limits():
    used, before = (
        memory._kilobytes(memory.PROC / "self/status", "VmSize"),
        resource.getrlimit(resource.RLIMIT_AS),
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, before[1]))
    try:
        assert 0.8 * GIGABYTE < free_memory() < 1.1 * GIGABYTE
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
