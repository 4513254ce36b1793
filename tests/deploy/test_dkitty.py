"""D'Kitty: Dynamixels, whose driver quits Python and switches motors off, and OptiTrack, whose driver has a thread."""

import gc
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rlhive.deploy import connect, connecting, reporting
from rlhive.deploy.drivers import import_optitrack
from rlhive.envs.build import make_bare, make_spec
from rlhive.envs.importing import quiet
from tests.deploy.arm import Wanting, act_on, deploy
from tests.deploy.robots import DRIVERS
from tests.deploy.test_robot_configuration import DKITTY, shipped, usable, write


@pytest.fixture(scope="module")
def built():
    """The environment and its time limit."""
    with quiet():
        return make_bare(DKITTY)


@pytest.fixture(scope="module")
def dkitty(built):
    return make_spec(DKITTY, *built, None)


@pytest.fixture(autouse=True)
def one_simulation(built, monkeypatch):
    """Loading the model again for each test would take most of its time."""
    from robohive.physics.sim_scene import SimScene

    env, _ = built
    env.sim.reset()
    monkeypatch.setattr(SimScene, "get_sim", lambda *_, **__: env.sim)


@pytest.fixture
def whole():
    """RoboHive's configuration, with an OptiTrack that sends to a free port of this machine."""
    config = usable(shipped(DKITTY))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        config["dkitty_root"]["interface"].update(client_name="127.0.0.1", port=free.getsockname()[1])
    return config


@pytest.fixture
def config(whole, tmp_path):
    """The legs alone."""
    return write(tmp_path / "robot.config", {"dkitty": whole["dkitty"]})


@pytest.fixture
def motors(whole, monkeypatch):
    """The motors at the pose in which all joints are at 0."""
    monkeypatch.syspath_prepend(DRIVERS)
    import dynamixel_py

    places = {sensor["hdr_id"]: -sensor["offset"] / sensor["scale"] for sensor in whole["dkitty"]["sensor"]}
    motors = dynamixel_py.Motors(places)
    monkeypatch.setattr(dynamixel_py, "motors", motors)
    monkeypatch.setattr(connecting, "rehearse", lambda *_: None)
    monkeypatch.setattr(reporting, "plot", lambda *_: None)
    return motors


def break_off():
    raise OSError("gone")


@pytest.mark.parametrize(
    ("what", "fail", "message"),
    [
        ("positions", sys.exit, "the step failed: the driver gave up"),
        ("command", sys.exit, "the step failed: the driver gave up"),
        ("command", break_off, "the step failed: OSError: gone"),
    ],
)
def test_a_driver_that_quits_or_is_broken_off_is_a_fault_and_the_motors_hold(
    motors, dkitty, config, tmp_path, what, fail, message
):
    env = connect(DKITTY, config)
    act_on(motors, what, 12 if what == "positions" else 4, fail)
    report = deploy(Wanting(dkitty, lambda _: 0.1), env, tmp_path)
    del env
    gc.collect()  # drivers close themselves
    assert (report.reason, report.exit_code, report.held) == ("robot_failed", 16, "last action"), report
    assert report.message == message
    assert motors.commands[-1] == motors.commands[-2]
    assert motors.switched_off == []


@pytest.mark.parametrize(
    ("what", "fail", "message"),
    [
        ("port", lambda: sys.exit("no port"), "connecting failed: the driver gave up: no port"),
        ("positions", sys.exit, "connecting failed: the driver gave up"),
        ("positions", lambda: {}["an id"], "connecting failed: KeyError: 'an id'"),
        ("positions", lambda: None + 1, "connecting failed: TypeError: unsupported operand"),
    ],
)
def test_a_driver_that_gives_up_while_connecting_is_one_line(motors, config, what, fail, message):
    act_on(motors, what, 1, fail)
    with pytest.raises(RuntimeError, match=f"^{message}") as caught:
        connect(DKITTY, config)
    assert "\n" not in str(caught.value) and "environment creator" not in str(caught.value)
    gc.collect()
    assert motors.switched_off == []


@pytest.fixture
def pose(whole, monkeypatch):
    """What OptiTrack sees while its driver waits for a packet: quaternions by any name; nothing without one."""
    import_optitrack()
    from robohive.robot import hardware_optitrack

    pose, there = {}, whole["dkitty_root"]["interface"]

    def send(_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera:
            for quaternion in pose.values():
                packet = np.array([0, 1, 0, 0, 0.32, *quaternion], np.float32).tobytes()
                camera.sendto(packet, (there["client_name"], there["port"]))
        time.sleep(0.1)

    monkeypatch.setattr(hardware_optitrack, "time", SimpleNamespace(sleep=send))
    return pose


def running_threads():
    return [thread for thread in threading.enumerate() if "poll_sensors" in thread.name]


def test_optitrack_lets_the_process_end_after_a_run(motors, pose, dkitty, whole, tmp_path):
    pose["upright"] = (0.0, 0.0, 0.0, 1.0)
    env = connect(DKITTY, write(tmp_path / "robot.config", whole))
    assert [thread.daemon for thread in running_threads()] == [True]  # Python may also end before a run
    report = deploy(Wanting(dkitty, lambda _: 0.0), env, tmp_path, max_steps=2)
    assert report.reason == "finished", report
    assert running_threads() == []


@pytest.mark.parametrize(
    ("quaternion", "message"),
    [
        (None, "these devices do not answer: dkitty_root$"),
        ((1.0, 0.0, 0.0, 0.0), "connecting failed: the robot is in a pose that ends an episode"),
    ],
)
def test_optitrack_lets_the_process_end_where_connecting_fails(
    motors, pose, whole, tmp_path, quaternion, message
):
    if quaternion is not None:
        pose["seen"] = quaternion
    with pytest.raises(RuntimeError, match=f"^{message}"):
        connect(DKITTY, write(tmp_path / "robot.config", whole))
    assert running_threads() == []
