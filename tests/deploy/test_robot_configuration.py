"""What a robot's configuration must say before anything is connected: sensors and calibrations as in training."""

import logging
from types import SimpleNamespace

import attrs
import gymnasium
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy import connecting
from rlhive.deploy.rehearsal import INTERFACES, rehearse
from rlhive.envs.importing import import_robohive
from rlhive.envs.robohive import env_spec

NAME = "FrankaReachRandom-v0"


def shipped(name):
    """RoboHive's configuration of an environment."""
    import_robohive()
    with open(gymnasium.spec(name).kwargs["config_path"]) as file:
        return eval(file.read(), {"np": np})


def write(path, config):
    path.write_text(repr(config))
    return path


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        pytest.param("FrankaPickPlaceFixed-v0", marks=pytest.mark.slow),
        pytest.param("rpFrankaDmanusPoseFixed-v0", marks=pytest.mark.slow),
        pytest.param("rpFrankaRobotiqData-v0", marks=pytest.mark.slow),
        pytest.param("DKittyStandFixed-v0", marks=pytest.mark.slow),
        pytest.param("DKittyOrientFixed-v0", marks=pytest.mark.slow),
    ],
)
def test_the_configurations_of_robohive_are_accepted(name, tmp_path, caplog):
    rehearse(name, write(tmp_path / "robot.config", shipped(name)), None, None)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "unmeasured"),
    [
        ("franka_slide_close-v3", "slidedoor_joint"),
        pytest.param("FrankaPushFixed-v0", "Tx, Ty, Tz, Rx, Ry, Rz", marks=pytest.mark.slow),
        pytest.param("FK1_CloseAllFixed-v4", "knob1_joint, knob2_joint", marks=pytest.mark.slow),
    ],
)
def test_what_robohive_has_no_driver_for_may_be_left_out_and_is_told(name, unmeasured, tmp_path, caplog):
    config = {device: of for device, of in shipped(name).items() if of["interface"].get("type") in INTERFACES}
    with caplog.at_level(logging.WARNING, "rlhive.deploy"):
        rehearse(name, write(tmp_path / "robot.config", config), None, None)
    assert f"no device measures {unmeasured}" in caplog.text


def reverse(franka):
    franka["sensor"].reverse()


def clear(franka):
    franka["sensor"].clear()


def drop_the_last(franka):
    franka["sensor"].pop()


def repeat_the_first(franka):
    franka["sensor"][1] = franka["sensor"][0]


def measure_in_degrees(franka):
    for sensor in franka["sensor"]:
        sensor["scale"] = 57.3


def negate(franka):
    franka["sensor"][2]["scale"] = -1


def forget_an_offset(franka):
    franka["actuator"][5]["offset"] = 0


def command_in_degrees(franka):
    franka["actuator"][5]["scale"] = 57.3


def say_no_scale(franka):
    del franka["sensor"][0]["scale"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            reverse,
            "sensor 1 of franka must measure panda0_joint1, is fr_arm_jp7; sensor 2 of franka",
        ),
        (clear, "sensor 1 of franka must measure panda0_joint1, is missing"),
        (drop_the_last, "robot: sensor 7 of franka must measure panda0_joint7, is missing$"),
        (
            repeat_the_first,
            "sensor fr_arm_jp1 is listed 2 times; sensor 2 of franka must measure panda0_joint2, is fr_arm_jp1$",
        ),
        (
            measure_in_degrees,
            r"actuator panda0_joint1: sent to x it would be measured at 57\.3x, but at 1x in training; look at scale",
        ),
        (negate, r"actuator panda0_joint3: sent to x it would be measured at -1x, but at 1x in training"),
        (
            forget_an_offset,
            r"panda0_joint6: sent to x it would be measured at 1x-1\.571, but at 1x in training",
        ),
        (command_in_degrees, r"panda0_joint6: sent to x it would be measured at 57\.3x, but at 1x"),
        (say_no_scale, r"robot\.config: is no configuration of this robot: KeyError: 'scale'"),
    ],
)
def test_measurements_of_another_place_than_in_training_are_refused(change, message, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    change(config["franka"])
    with pytest.raises(ValueError, match=message) as caught:
        rehearse(NAME, write(tmp_path / "robot.config", config), None, None)
    assert "\n" not in str(caught.value)


def test_sensors_of_what_nothing_moves_keep_their_order(tmp_path):
    config = shipped("DKittyStandFixed-v0")
    config["dkitty_root"]["sensor"].reverse()
    with pytest.raises(
        ValueError, match=r"sensors of dkitty_root: A:Rz, .*, A:Tx, but A:Tx, .*, A:Rz in training"
    ):
        rehearse("DKittyStandFixed-v0", write(tmp_path / "robot.config", config), None, None)


def test_a_robot_may_be_calibrated_anew_as_a_whole(tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    config["franka"]["sensor"][0]["offset"], config["franka"]["actuator"][0]["offset"] = -0.1, 0.1
    rehearse(NAME, write(tmp_path / "robot.config", config), None, None)


def test_depth_beside_the_images_of_a_camera_is_refused(tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    config["top_cam"] = {"interface": {"type": "realsense", "rgb_topic": "a", "d_topic": "b"}, "sensor": []}
    config["top_cam"] |= {"actuator": [], "cam": []}
    env = attrs.evolve(env_spec(NAME), pixels=PixelSpec(("top_cam",), 32, 32, "fast"))
    policy = SimpleNamespace(spec=SimpleNamespace(env=env))
    with pytest.raises(ValueError, match="camera top_cam: leave out its d_topic, policies see no depth"):
        rehearse(NAME, write(tmp_path / "robot.config", config), policy, None)


@pytest.mark.parametrize(
    ("kind", "positions", "velocities", "measured", "expected"),
    [
        ("franka", 7, 0, 14, None),
        ("franka", 7, 7, 14, None),
        ("franka", 7, 0, 12, 14),
        ("franka", 9, 0, 14, 18),
        ("dynamixel", 10, 0, 10, None),
        ("dynamixel", 10, 0, 9, 10),
        ("robotiq", 1, 0, 1, None),
        ("realsense", 0, 0, 0, None),
    ],
)
def test_a_device_measures_what_its_configuration_lists(kind, positions, velocities, measured, expected):
    sensors = [{"data_type": "qpos"}] * positions + [{"data_type": "qvel"}] * velocities
    device = {"interface": {"type": kind}, "sensor": sensors, "sensor_data": np.zeros(measured)}
    if expected is None:
        connecting._check_counts({"arm": device})
        return
    with pytest.raises(
        ValueError, match=f"^arm measures {measured} values, expected {expected} by the sensors"
    ):
        connecting._check_counts({"arm": device})
