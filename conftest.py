"""How many processes share the tests."""

import os

import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One per core, up to 8; benchmarks and learning runs have the machine alone."""
    alone = "benchmarks" in " ".join(config.args) or config.option.markexpr == "slow"
    return 0 if alone else min(len(os.sched_getaffinity(0)), 8)
