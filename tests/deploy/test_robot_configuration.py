"""What a robot's configuration must say before anything is connected: sensors and calibrations as in training."""

import logging
from types import SimpleNamespace

import attrs
import gymnasium
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.deploy import connecting, rehearsal
from rlhive.deploy.drivers import INTERFACES
from rlhive.deploy.rehearsal import rehearse
from rlhive.envs.build import make_bare
from rlhive.envs.importing import import_robohive, quiet
from rlhive.envs.robohive import env_spec

NAME, DKITTY = "FrankaReachRandom-v0", "DKittyStandFixed-v0"


def shipped(name):
    """RoboHive's configuration of an environment."""
    import_robohive()
    with open(gymnasium.spec(name).kwargs["config_path"]) as file:
        return eval(file.read(), {"np": np})


def usable(config):
    """The configuration with what its driver asks for and RoboHive's own leaves out."""
    for device in config.values():
        if device["interface"]["type"] == "dynamixel":
            for actuator in device["actuator"]:
                actuator["mode"] = "Position"
    return config


def write(path, config):
    path.write_text(repr(config))
    return path


@pytest.fixture(scope="module")
def built():
    """Environments by their names, each built once: another configuration does not need another simulation."""
    environments = {}
    yield environments
    for _, close in environments.values():
        close()


