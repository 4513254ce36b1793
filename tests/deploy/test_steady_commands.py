"""What an arm is told never jumps, whatever is measured, and its commands keep their distance in time."""

import math
import re
import time

import attrs
import numpy as np
import pytest

from rlhive.deploy import loop, robot
from rlhive.deploy.journal import read_journal
from rlhive.deploy.robot import Robot
from rlhive.deploy.safety import FaultError, PositionWatch, Sensors
from tests.deploy.arm import Wanting, act_on, as_actions, connect_fast, deploy

JOINT = np.eye(7)
AFTER = 12  # readings of the arm by then: it is connected, reset, and has been told some actions


def misread(arm, joint, by, at):
    """The `at`-th reading from now on is wrong, by so much and of that joint alone."""
    read, count = arm.get_joint_positions, 0

    def get_joint_positions():
        nonlocal count
        count += 1
        return read() + (JOINT[joint] * by if count == at else 0.0)

    arm.get_joint_positions = get_joint_positions


def refused(folder):
    *records, last = read_journal(folder / "out/journal.bin")
    assert last["refused"] and np.isnan(last["actions"]).all()
    return len(records)


def test_a_wrong_reading_stops_the_arm_where_it_was_told_to_be(arm, installed, config, ranges, tmp_path):
    env, spec = connect_fast(config, installed)
    misread(arm, 0, 1.0, AFTER)
    report = deploy(Wanting(spec, lambda _: np.zeros(9)), env, tmp_path, max_delta=0.02)
    assert (report.reason, report.held) == ("observation_wrong", "last action")
    assert report.message.startswith("actuator panda0_joint1 is measured at 1.000, but at 0.000 0.0")
    assert refused(tmp_path) == report.steps > 1
    assert np.abs(np.diff(as_actions(arm.commands, ranges), axis=0)).max() <= 0.02 + 1e-6


def test_a_reading_that_may_be_true_leads_no_further_than_an_action(arm, installed, config, ranges, tmp_path):
    env, spec = connect_fast(config, installed)
    misread(arm, 0, -0.4, AFTER)
    report = deploy(Wanting(spec, lambda _: np.zeros(9)), env, tmp_path, max_delta=0.02)
    assert report.reason == "finished", report
    sent = as_actions(arm.commands, ranges)
    assert sent[:, 0].min() < -0.01  # it was believed
    assert np.abs(np.diff(sent, axis=0)).max() <= 0.02 + 1e-6


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (
            lambda home: home + 0.6 * JOINT[3] + 1.57 * JOINT[3],
            "panda0_joint4 is measured at 0.600, before at 0.6",
        ),
        (lambda home: home + 4.0 * JOINT[0], "panda0_joint1 is measured at 4.000, before at 4.0"),
        (
            np.degrees,
            r"panda0_joint4 is measured at -89\.9.*, before at -89\.9.*: it must be at rest, in its",
        ),
    ],
)
def test_an_arm_that_is_measured_out_of_reach_is_told_nothing(
    arm, installed, config, tmp_path, monkeypatch, measure, message
):
    monkeypatch.setattr(robot, "SETTLE_SECONDS", 0.1)
    env, spec = connect_fast(config, installed)
    arm.position = arm.target = measure(arm.position)
    report = deploy(Wanting(spec, lambda _: 0.0), env, tmp_path)
    assert (report.reason, report.held) == ("observation_wrong", "nothing is known to have been sent")
    assert re.match(f"actuator {message}", report.message)
    assert refused(tmp_path) == report.steps == len(arm.commands) == 0


@pytest.mark.parametrize("readings_before", [0, 1])
def test_a_start_that_is_measured_in_two_places_is_read_again(
    arm, installed, config, ranges, tmp_path, readings_before
):
    env, spec = connect_fast(config, installed)
    reset = env.unwrapped.reset

    def reset_and_misread(**options):
        misread(arm, 0, 1.0, 1 + 5 + readings_before)  # RoboHive fills its cache of five first
        return reset(**options)

    env.unwrapped.reset = reset_and_misread
    report = deploy(Wanting(spec, lambda _: np.zeros(9)), env, tmp_path)
    assert report.reason == "finished", report
    assert np.abs(as_actions(arm.commands, ranges)[:, 0]).max() < 1e-6


