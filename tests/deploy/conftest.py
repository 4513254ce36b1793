"""The arm of tests/deploy/arm.py behind RoboHive's driver, and its configuration."""

from pathlib import Path

import numpy as np
import pytest

from rlhive.deploy import connecting, reporting
from rlhive.envs.importing import quiet
from rlhive.envs.robohive import env_spec
from tests.deploy.arm import NAME, Arm
from tests.deploy.robots import DRIVERS


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture
def config(tmp_path):
    import robohive

    shipped = Path(robohive.__file__).parent / "envs/arms/franka/assets/franka_reach_v0.config"
    path = tmp_path / "robot.config"
    path.write_text(repr({"franka": eval(shipped.read_text(), {"np": np})["franka"]}))
    return path


@pytest.fixture
def arm(monkeypatch):
    """An arm behind RoboHive's driver; each test looks at what is sent, not at what is known before."""
    monkeypatch.syspath_prepend(DRIVERS)
    with quiet():
        from robohive.robot import hardware_franka
    arm = Arm()
    monkeypatch.setattr(hardware_franka, "RobotInterface", lambda ip_address, enforce_version: arm)
    monkeypatch.setattr(connecting, "rehearse", lambda *_: None)
    monkeypatch.setattr(reporting, "plot", lambda *_: None)
    return arm


@pytest.fixture
def ranges(config):
    """Lower limits, upper limits and offsets of the actuators."""
    known = eval(config.read_text())["franka"]["actuator"]
    low, high = np.array([actuator["pos_range"] for actuator in known]).T
    return low, high, np.array([actuator["offset"] for actuator in known])