@pytest.fixture
def fast(built, monkeypatch):
    """Rehearsals in those."""

    def make(name, **settings):
        if "config_path" not in settings:
            return make_bare(name)
        if name not in built:
            with quiet():
                env, _ = make_bare(name, **settings)
            built[name] = env, env.close
            env.close = lambda: None
        env, _ = built[name]
        env.robot.robot_config = env.robot.configure_robot(env.sim, settings["config_path"])
        return env, None

    monkeypatch.setattr(rehearsal, "make_bare", make)


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        pytest.param("rpFrankaDmanusPoseFixed-v0", marks=pytest.mark.slow),
        pytest.param("rpFrankaRobotiqData-v0", marks=pytest.mark.slow),
        pytest.param("DKittyStandFixed-v0", marks=pytest.mark.slow),
        pytest.param("DKittyOrientFixed-v0", marks=pytest.mark.slow),
    ],
)
def test_the_configurations_of_robohive_are_accepted(name, tmp_path, caplog):
    rehearse(name, write(tmp_path / "robot.config", usable(shipped(name))), None, None)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "unmeasured"),
    [
        ("franka_slide_close-v3", "fr_fin_jp1, fr_fin_jp2, fr_fin_jv1, fr_fin_jv2, slidedoor_joint"),
        pytest.param("FrankaPickPlaceFixed-v0", "fr_fin_jv1, fr_fin_jv2", marks=pytest.mark.slow),
        pytest.param(
            "FrankaPushFixed-v0",
            "fr_fin_jp1, fr_fin_jp2, Tx, Ty, Tz, Rx, Ry, Rz",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "FK1_CloseAllFixed-v4",
            "fr_fin_jp1, fr_fin_jp2, knob1_joint, knob2_joint",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_robohive_has_no_driver_for_may_be_left_out_and_is_told(name, unmeasured, tmp_path, caplog):
    config = {device: of for device, of in shipped(name).items() if of["interface"].get("type") in INTERFACES}
    arm = config["franka"]
    arm["sensor"] = [sensor for sensor in arm["sensor"] if "_fin_" not in sensor["name"]]
    arm["actuator"] = arm["actuator"][:7]
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


def measure_velocities(franka, joints=range(1, 8), **changes):
    position = franka["sensor"][0]
    franka["sensor"] += [position | {"name": f"fr_arm_jv{joint}"} | changes for joint in joints]


def reverse_the_velocities(franka):
    measure_velocities(franka, range(7, 0, -1))


def leave_out_the_first_velocities(franka):
    measure_velocities(franka, range(4, 8))


def measure_velocities_in_degrees(franka):
    measure_velocities(franka, range(1, 3), scale=57.3)


def measure_a_finger(franka):
    measure_velocities(franka)
    measure_velocities(franka, [1], name="fr_fin_jv1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            reverse,
            "sensor 1 of franka must measure panda0_joint1, but is fr_arm_jp7; sensor 2 of franka",
        ),
        (clear, "sensor 1 of franka must measure panda0_joint1, but is missing"),
        (drop_the_last, "robot: sensor 7 of franka must measure panda0_joint7, but is missing$"),
        (
            repeat_the_first,
            "sensor fr_arm_jp1 is listed 2 times; sensor 2 of franka must measure panda0_joint2, but is fr_arm_jp1$",
        ),
        (
            measure_in_degrees,
            r"actuator panda0_joint1: sent to x, it would be measured at 57\.3x, but at 1x in training; check scale",
        ),
        (negate, r"actuator panda0_joint3: sent to x, it would be measured at -1x, but at 1x in training"),
        (
            forget_an_offset,
            r"panda0_joint6: sent to x, it would be measured at 1x-1\.571, but at 1x in training",
        ),
        (command_in_degrees, r"panda0_joint6: sent to x, it would be measured at 57\.3x, but at 1x"),
        (
            reverse_the_velocities,
            "sensors of franka: fr_arm_jp1, .*, fr_arm_jv1, but a Franka returns the positions",
        ),
        (
            leave_out_the_first_velocities,
            "but a Franka returns the positions of its 7 joints, then their velocities in the same order$",
        ),
        (
            measure_velocities_in_degrees,
            "sensor fr_arm_jv1 of franka must have scale 1 and offset 0, as the velocity of the joint "
            r"that fr_arm_jp1 measures, but has 57\.3 and 0; sensor fr_arm_jv2",
        ),
        (measure_a_finger, "fr_arm_jv7, fr_fin_jv1, but a Franka returns the positions of its 7 joints"),
        (say_no_scale, r"robot\.config: is not a configuration of this robot: KeyError: 'scale'"),
    ],
)
def test_measurements_of_another_place_than_in_training_are_refused(change, message, fast, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    change(config["franka"])
    with pytest.raises(ValueError, match=message) as caught:
        rehearse(NAME, write(tmp_path / "robot.config", config), None, None)
    assert "\n" not in str(caught.value)


def reverse_the_pose(config):
    config["dkitty_root"]["sensor"].reverse()


def leave_out_a_coordinate(config):
    del config["dkitty_root"]["sensor"][1]


def exchange_the_ids_of_sensors(config):
    sensors = config["dkitty"]["sensor"]
    sensors[0]["hdr_id"], sensors[1]["hdr_id"] = 11, 10


def exchange_the_ids_of_actuators(config):
    actuators = config["dkitty"]["actuator"]
    actuators[0]["hdr_id"], actuators[1]["hdr_id"] = 11, 10


def repeat_an_id(config):
    for kind in ("sensor", "actuator"):
        config["dkitty"][kind][1]["hdr_id"] = 10


def leave_out_a_motor(config):
    del config["dkitty"]["sensor"][2]


def append_a_velocity(config):
    sensors = config["dkitty"]["sensor"]
    sensors.append(sensors[0] | {"name": "A:FRJ10_velocity_sensor", "hdr_id": 99})


def say_no_mode(config):
    del config["dkitty"]["actuator"][3]["mode"]


def mount_a_horn_elsewhere(config):
    for kind in ("sensor", "actuator"):
        config["dkitty"][kind][1]["offset"] += 4.0


def drive_by_current(config):
    config["dkitty"]["actuator"][3]["mode"] = "PWM"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            reverse_the_pose,
            "sensors of dkitty_root: A:Rz, .*, A:Tx, but OptiTrack returns x, y, z, rx, ry, rz in this",
        ),
        (
            leave_out_a_coordinate,
            "sensors of dkitty_root: A:Tx, A:Tz, .*, A:Rz, but OptiTrack returns x, y, z, rx",
        ),
        (
            exchange_the_ids_of_sensors,
            "sensor A:FRJ10_pos_sensor of dkitty must have the hdr_id 10 of A:FRJ10, but has 11; sensor A:FRJ11_pos",
        ),
        (
            exchange_the_ids_of_actuators,
            "sensor A:FRJ10_pos_sensor of dkitty must have the hdr_id 11 of A:FRJ10, but has 10; sensor A:FRJ11_pos",
        ),
        (repeat_an_id, "robot: 2 sensors of dkitty have hdr_id 10; 2 actuators of dkitty have hdr_id 10$"),
        (leave_out_a_motor, "robot: no sensor of dkitty measures A:FRJ12$"),
        (
            append_a_velocity,
            "sensor A:FRJ10_velocity_sensor of dkitty measures a velocity, which RoboHive does not read there",
        ),
        (
            say_no_mode,
            r"robot\.config: actuators of dkitty have the mode None, Position, expected each to say 'mode': 'Position'",
        ),
        (
            drive_by_current,
            r"robot\.config: actuators of dkitty have the mode PWM, Position, expected each to say",
        ),
        (
            mount_a_horn_elsewhere,
            r"robot\.config: with scale and offset, pos_range of A:FRJ11 is \[5\.002, 9\.282\] for the motor, which",
        ),
    ],
)
def test_motors_are_known_by_their_ids_and_a_body_by_its_pose(change, message, fast, tmp_path):
    config = usable(shipped(DKITTY))
    change(config)
    with pytest.raises(ValueError, match=message) as caught:
        rehearse(DKITTY, write(tmp_path / "robot.config", config), None, None)
    assert "\n" not in str(caught.value)