def test_an_arm_that_is_pushed_goes_on(arm, installed, config, ranges, tmp_path):
    """At the most that its motors could do themselves."""
    env, spec = connect_fast(config, installed)
    pushed = iter(range(1000))

    def push(what):
        if what == "command":
            arm.position = arm.position + JOINT[1] * 2.6 * spec.dt * (-1) ** (next(pushed) // 4)

    arm.before, arm.speed = push, 0.0
    report = deploy(Wanting(spec, lambda _: 0.0), env, tmp_path, max_delta=0.02, max_steps=16)
    assert report.reason == "finished", report
    assert np.abs(np.diff(as_actions(arm.commands, ranges), axis=0)).max() <= 0.02 + 1e-6


def test_an_arm_that_was_blocked_catches_up_no_faster_than_an_action(
    arm, installed, config, ranges, tmp_path
):
    env, spec = connect_fast(config, installed)
    arm.speed = 0.0
    wanted = lambda step: np.eye(9)[0] * (0.9 if step < 20 else -0.9)  # noqa: E731

    def free():
        arm.speed = 100.0

    act_on(arm, "command", 12, free)
    report = deploy(Wanting(spec, wanted), env, tmp_path, max_delta=0.01, max_steps=24)
    assert report.reason == "finished", report
    steps = np.diff(as_actions(arm.commands, ranges)[:, 0])
    assert np.abs(steps).max() <= 0.01 + 1e-6
    assert steps[18:-1] == pytest.approx(-0.01, abs=1e-6)  # at once, with nothing to take back first


def test_positions_that_no_arm_reaches_are_found_by_the_time_between_them():
    limits = {"hand": (0.0, 0.04, 0.0), "arm": (-2.0, 2.0, 0.1)}
    watch = PositionWatch(limits, dt=0.1)
    watch.start({"hand": 0.0403, "arm": 2.05})  # beyond a limit by its noise, by less than a step
    watch.check(0.0, {"hand": 0.0403, "arm": 2.05})
    watch.check(0.1, {"hand": 0.0364, "arm": 1.46})
    watch.check(1.1, {"hand": 0.0400, "arm": -0.9})
    with pytest.raises(
        FaultError, match=r"actuator arm is measured at -1\.600, but at -0\.900 0\.100 s before"
    ):
        watch.check(1.2, {"hand": 0.0400, "arm": -1.6})


def test_an_arm_that_still_moves_after_the_reset_is_waited_for(arm, installed, config, ranges, tmp_path):
    env, spec = connect_fast(config, installed)
    reset = env.unwrapped.reset

    def reset_without_waiting(**options):
        result = reset(**options)
        arm.position, arm.speed = arm.position + 0.5 * JOINT[0], 5.0
        return result

    env.unwrapped.reset = reset_without_waiting
    report = deploy(Wanting(spec, lambda _: np.zeros(9)), env, tmp_path)
    assert report.reason == "finished", report
    assert np.abs(as_actions(arm.commands, ranges)[:, 0]).max() < 1e-6
    assert abs(read_journal(tmp_path / "out/journal.bin")["observations"][0][0]) < 1e-6


@pytest.mark.parametrize("safe", [None, 0.3])
def test_actions_that_are_positions_are_limited_in_their_own_units(
    arm, installed, config, ranges, tmp_path, safe
):
    env, spec = connect_fast(config, installed)
    arm_low, arm_high, offsets = ranges
    low, high = np.r_[arm_low, 0.0, 0.0], np.r_[arm_high, 0.04, 0.04]
    env.unwrapped.normalize_act = False
    home = np.r_[arm.position - offsets, 0.04, 0.04]
    spec = attrs.evolve(spec, action_low=tuple(low), action_high=tuple(high))
    target = np.clip(home + np.eye(9)[0] * (safe or 0.0), low, high)
    misread(arm, 0, -0.2 if safe is None else math.nan, AFTER)
    settings = {} if safe is None else {"safe_action": tuple(target.tolist())}
    report = deploy(Wanting(spec, lambda _: home), env, tmp_path, max_delta=0.02, **settings)
    assert (report.reason, report.held) == (
        ("finished", "last action") if safe is None else ("observation_not_finite", "safe action")
    )
    told = np.array(arm.commands)[:, 0] - offsets[0]
    assert 0.0 < np.abs(np.diff(told)).max() <= 0.02 + 1e-6
    if safe is not None:
        assert told[-1] == pytest.approx(safe, abs=1e-6)


class Clock:
    """Time that passes in sleep alone, so that a busy machine does not count."""

    def __init__(self):
        self.now = time.time()

    def read(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds


def test_a_reading_that_takes_most_of_a_period_keeps_the_beat(arm, installed, config, tmp_path, monkeypatch):
    env, spec = connect_fast(config, installed)
    read = arm.get_joint_positions

    def read_slowly():
        time.sleep(0.7 * spec.dt)
        return read()

    arm.get_joint_positions, clock = read_slowly, Clock()
    with monkeypatch.context() as patch:
        for name, passing in (("time", clock.read), ("monotonic", clock.read), ("sleep", clock.sleep)):
            patch.setattr(time, name, passing)
        report = deploy(Wanting(spec, lambda _: 0.0), env, tmp_path, max_steps=12)
    assert report.reason == "finished", report
    assert np.nanmedian(read_journal(tmp_path / "out/journal.bin")["period"]) < 1.3 * spec.dt


class Slow(Wanting):
    def act(self, observation, rest):
        if self._steps == 3:
            time.sleep(self.seconds)
        return super().act(observation, rest)


@pytest.mark.parametrize("periods", [0.9, 1.5, 1.9])
def test_commands_keep_their_distance_after_one_that_was_late(arm, installed, config, tmp_path, periods):
    env, spec = connect_fast(config, installed)
    policy = Slow(spec, lambda _: 0.0)
    policy.seconds, times = periods * spec.dt, []
    arm.before = lambda what: times.append(time.monotonic()) if what == "command" else None
    report = deploy(policy, env, tmp_path)
    assert report.reason == "finished", report
    between = np.diff(times)[:-1]  # but the last action, which is told again at once
    assert between.max() > periods * spec.dt
    assert between.min() >= 0.25 * spec.dt  # half a period, less what a busy machine keeps one waiting
    records = read_journal(tmp_path / "out/journal.bin")
    if periods > 1:  # each action has time to show what it leads to
        assert np.nanmin(records["period"]) >= 0.4 * spec.dt


def test_an_action_is_not_sent_where_the_process_was_stopped_after_it_was_looked_at(
    arm, installed, config, tmp_path, monkeypatch
):
    env, spec = connect_fast(config, installed)
    limit_action, calls = loop.limit_action, []

    def stop_the_fourth(*args):
        calls.append(args)
        if len(calls) == 4:
            time.sleep(0.3)
        return limit_action(*args)

    monkeypatch.setattr(loop, "limit_action", stop_the_fourth)
    report = deploy(Wanting(spec, lambda step: 0.02 * step), env, tmp_path, staleness=0.2)
    assert (report.reason, report.steps, report.held) == ("sensors_stale", 3, "last action"), report
    assert report.message.startswith("the action answers a reading from 0.3")
    assert len(arm.commands) == 4 and np.array_equal(arm.commands[3], arm.commands[2])


def test_a_driver_may_take_longer_than_a_period_for_the_last_action(arm, installed, config, tmp_path):
    env, spec = connect_fast(config, installed)
    act_on(arm, "command", 4, lambda: time.sleep(2 * spec.dt))
    report = deploy(Wanting(spec, lambda _: 0.0), env, tmp_path, max_steps=3)
    assert (report.held, len(arm.commands)) == ("last action", 4)


def test_the_age_of_measurements_is_of_those_that_have_one(arm, installed, config, tmp_path, monkeypatch):
    env, spec = connect_fast(config, installed)
    read = Robot._sensors
    without = {"hand": Sensors(np.zeros(1), math.nan)}
    monkeypatch.setattr(Robot, "_sensors", lambda robot: without | read(robot))
    deploy(Wanting(spec, lambda _: 0.0), env, tmp_path, max_steps=2)
    assert np.isfinite(read_journal(tmp_path / "out/journal.bin")["sensor_age"]).all()
