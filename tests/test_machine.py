"""What memory there is for a process, by the machine and by what limits it."""

import resource
from pathlib import Path

import pytest

from rlhive import machine
from rlhive.machine import free_memory

GIGABYTE = 10**9


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine with 64 GB free whose files are in the directory given."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    limit_address_space(monkeypatch, resource.RLIM_INFINITY)
    write(tmp_path / "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:   {64 * GIGABYTE // 1024} kB\n")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limit_address_space(monkeypatch, most):
    limits = {resource.RLIMIT_AS: (most, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)


def limit(folder, names, most, used, cache):
    for name, value in zip(
        (*names[:2], "memory.stat"), (most, used, f"anon 5\n{names[2]} {cache}\n"), strict=True
    ):
        write(folder / name, f"{value}\n")


def test_without_limits_it_is_that_of_the_machine(linux):
    assert free_memory() == 64 * GIGABYTE // 1024 * 1024
    write(linux / "proc/self/cgroup", "0::/user.slice\n")
    limit(linux / "cgroup/user.slice", machine.VERSION_2, "max", 10, 10)
    assert free_memory() == 64 * GIGABYTE // 1024 * 1024


@pytest.mark.parametrize("group", ["", "slurm", "slurm/job_1"])
def test_the_group_above_limits_too(linux, group):
    write(linux / "proc/self/cgroup", "0::/slurm/job_1\n")
    limit(linux / "cgroup/slurm/job_1", machine.VERSION_2, 16 * GIGABYTE, 1, 0)
    limit(linux / "cgroup" / group, machine.VERSION_2, 8 * GIGABYTE, 3 * GIGABYTE, 2 * GIGABYTE)
    assert free_memory() == 7 * GIGABYTE  # what is cached of files is given back


def test_the_first_version_of_control_groups(linux):
    write(linux / "proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n")
    # A container's own.
    limit(linux / "cgroup/memory", machine.VERSION_1, 8 * GIGABYTE, 3 * GIGABYTE, GIGABYTE)
    assert free_memory() == 6 * GIGABYTE


def test_a_group_that_is_over_its_limit_has_none(linux):
    write(linux / "proc/self/cgroup", "0::/\n")
    limit(linux / "cgroup", machine.VERSION_2, 1, 2, 0)
    assert free_memory() == 0


@pytest.mark.parametrize("names", [machine.VERSION_1, machine.VERSION_2])
def test_a_group_without_statistics_limits_too(linux, names):
    write(linux / "proc/self/cgroup", "4:memory:/x\n" if names is machine.VERSION_1 else "0::/x\n")
    folder = linux / ("cgroup/memory/x" if names is machine.VERSION_1 else "cgroup/x")
    limit(folder, names, 8 * GIGABYTE, 3 * GIGABYTE, GIGABYTE)
    (folder / "memory.stat").unlink()
    assert free_memory() == 5 * GIGABYTE


def test_lines_that_name_no_group_are_passed_over(linux):
    write(linux / "proc/self/cgroup", "\nodd\n1:odd\n0::/x\n")
    limit(linux / "cgroup/x", machine.VERSION_2, 8 * GIGABYTE, 3 * GIGABYTE, 0)
    assert free_memory() == 5 * GIGABYTE


def test_the_name_of_a_group_may_be_any_bytes(linux):
    write(linux / "proc/self/cgroup", "")
    (linux / "proc/self/cgroup").write_bytes(b"0::/\xff\xfe\n")
    limit(linux / "cgroup/\udcff\udcfe", machine.VERSION_2, 8 * GIGABYTE, 3 * GIGABYTE, 0)
    assert free_memory() == 5 * GIGABYTE


def test_the_address_space_limits(linux, monkeypatch):
    write(linux / "proc/self/status", Path("/proc/self/status").read_text())
    used = machine._kilobytes(linux / "proc/self/status", "VmSize")
    limit_address_space(monkeypatch, used + GIGABYTE)
    assert used > 0
    assert free_memory() == GIGABYTE