def test_what_a_driver_gives_in_another_order_or_in_part_is_accepted(fast, tmp_path, caplog):
    config = usable(shipped(DKITTY))
    config["dkitty"]["sensor"].reverse()
    del config["dkitty_root"]["sensor"][3:]
    with caplog.at_level(logging.WARNING, "rlhive.deploy"):
        rehearse(DKITTY, write(tmp_path / "robot.config", config), None, None)
    assert "no device measures A:Rx, A:Ry, A:Rz: the policy" in caplog.text


@pytest.mark.parametrize("joints", [range(1, 8), range(1, 4)])
def test_velocities_of_a_franka_follow_its_positions(joints, fast, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    measure_velocities(config["franka"], joints)
    rehearse(NAME, write(tmp_path / "robot.config", config), None, None)


def test_constants_may_be_rounded_by_hand(fast, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    actuator = config["franka"]["actuator"][5]
    actuator["offset"] = round(actuator["offset"], 2) - 0.005
    rehearse(NAME, write(tmp_path / "robot.config", config), None, None)


def test_a_device_lists_no_more_sensors_than_its_driver_gives(fast, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    finger = config["franka"]["sensor"][0] | {"name": "fr_fin_jp1"}
    config["gripper"] = {"interface": {"type": "robotiq", "ip_address": "a"}, "actuator": []}
    config["gripper"]["sensor"] = [finger, finger | {"name": "fr_fin_jp2"}]
    with pytest.raises(ValueError, match=r"robot: gripper lists 2 sensors, but a robotiq returns 1 values$"):
        rehearse(NAME, write(tmp_path / "robot.config", config), None, None)


def test_a_robot_may_be_calibrated_anew_as_a_whole(fast, tmp_path):
    config = {"franka": shipped(NAME)["franka"]}
    config["franka"]["sensor"][0]["offset"], config["franka"]["actuator"][0]["offset"] = -0.1, 0.1
    rehearse(NAME, write(tmp_path / "robot.config", config), None, None)


def test_depth_beside_the_images_of_a_camera_is_refused(fast, tmp_path):
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
        ("optitrack", 3, 0, 6, None),
        ("optitrack", 6, 0, 5, 6),
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
        ValueError, match=f"^arm measures {measured} values, expected {expected} for the sensors"
    ):
        connecting._check_counts({"arm": device})
