"""The table and the picture of the learning benchmark, from small real runs on disk."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from rlhive.record import Recorder

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "learning.py"
FRANKA, LIGHT = "FrankaReachRandom-v0", "FK1_LightOnRandom-v4"


@pytest.fixture(scope="module")
def learning():
    spec = importlib.util.spec_from_file_location("learning", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(out, env, success, every=2000):
    """The metrics.csv of a run with these success rates of each seed, and its latest checkpoint."""
    directory = out / env
    directory.mkdir(parents=True)
    with Recorder(directory, loggers=()) as recorder:
        for seed, rates in success.items():
            for number, rate in enumerate(rates, start=1):
                recorder.write(number * every - 500, {seed: {"loss/actor": 0.5}})
                recorder.write(number * every, {seed: {"eval/return": 185 * rate, "eval/success": rate}})
    latest = directory / "checkpoints" / str(max(map(len, success.values())) * every)
    latest.mkdir(parents=True)
    latest.with_name("latest").symlink_to(latest.name)
    return directory


def test_the_table_by_hand(learning, tmp_path):
    success = {1: [0.0, 0.5, 0.95, 0.85, 0.9] + [1.0] * 5, 2: [0.0] * 4 + [0.2] + [0.9] * 5, 3: [0.0] * 10}
    curves = learning.read_curves(write_run(tmp_path, FRANKA, success), [1, 2, 3])
    assert learning.format_table(FRANKA, curves, 20_000).splitlines() == [
        FRANKA,
        "",
        "| seed | steps to 90% | success, return at 10,000 | success, return at 20,000 |",
        "| --- | --- | --- | --- |",
        "| 1 | 6,000 | 90%, 166.5 | 100%, 185.0 |",
        "| 2 | 12,000 | 20%, 37.0 | 90%, 166.5 |",
        "| 3 | not reached | 0%, 0.0 | 0%, 0.0 |",
        "| median | 12,000 | 20%, 37.0 | 90%, 166.5 |",
        "",
        "Published NPG: 100%, return 184.9, at 303,000 steps.",
    ]


@pytest.mark.parametrize("other", [{}, {2: [0.5] * 4}])
def test_a_seed_that_is_not_done_leaves_holes(learning, tmp_path, other):
    curves = learning.read_curves(write_run(tmp_path, "door-v1", {1: [0.9] * 5, **other}), [1, 2])
    table = learning.format_table("door-v1", curves, 20_000)
    assert "| 1 | 2,000 | 90%, 166.5 | - |" in table
    assert "| 2 | not reached | - | - |" in table
    assert "| median | not reached | - | - |" in table
    assert "NPG" not in table  # no figure of it is known here


def test_steps_to_a_threshold_and_values_at_a_step(learning, tmp_path):
    curve = learning.read_curves(write_run(tmp_path, FRANKA, {1: [0.0, 0.9, 0.1]}), [1])[1]
    assert learning.steps_to(curve, 0.9) == 4000
    assert learning.steps_to(curve, 0.95) == math.inf
    assert learning.at_step(curve.success, curve.steps, 6000) == 0.1
    assert math.isnan(learning.at_step(curve.success, curve.steps, 5000))


def test_a_metrics_table_without_evaluations_is_an_empty_curve(learning, tmp_path):
    assert [len(part) for part in learning.read_curves(tmp_path, [1])[1]] == [0, 0, 0]
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(500, {1: {"loss/actor": 1.0}})
    assert [len(part) for part in learning.read_curves(tmp_path, [1])[1]] == [0, 0, 0]


def run(*args):
    """The command in a process."""
    return subprocess.run(
        [sys.executable, SCRIPT, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )


def test_the_command_reports_runs_that_are_done_without_running_them_again(tmp_path):
    for env in (FRANKA, LIGHT):
        write_run(tmp_path, env, {1: [0.5, 1.0], 2: [0.5, 1.0]})
    done = run(f"--out={tmp_path}", f"--env={FRANKA}", f"--env={LIGHT}", "--seeds=1,2", "--steps=4000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("| median | 4,000 | 100%, 185.0 |") == 2
    assert (tmp_path / "learning.md").read_text() == done.stdout
    picture = imread(tmp_path / "learning.png")
    assert picture.shape[1] > picture.shape[0] > 700  # two environments, one below the other
    assert picture[..., :3].std() > 0.05


def test_the_command_says_which_run_failed_and_reports_the_rest(tmp_path):
    write_run(tmp_path, FRANKA, {1: [1.0], 2: [1.0]})
    failed = run(f"--out={tmp_path}", "--env=zzz", f"--env={FRANKA}", "--seeds=1,2", "--steps=2000")
    assert failed.returncode == 1
    assert "zzz: exit code 2" in failed.stderr
    assert "'zzz' is not an environment of RoboHive" in (tmp_path / "zzz" / "train.log").read_text()
    assert "| 1 | 2,000 | 100%, 185.0 |" in failed.stdout
    assert "| 1 | not reached | - |" in failed.stdout


@pytest.mark.parametrize("wrong", ["--seeds=1,x", "--nothing"])
def test_wrong_flags_get_one_line(wrong, tmp_path):
    refused = run(f"--out={tmp_path / 'out'}", wrong)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
