"""The loop on RoboHive's hardware path: its FrankaArm driver, a robot in another process, real sockets, faults."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rlhive.deploy import Settings, connect, run
from rlhive.envs.robohive import env_spec
from rlhive.export import export
from rlhive.policy_fn import load
from tests.deploy.robots import DRIVERS, fake_franka

NAME = "FrankaReachRandom-v0"
AFTER = 8  # commands before the fault


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture
def policy(make_run, installed):
    return load(make_run(env=installed).run_dir)


@pytest.fixture(autouse=True)
def drivers(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)


def deploy(policy, robot, folder, **settings):
    settings = {"max_steps": 3 * AFTER, "max_delta": 0.1, **settings}
    return run(policy, connect(NAME, robot.config), folder, Settings(**settings))


def assert_safe(robot):
    """Nothing that was sent is not finite or outside of the limits."""
    _, sent = robot.commands()
    low, high = robot.limits()
    assert np.isfinite(sent).all()
    assert (sent >= low - 1e-6).all() and (sent <= high + 1e-6).all()  # the transport rounds to float32
    return sent


def test_healthy_robot_finishes_in_time_and_is_left_where_it_is(policy, tmp_path):
    with fake_franka(tmp_path) as robot:
        report = deploy(policy, robot, tmp_path / "out")
        time.sleep(0.1)
        homes = [when for when, _ in robot.entries("home")]
        times, _ = robot.commands()
    assert (report.reason, report.exit_code, report.steps) == ("finished", 0, 3 * AFTER)
    sent = assert_safe(robot)
    assert len(sent) == 3 * AFTER + 1  # and the last one again
    assert np.array_equal(sent[-1], sent[-2])
    assert max(homes) < times[0]  # connecting and the reset went home, closing did not
    assert np.median(np.diff(times[:-1])) == pytest.approx(policy.spec.env.dt, rel=0.1)
    assert report.timing["jitter_p50"] < 0.1 * policy.spec.env.dt


# Limits that a robot keeps on a busy machine, so that the fault is what is found; and those that find these faults.
WIDE, TIGHT = {"staleness": 10.0, "frozen": 10.0}, {"frozen": {"frozen": 0.3}, "dropped": {"staleness": None}}


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("nan", "observation_not_finite", "sensors 2 of franka are not finite"),
        ("frozen", "sensors_frozen", "no value of franka changed"),
        ("dropped", "sensors_stale", "the measurement of franka is "),
        ("late", "sensors_stale", "the measurement of franka is "),
        ("killed", "robot_failed", "the connection is lost"),
        ("short", "observation_wrong", "franka sends 13 values, but 14 before"),
        ("long", "observation_wrong", "franka sends 15 values, but 14 before"),
    ],
)
def test_faults_end_in_the_last_action_within_one_period(policy, tmp_path, fault, reason, message):
    with fake_franka(tmp_path, fault, AFTER) as robot:
        report = deploy(policy, robot, tmp_path / "out", **(WIDE | TIGHT.get(fault, {})))
        time.sleep(0.05)
    assert (report.reason, AFTER <= report.steps < 2 * AFTER) == (reason, True), report
    assert message in report.message
    assert report.stop_seconds <= policy.spec.env.dt
    sent = assert_safe(robot)
    if fault != "killed":
        assert report.held == "last action"
        assert np.array_equal(sent[-1], sent[-2])
    saved = json.loads((tmp_path / "out/report.json").read_text())
    assert (saved["reason"], saved["exit_code"]) == (reason, report.exit_code)
    assert report.exit_code not in (0, 1, 2)


@pytest.mark.parametrize("fault", ["lost", "reordered"])
def test_what_is_no_fault_does_not_stop(policy, tmp_path, fault):
    with fake_franka(tmp_path, fault, AFTER) as robot:
        report = deploy(policy, robot, tmp_path / "out", staleness=0.5)  # other processes may keep it waiting
    assert report.reason == "finished", report
    assert_safe(robot)


def test_safe_action_is_reached_step_by_step(policy, tmp_path):
    safe = (0.0,) * 9
    with fake_franka(tmp_path, "nan", AFTER) as robot:
        report = deploy(policy, robot, tmp_path / "out", safe_action=safe, max_delta=0.05)
        time.sleep(0.05)
    assert report.held == "safe action"
    sent = assert_safe(robot)
    low, high = robot.limits()
    assert sent[-1] == pytest.approx((low + high) / 2, abs=1e-6)
    assert report.stop_seconds <= policy.spec.env.dt
    steps = np.abs(np.diff(sent[AFTER:], axis=0)) / (high - low) * 2
    assert steps.max() <= 0.05 + 1e-5


@pytest.mark.parametrize(
    ("order", "settings", "message"),
    [
        (["qv_robot", "qp_robot", "reach_err"], {}, "observations are in the order qv_robot"),
        (None, {"safe_action": (0.0,)}, "safe_action must be 9 finite numbers"),
        (None, {"max_delta": None}, "hardware needs max_delta"),
    ],
)
def test_a_refusal_sends_nothing_and_leaves_the_robot_where_it_is(policy, tmp_path, order, settings, message):
    with fake_franka(tmp_path) as robot:
        env = connect(NAME, robot.config)
        arm = env.robot.robot_config["franka"]["robot"]
        env.obs_keys = order or env.obs_keys
        robot.wait_for("home")  # as the driver connects
        homes = len(robot.entries("home"))
        with pytest.raises(ValueError, match=message):
            run(policy, env, tmp_path / "out", Settings(**{"max_delta": 0.1, **settings}))
        arm.close()  # as RoboHive does where the driver is collected, at exit, too
        time.sleep(0.1)
        assert robot.entries("command") == []
        assert len(robot.entries("home")) == homes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'franka': ", "SyntaxError"),
        ("{'franka': arm}", "NameError: name 'arm' is not defined"),
        ("[1, 2]", "'list' object has no attribute 'items'"),
        ("{}", "it names no device"),
        ("exit(3)", "SystemExit: 3"),
        (("'pos_range'", "'pos_rnge'"), "KeyError: 'pos_range'"),
        (
            ("'type': 'franka'", "'type': 'frank'"),
            "unknown interface 'frank'; RoboHive has dynamixel, franka",
        ),
        (("'ip_address'", "'address'"), "missing 1 required positional argument: 'ip_address'$"),
    ],
)
def test_what_is_no_configuration_is_one_line_that_names_the_file(tmp_path, content, message):
    with fake_franka(tmp_path) as robot:
        whole = robot.config.read_text()
        robot.config.write_text(content if isinstance(content, str) else whole.replace(*content))
        with pytest.raises(ValueError, match=message) as caught:
            connect(NAME, robot.config)
        assert robot.entries("home") == []
    assert str(caught.value).startswith(str(robot.config)) and "\n" not in str(caught.value)


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_connected(policy, tmp_path):
    with fake_franka(tmp_path) as robot:
        with pytest.raises(
            ValueError, match="the policy does not fit the robot: observation qp_robot: missing"
        ):
            connect("FK1_LightOnRandom-v4", robot.config, policy=policy)
        assert robot.entries("home") == []


def test_an_existing_journal_leaves_the_robot_where_it_is(policy, tmp_path):
    (tmp_path / "journal.bin").touch()
    with fake_franka(tmp_path) as robot:
        env = connect(NAME, robot.config)
        arm = env.robot.robot_config["franka"]["robot"]
        with pytest.raises((ValueError, OSError), match=r"journal\.bin"):
            run(policy, env, tmp_path, Settings(max_delta=0.1))
    assert arm.robot is None  # RoboHive's closing would move it home by this


def test_dry_run_sends_nothing(policy, tmp_path):
    with fake_franka(tmp_path) as robot:
        env = connect(NAME, robot.config)
        before = len(robot.entries("home"))
        report = run(policy, env, tmp_path / "out", Settings(max_steps=5, max_delta=0.1, dry_run=True))
        assert (report.reason, report.steps) == ("finished", 5)
        assert robot.entries("command") == []
        assert len(robot.entries("home")) == before


def test_interrupt_stops_safely(policy, tmp_path):
    with fake_franka(tmp_path) as robot:
        env = connect(NAME, robot.config)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        report = run(policy, env, tmp_path / "out", Settings(max_seconds=20.0, max_delta=0.1))
        time.sleep(0.05)
    assert (report.reason, report.exit_code, report.held) == ("interrupted", 130, "last action")
    assert_safe(robot)


def test_robot_that_is_not_there_is_one_line(tmp_path):
    with fake_franka(tmp_path) as robot:
        pass
    with pytest.raises(RuntimeError, match=r"^these devices do not answer: franka$"):
        connect(NAME, robot.config)


def command(run, robot, tmp_path, *more):
    export(run.run_dir, tmp_path / "bundle")
    places = [f"--bundle={tmp_path / 'bundle'}", f"--out={tmp_path / 'out'}", f"--hardware={robot.config}"]
    paths = [str(DRIVERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "rlhive.deploy", *places, "--max_delta=0.1", *more],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def test_command_refuses_settings_before_it_connects(make_run, installed, tmp_path):
    with fake_franka(tmp_path) as robot:
        result = command(make_run(env=installed), robot, tmp_path, "--safe_action=0,0", "--dry_run")
        assert robot.entries("home") == []
    assert result.returncode == 2
    assert result.stderr == "rlhive.deploy: safe_action must be 9 finite numbers, got [0.0, 0.0]\n"


def test_command_ends_with_the_code_of_the_fault(make_run, installed, tmp_path):
    with fake_franka(tmp_path, "nan", AFTER) as robot:
        result = command(make_run(env=installed), robot, tmp_path)
    assert result.returncode == 10, result.stderr
    assert result.stdout.startswith("observation_not_finite: sensors 2 of franka are not finite")
    assert_safe(robot)
