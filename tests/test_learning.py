"""What the shipped defaults must reach; each test trains five seeds side by side."""

import subprocess
import sys

import pytest

from benchmarks import learning

SEEDS = (1, 2, 3, 4, 5)


def train(out, env, steps):
    """Trains with the documented command; the curves of the five seeds."""
    command = [sys.executable, learning.__file__, f"--out={out}", f"--env={env}", f"--steps={steps}"]
    subprocess.run(command, check=True)
    return list(learning.read_curves(out / env, SEEDS).values())


@pytest.fixture(scope="module")
def franka_reach(tmp_path_factory):
    return train(tmp_path_factory.mktemp("learning"), "FrankaReachRandom-v0", 30_000)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_franka_reach(franka_reach):
    assert sum(learning.steps_to(curve, 0.9) <= 10_000 for curve in franka_reach) >= 4
    assert all(learning.steps_to(curve, 1.0) <= 20_000 for curve in franka_reach)
    assert all(learning.at_step(curve.success, curve.steps, 20_000) == 1.0 for curve in franka_reach)
    assert all(learning.at_step(curve.returns, curve.steps, 30_000) >= 180 for curve in franka_reach)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.xfail(reason="the target; README.md, Results, says what is reached", strict=True)
def test_franka_reach_return(franka_reach):
    assert all(learning.at_step(curve.returns, curve.steps, 30_000) >= 183 for curve in franka_reach)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_kitchen_light(tmp_path):
    curves = train(tmp_path, "FK1_LightOnRandom-v4", 40_000)
    assert sum(learning.steps_to(curve, 0.9) <= 40_000 for curve in curves) >= 4
