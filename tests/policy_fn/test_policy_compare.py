"""`policy.check`: every difference between a policy and a live robot is named."""

import attrs
import gymnasium
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.robohive import RoboHive, env_spec, quiet
from rlhive.policy_fn import load
from rlhive.policy_fn.compare import differences

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
    own = RoboHive(NAME)
    assert [policy.check(robot) for robot in (env, env.unwrapped, own, installed)] == [[], [], [], []]
    own.close()


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


def test_images_of_another_quality_or_size_are_differences(installed):
    pixels = PixelSpec(("top_cam",), 64, 64, "fast")
    trained_on = attrs.evolve(installed, pixels=pixels)
    other = attrs.evolve(installed, pixels=attrs.evolve(pixels, quality="full", height=48))
    assert differences(trained_on, trained_on) == []
    assert differences(trained_on, other) == [
        "images, height: 48, but 64 in training",
        "images, quality: full, but fast in training",
    ]
