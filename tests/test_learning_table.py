"""The table and the picture of the learning benchmark, from small real runs on disk."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

from benchmarks import learning
from rlhive.metrics import Recorder

FRANKA, LIGHT = "FrankaReachRandom-v0", "FK1_LightOnRandom-v4"


@pytest.fixture
def set_flags(monkeypatch, tmp_path):
    """`set_flags(seeds=["1"])`: the flags that `main` finds, as parsed."""

    def set_to(**values):
        monkeypatch.setattr(learning, "FLAGS", SimpleNamespace(out=str(tmp_path / "out"), **values))

    return set_to


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


def test_the_table_by_hand(tmp_path):
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
def test_a_seed_that_is_not_done_leaves_holes(tmp_path, other):
    curves = learning.read_curves(write_run(tmp_path, "door-v1", {1: [0.9] * 5, **other}), [1, 2])
    table = learning.format_table("door-v1", curves, 20_000)
    assert "| 1 | 2,000 | 90%, 166.5 | - |" in table
    assert "| 2 | not reached | - | - |" in table
    assert "| median | not reached | - | - |" in table
    assert "NPG" not in table  # no figure of it is known here


def test_steps_to_a_threshold_and_values_at_a_step(tmp_path):
    curve = learning.read_curves(write_run(tmp_path, FRANKA, {1: [0.0, 0.9, 0.1]}), [1])[1]
    assert learning.steps_to(curve, 0.9) == 4000
    assert learning.steps_to(curve, 0.95) == math.inf
    assert learning.at_step(curve.success, curve.steps, 6000) == 0.1
    assert math.isnan(learning.at_step(curve.success, curve.steps, 5000))


def test_a_metrics_table_without_evaluations_is_an_empty_curve(tmp_path):
    assert [len(part) for part in learning.read_curves(tmp_path, [1])[1]] == [0, 0, 0]
    with Recorder(tmp_path, loggers=()) as recorder:
        recorder.write(500, {1: {"loss/actor": 1.0}})
    assert [len(part) for part in learning.read_curves(tmp_path, [1])[1]] == [0, 0, 0]


def test_the_command_reports_runs_that_are_done_without_running_them_again(set_flags, tmp_path, capsys):
    out = tmp_path / "out"
    for env in (FRANKA, LIGHT):
        write_run(out, env, {1: [0.5, 1.0], 2: [0.5, 1.0]})
    set_flags(env=[FRANKA, LIGHT], seeds=["1", "2"], steps=4000)
    assert learning.main(["learning"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("| median | 4,000 | 100%, 185.0 |") == 2
    assert (out / "learning.md").read_text() == said.out
    picture = imread(out / "learning.png")
    assert picture.shape[1] > picture.shape[0] > 700  # two environments, one below the other
    assert picture[..., :3].std() > 0.05


def run(*args):
    """The command in a process."""
    return subprocess.run(
        [sys.executable, learning.__file__, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )


def test_the_command_says_which_run_failed_and_reports_the_rest(tmp_path):
    write_run(tmp_path, FRANKA, {1: [1.0], 2: [1.0]})
    failed = run(f"--out={tmp_path}", "--env=zzz", f"--env={FRANKA}", "--seeds=1,2", "--steps=2000")
    assert failed.returncode == 1
    assert "zzz: exit code 2" in failed.stderr
    assert "'zzz' is not an environment of RoboHive" in (tmp_path / "zzz" / "train.log").read_text()
    assert "| 1 | 2,000 | 100%, 185.0 |" in failed.stdout
    assert "| 1 | not reached | - |" in failed.stdout


def test_wrong_flags_get_one_line(tmp_path):
    refused = run(f"--out={tmp_path / 'out'}", "--nothing")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_seeds_that_are_no_numbers_are_refused_before_anything_runs(set_flags, tmp_path):
    set_flags(env=[FRANKA], seeds=["1", "x"], steps=4000)
    with pytest.raises(ValueError, match="'--seeds=1,x' is not understood") as refused:
        learning.main(["learning"])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print("saved"), sys.exit()))
print("trains", flush=True)
time.sleep(60)
"""


def test_an_interrupt_lets_the_run_save(tmp_path):
    """`subprocess.run` kills what it started a quarter of a second after Ctrl-C, and at once after SIGTERM."""
    log_file = tmp_path / "train.log"

    def interrupt():
        while log_file.read_text() != "trains\n":
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with log_file.open("w") as log:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            learning.run_to_end([sys.executable, "-c", SAVES], log, os.environ)
    assert log_file.read_text() == "trains\nsaved\n"
