"""`policy.check`: every difference between a policy and a live robot is named."""

import attrs
import gymnasium
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import make
from rlhive.envs.importing import quiet
from rlhive.envs.robohive import RoboHive, env_spec
from rlhive.policy_fn import load
from rlhive.policy_fn.compare import check_same_environment, differences

NAME = "FrankaReachRandom-v0"


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture
def env(installed):
    with quiet():
        env = gymnasium.make(NAME)
    yield env
    env.close()


def test_the_environment_itself_fits_in_every_form(make_run, installed, env):
    policy = load(make_run(env=installed).run_dir)
    own, of_torchrl = RoboHive(NAME), make(NAME)
    robots = (env, env.unwrapped, own, of_torchrl, installed)
    assert [policy.check(robot) for robot in robots] == [[]] * 5
    own.close()
    of_torchrl.close()


def test_every_difference_of_a_live_environment_is_listed(installed, env):
    live = env.unwrapped
    live.obs_keys = ["qv_robot", "qp_robot", "reach_err"]
    live.frame_skip = 20
    live.action_space.low[2] = -0.5
    assert differences(installed, env) == [
        "action panda0_joint3: limits [-0.5, 1.0], but [-1.0, 1.0] in training",
        "observations are in the order qv_robot, qp_robot, reach_err, but qp_robot, qv_robot, reach_err in training",
        "dt: 0.04 s, but 0.08 s in training",
    ]
    live.obs_keys = ["qp_robot", "reach_err", "time"]
    live.obs_dict["qp_robot"] = np.zeros(15)
    lines = differences(installed, env)
    assert "observation qv_robot: missing" in lines
    assert "observation time: not known to the policy" in lines
    assert "observation qp_robot: size 15, but 9 in training" in lines


def test_robot_and_its_configuration_are_compared_by_their_actuators(installed, env):
    robot = env.unwrapped.robot
    missing = [f"action {side}_gripper_finger_joint: missing" for side in "rl"]
    assert differences(installed, robot) == missing
    assert differences(installed, robot.robot_config) == missing
    arm = attrs.evolve(
        installed,
        action_dim=7,
        action_low=(-1,) * 7,
        action_high=(1,) * 7,
        action_names=installed.action_names[:7],
    )
    assert differences(arm, robot) == []
    for actuator in robot.robot_config["franka"]["actuator"]:
        actuator["sim_id"] = 6 - actuator["sim_id"]
    [line] = differences(arm, robot)
    assert line.startswith("actions are in the order panda0_joint7, panda0_joint6")


def test_anything_else_is_refused(installed):
    with pytest.raises(ValueError, match="expected an environment of RoboHive"):
        differences(installed, 3)


def test_images_of_another_camera_quality_or_size_are_differences(installed):
    pixels = PixelSpec(("top_cam",), 64, 64, "fast")
    trained_on = attrs.evolve(installed, pixels=pixels)
    other = attrs.evolve(installed, pixels=attrs.evolve(pixels, quality="full", height=48))
    assert differences(trained_on, trained_on) == []
    assert differences(installed, trained_on) == []  # images that a policy does not look at
    assert differences(trained_on, other) == [
        "camera top_cam: images of [48, 64], but [64, 64] in training",
        "images, quality: full, but fast in training",
    ]
    assert differences(trained_on, installed) == ["camera top_cam: missing"]


def test_cameras_of_a_live_environment(installed, env):
    def trained_on(*cameras):
        return attrs.evolve(installed, pixels=PixelSpec(cameras, 64, 64, "fast"))

    assert differences(trained_on("top_cam"), env) == []  # images of any size can be drawn in it
    assert differences(trained_on("top_cam", "nose_cam"), env) == ["camera nose_cam: missing"]
    robot = env.unwrapped.robot
    assert "camera nose_cam: missing" in differences(trained_on("nose_cam"), robot)
    assert not any("camera" in line for line in differences(trained_on("top_cam"), robot))


def test_own_images_of_a_live_environment():
    name = "FrankaReachRandom_v2d-v0"
    trained_on = env_spec(name)
    with quiet():
        live = gymnasium.make(name, disable_env_checker=True)
    assert differences(trained_on, live) == []
    pixels = attrs.evolve(trained_on.pixels, quality="fast", width=64, cameras=("top_cam",))
    assert differences(attrs.evolve(trained_on, pixels=pixels), live) == [
        "camera top_cam: images of [224, 224], but [224, 64] in training",
        "images, quality: full, but fast in training",
    ]
    live.close()


def test_another_environment_than_in_training_is_named(franka_spec):
    seeing = attrs.evolve(franka_spec, pixels=PixelSpec(("top_cam",), 32, 32))
    for installed, message in (
        (attrs.evolve(franka_spec, name="door-v1"), r"is door-v1, but the policy is of FrankaReachRandom-v0"),
        (franka_spec, r"FrankaReachRandom-v0 does not fit the policy: camera top_cam: missing"),
        (attrs.evolve(seeing, max_episode_steps=7), r"differs .* in max_episode_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            check_same_environment(installed, seeing)
    check_same_environment(seeing, seeing)
