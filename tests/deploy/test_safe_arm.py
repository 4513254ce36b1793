"""What reaches an arm in this process, behind RoboHive's own driver, when sending, reading or connecting fails."""

import gc
import signal
import time

import attrs
import h5py
import numpy as np
import pytest

from rlhive.data.formats import episodes
from rlhive.deploy import Settings, connect, connecting, rehearsal
from rlhive.deploy.journal import read_journal
from rlhive.deploy.safety import FaultError
from tests.deploy.arm import (
    NAME,
    Wanting,
    act_on,
    as_actions,
    connect_fast,
    deploy,
    fail,
    fail_once,
    write_changed,
)

SAFE = (0.3,) * 9


def test_the_way_to_the_safe_action_starts_where_the_last_command_led(
    arm, installed, config, ranges, tmp_path
):
    env, spec = connect_fast(config, installed)
    fail_once(arm, "command", 4)
    report = deploy(Wanting(spec, lambda _: 0.9), env, tmp_path, max_delta=0.04, safe_action=SAFE)
    assert (report.reason, report.held) == ("robot_failed", "safe action"), report
    sent = as_actions(arm.commands, ranges)
    assert np.abs(np.diff(sent, axis=0)).max() <= 0.04 + 1e-6
    assert sent[-1] == pytest.approx(0.3)


@pytest.mark.parametrize("wanted", [0.9, -0.9])
def test_a_command_that_arrived_though_its_reply_did_not_is_taken_back_first(
    arm, installed, config, ranges, tmp_path, wanted
):
    env, spec = connect_fast(config, installed)
    fail_once(arm, "reply", 4)
    report = deploy(Wanting(spec, lambda _: wanted), env, tmp_path, max_delta=0.04, safe_action=(0.0,) * 9)
    assert (report.reason, report.steps, report.held) == ("robot_failed", 3, "safe action")
    sent = as_actions(arm.commands, ranges)
    assert np.array_equal(sent[4], sent[2])
    assert np.abs(np.diff(sent, axis=0)).max() <= 0.04 + 1e-6
    assert sent[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("what", "told"), [("command", 0), ("reply", 1)])
def test_a_first_action_of_which_the_sending_failed_is_not_held(arm, installed, config, tmp_path, what, told):
    env = connect(NAME, config)
    fail_once(arm, what, 1)
    report = deploy(Wanting(installed, lambda _: 0.5), env, tmp_path, safe_action=SAFE)
    assert (report.reason, report.held) == ("robot_failed", "nothing is known to have been sent")
    assert len(arm.commands) == told


def test_a_way_to_the_safe_action_that_fails_once_ends_in_the_last_action(
    arm, installed, config, ranges, tmp_path
):
    env, spec = connect_fast(config, installed)
    fail_once(arm, "command", 8)
    asks = Wanting(spec, lambda step: 0.0 if step < 5 else np.nan)
    report = deploy(asks, env, tmp_path, max_delta=0.05, safe_action=SAFE)
    assert report.reason == "action_not_finite"
    assert report.held.startswith("last action, the way to the safe action failed: ")
    sent = as_actions(arm.commands, ranges)
    assert len(sent) == 8 and np.array_equal(sent[-1], sent[-2])
    assert report.stop_seconds <= installed.dt


def test_a_way_to_the_safe_action_that_keeps_failing_says_so(arm, installed, config, tmp_path):
    env, spec = connect_fast(config, installed)
    asks = Wanting(spec, lambda step: 0.0)

    def lose():
        arm.before = lambda what: fail()
        fail()

    act_on(arm, "command", 4, lose)
    report = deploy(asks, env, tmp_path, safe_action=SAFE)
    assert report.held.startswith("nothing could be sent: ")
    assert len(arm.commands) == report.steps == 3


@pytest.mark.parametrize(("speed", "max_delta"), [(3.0, 0.1), (0.0, 0.1), (3.0, 0.03)])
def test_the_way_to_the_safe_action_keeps_the_velocity_limits(
    arm, installed, config, ranges, tmp_path, speed, max_delta
):
    env, spec = connect_fast(config, installed)
    arm.speed = speed
    asks = Wanting(spec, lambda step: np.eye(9)[0] if step < 7 else np.nan)
    report = deploy(asks, env, tmp_path, max_delta=max_delta, safe_action=(0.0,) * 9)
    assert (report.reason, report.held) == ("action_not_finite", "safe action")
    low, high, _ = ranges
    sent = as_actions(arm.commands, ranges)
    fastest = np.pi / 2 * spec.dt / ((high - low) / 2)
    steps = np.abs(np.diff(sent[5:], axis=0))  # the last action, and the way
    assert (steps <= np.minimum(fastest, max_delta) + 1e-6).all()
    assert sent[-1] == pytest.approx(0.0, abs=1e-9)
    assert np.diff(sent[5:, 0]).max() <= 0.0  # never away from there


