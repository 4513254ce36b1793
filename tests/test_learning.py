"""What the shipped defaults must reach; each test trains five seeds side by side."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "learning.py"
SEEDS = (1, 2, 3, 4, 5)


def train(out, env, steps):
    """Trains with the documented command; the curves of the five seeds, and the script's functions."""
    command = [sys.executable, SCRIPT, f"--out={out}", f"--env={env}", f"--steps={steps}"]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("learning", SCRIPT)
    learning = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(learning)
    return list(learning.read_curves(out / env, SEEDS).values()), learning


@pytest.fixture(scope="module")
def franka_reach(tmp_path_factory):
    return train(tmp_path_factory.mktemp("learning"), "FrankaReachRandom-v0", 30_000)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_franka_reach(franka_reach):
    curves, learning = franka_reach
    assert sum(learning.steps_to(curve, 0.9) <= 10_000 for curve in curves) >= 4
    assert all(learning.steps_to(curve, 1.0) <= 20_000 for curve in curves)
    assert all(learning.at_step(curve.returns, curve.steps, 30_000) >= 180 for curve in curves)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.xfail(reason="the target; README.md, Results, says what is reached", strict=True)
def test_franka_reach_return(franka_reach):
    curves, learning = franka_reach
    assert all(learning.at_step(curve.returns, curve.steps, 30_000) >= 183 for curve in curves)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_kitchen_light(tmp_path):
    curves, learning = train(tmp_path, "FK1_LightOnRandom-v4", 40_000)
    assert sum(learning.steps_to(curve, 0.9) <= 40_000 for curve in curves) >= 4