def test_the_way_to_the_safe_action_leaves_pinned_actuators_where_they_are(
    arm, installed, config, ranges, tmp_path
):
    def pinned(actuators):
        actuators[0]["vel_range"] = (0.0, 0.0)

    write_changed(config, pinned)
    env, spec = connect_fast(config, installed)
    asks = Wanting(spec, lambda step: 0.0 if step < 3 else np.nan)
    report = deploy(asks, env, tmp_path, safe_action=(0.1,) * 9)
    assert report.held == "as near the safe action as vel_range lets it"
    sent = as_actions(arm.commands, ranges)
    assert np.abs(sent[:, 0]).max() <= 1e-9 and sent[-1, 1:] == pytest.approx(0.1)


def test_the_first_of_actions_that_are_velocities_starts_at_standstill(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    env.unwrapped.robot._act_mode = "vel"
    report = deploy(Wanting(installed, lambda _: 1.0), env, tmp_path, max_steps=3, max_delta=0.05)
    assert report.reason == "finished", report
    actions = read_journal(tmp_path / "out/journal.bin")["actions"][:-1, :7]
    np.testing.assert_allclose(actions, np.broadcast_to([[0.05], [0.1], [0.15]], (3, 7)), atol=1e-6)


def test_where_actions_are_velocities_the_last_position_is_told_again(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    env.unwrapped.robot._act_mode = "vel"

    def lose_a_sensor():
        arm.position = arm.position * np.nan

    act_on(arm, "positions", 10, lose_a_sensor)
    report = deploy(Wanting(installed, lambda _: 0.05), env, tmp_path)
    assert (report.reason, report.held) == ("observation_not_finite", "last action")
    assert np.array_equal(arm.commands[-1], arm.commands[-2])


def test_where_actions_are_velocities_a_safe_action_is_refused(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    env.unwrapped.robot._act_mode = "vel"
    with pytest.raises(ValueError, match=r"^safe_action must not be given where actions are velocities"):
        deploy(Wanting(installed, lambda _: 0.0), env, tmp_path, safe_action=SAFE)
    assert arm.commands == []


@pytest.fixture
def for_velocities(monkeypatch):
    """Environments with a configuration take velocities, those of training do not; hardware is not to be connected."""
    make = rehearsal.make_bare

    def make_for_velocities(name, **settings):
        assert not settings.get("is_hardware")
        env, spec = make(name, **settings)
        if "config_path" in settings:
            env.robot._act_mode = "vel"
        return env, spec

    monkeypatch.setattr(rehearsal, "make_bare", make_for_velocities)
    monkeypatch.setattr(connecting, "make_bare", make_for_velocities)


@pytest.mark.usefixtures("for_velocities")
def test_a_safe_action_for_velocities_is_refused_before_anything_is_connected(config):
    with pytest.raises(ValueError, match=r"^safe_action must not be given where actions are velocities"):
        connect(NAME, config, settings=Settings(safe_action=SAFE))


@pytest.mark.usefixtures("for_velocities")
def test_velocities_are_no_positions_though_their_range_is_the_same(config):
    def as_fast_as_far(actuators):
        for actuator in actuators:
            actuator["vel_range"] = actuator["pos_range"]

    write_changed(config, as_fast_as_far)
    with pytest.raises(
        ValueError,
        match=r"panda0_joint1: vel_range \[-2.9671, 2.9671\], but pos_range \[-2.9671, 2.9671\] in training",
    ):
        connect(NAME, config)


def test_ranges_of_an_environment_that_is_not_installed_cannot_be_compared(config, installed):
    policy = Wanting(attrs.evolve(installed, name="MyArm-v0"), lambda _: 0.0)
    message = (
        r"^the policy was trained on MyArm-v0, which is not installed here, so its ranges cannot be compared$"
    )
    with pytest.raises(ValueError, match=message):
        connect(NAME, config, policy=policy)


def test_a_time_stamp_that_never_comes_stops_the_robot(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    act_on(arm, "state", 6, lambda: time.sleep(30.0))
    report = deploy(Wanting(installed, lambda _: 0.0), env, tmp_path, staleness=0.3)
    assert (report.reason, report.held) == ("robot_stalled", "last action"), report
    assert report.stop_seconds <= installed.dt


def test_a_time_stamp_that_fails_is_a_fault_of_the_robot(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    fail_once(arm, "state", 6)
    report = deploy(Wanting(installed, lambda _: 0.0), env, tmp_path)
    assert (report.reason, report.exit_code, report.held) == ("robot_failed", 16, "last action")


def test_measurements_age_while_their_time_stamp_is_awaited(arm, installed, config, tmp_path):
    env = connect(NAME, config)
    act_on(arm, "state", 6, lambda: time.sleep(0.2))
    report = deploy(Wanting(installed, lambda _: 0.0), env, tmp_path)
    assert report.reason == "finished", report
    journal = read_journal(tmp_path / "out/journal.bin")
    assert np.nanmax(journal["sensor_age"]) >= 0.2
    assert np.nanmax(journal["latency"]) >= 0.2


def test_the_journal_has_what_was_sent_last_and_told(arm, installed, config, ranges, tmp_path):
    env = connect(NAME, config)
    fail_once(arm, "positions", 11)
    report = deploy(Wanting(installed, lambda step: 0.05 * step), env, tmp_path, safe_action=(0.0,) * 9)
    assert report.reason == "robot_failed"
    records = read_journal(tmp_path / "out/journal.bin")
    sent = len(records)
    assert report.steps == sent and not records["refused"].any()
    assert np.isnan(records["period"]).tolist() == [False] * (sent - 1) + [True]
    assert np.isfinite(report.total_reward)
    _, _, offsets = ranges
    np.testing.assert_allclose(records["controls"][:, :7], np.array(arm.commands[:sent]) - offsets, atol=1e-6)
    [episode] = episodes(tmp_path / "out/trace.h5", "trace")
    assert np.array_equal(episode.actions, records["actions"][:-1])


def test_the_journal_has_the_reading_that_was_refused(arm, installed, config, tmp_path):
    env = connect(NAME, config)

    def lose_a_sensor():
        arm.position = arm.position * [1, 1, np.nan, 1, 1, 1, 1]

    act_on(arm, "positions", 10, lose_a_sensor)
    report = deploy(Wanting(installed, lambda step: 0.02 * step), env, tmp_path)
    assert (report.reason, report.held) == ("observation_not_finite", "last action")
    *records, refused = read_journal(tmp_path / "out/journal.bin")
    assert len(records) == report.steps > 1
    assert refused["refused"] and np.isnan(refused["observations"][2]) and np.isnan(refused["actions"]).all()
    [episode] = episodes(tmp_path / "out/trace.h5", "trace")  # without it
    assert len(episode.actions) == report.steps - 1


def test_nothing_is_learned_from_sensors_that_stood_still(arm, installed, config, tmp_path):
    env, spec = connect_fast(config, installed)

    def freeze():
        arm.move = lambda: None

    act_on(arm, "positions", 12, freeze)
    asks = Wanting(spec, lambda step: 0.02 * step)
    report = deploy(asks, env, tmp_path, max_steps=50, frozen=0.5)
    assert (report.reason, report.held) == ("sensors_frozen", "last action"), report
    *records, refused = read_journal(tmp_path / "out/journal.bin")
    observed = np.array([record["observations"] for record in records])
    is_new = (np.diff(observed[:, :7], axis=0) != 0).any(axis=1)
    changes = int(is_new.sum())
    assert 0 < changes < len(is_new) and is_new[:changes].all()
    assert refused["frozen_since"] == records[changes]["time"]
    with h5py.File(tmp_path / "out/trace.h5") as file:
        assert np.array_equal(file["Trial0/observations"], observed[: changes + 1])
        assert file.attrs["reason"] == file["Trial0"].attrs["reason"] == "sensors_frozen"
    [episode] = episodes(tmp_path / "out/trace.h5", "trace")
    assert len(episode.actions) == changes


@pytest.mark.parametrize("what", ["home", "positions"])
@pytest.mark.parametrize(
    ("error", "arguments"),
    [(KeyboardInterrupt, ()), (FaultError, ("robot_stalled", "no answer")), (OSError, ("gone",))],
)
def test_connecting_that_is_given_up_moves_nothing_more(arm, config, what, error, arguments):
    def fail():
        raise error(*arguments)

    act_on(arm, what, 1, fail)
    with pytest.raises((error, FaultError)):
        connect(NAME, config)
    gc.collect()  # RoboHive's drivers close themselves
    assert (arm.homes, arm.commands) == (1, [])


def test_connecting_that_takes_too_long_is_given_up(arm, config, monkeypatch):
    monkeypatch.setattr(connecting, "RESET_SECONDS", 0.2)
    setitimer, armed = signal.setitimer, []

    def hold_back(*timer):
        armed.append(timer)
        if timer[1] == 0:
            setitimer(*timer)

    def never_arrive():
        setitimer(*armed[-1])  # the time counts from here, however long a busy machine takes until here
        time.sleep(30.0)

    monkeypatch.setattr(signal, "setitimer", hold_back)
    act_on(arm, "home", 1, never_arrive)
    with pytest.raises(RuntimeError, match=r"^connecting did not end within 0\.200 s$"):
        connect(NAME, config)
    gc.collect()
    assert arm.homes == 1


def test_an_arm_that_is_lost_while_connecting_is_one_line(arm, config):
    def lose():
        arm.before = lambda what: lose()
        raise ConnectionError("gone")

    act_on(arm, "positions", 1, lose)
    with pytest.raises(RuntimeError, match=r"^the connection is lost"):
        connect(NAME, config)
    gc.collect()
    assert arm.homes == 1


def in_degrees(actuators):
    actuators[0]["pos_range"] = (-170.0, 170.0)


def narrower(actuators):
    actuators[1]["pos_range"] = (-0.5, 0.5)


def without_width(actuators):
    actuators[1]["pos_range"] = (0.5, 0.5)


def with_a_finger(actuators):
    actuators.append({**actuators[0], "pos_range": (0.0, 0.04), "name": "r_gripper_finger_joint"})


def reversed_order(actuators):
    actuators.reverse()


def gripper_before_the_arm(actuators):
    actuators.insert(0, {**actuators[0], "pos_range": (0.0, 0.04), "name": "r_gripper_finger_joint"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            in_degrees,
            r"actuator panda0_joint1: pos_range \[-170.0, 170.0\], but pos_range \[-2.9671, 2.9671\] in "
            "training; actions are scaled to it",
        ),
        (
            narrower,
            r"actuator panda0_joint2: pos_range \[-0.5, 0.5\], but pos_range \[-1.8326, 1.8326\] in training",
        ),
        (without_width, r"robot\.config: pos_range of panda0_joint2 is \[0\.5, 0\.5\], expected low < high$"),
        (with_a_finger, r"actuator r_gripper_finger_joint: pos_range \[0.0, 0.04\], but none in training"),
        (reversed_order, "list the actuators in the order panda0_joint1, .*, panda0_joint7, each once$"),
        (
            gripper_before_the_arm,
            "order panda0_joint1, .*, panda0_joint7, r_gripper_finger_joint, each once$",
        ),
    ],
)
def test_what_would_send_an_actuator_something_else_is_refused(config, change, message):
    write_changed(config, change)
    with pytest.raises(ValueError, match=message):
        connect(NAME, config)


def test_slower_actuators_are_a_limit_of_their_own(config):
    def slower(actuators):
        actuators[0]["vel_range"] = (-0.5, 0.5)

    write_changed(config, slower)
    rehearsal.rehearse(NAME, config, None, None)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda values: np.ma.masked_less(values, 0.0), "a masked array, expected a plain one"),
        (lambda values: values + 0.5j, "complex, expected real numbers"),
    ],
)
def test_an_observation_of_no_plain_numbers_stops_the_robot(arm, installed, config, tmp_path, change, what):
    env = connect(NAME, config)
    get_obs_dict = env.unwrapped.get_obs_dict

    def get_changed(sim):
        parts = get_obs_dict(sim)
        return {**parts, "qp_robot": change(parts["qp_robot"])}

    env.unwrapped.get_obs_dict = get_changed
    report = deploy(Wanting(installed, lambda _: 0.0), env, tmp_path)
    assert (report.reason, report.steps) == ("observation_wrong", 0)
    assert report.message == f"qp_robot is {what}"
