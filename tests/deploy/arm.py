"""An arm in this process for RoboHive's own driver, and a policy that asks it for what a test wants."""

import time
from types import SimpleNamespace

import attrs
import numpy as np
import torch

from rlhive.deploy import Settings, connect, run

NAME = "FrankaReachRandom-v0"


class Arm:
    """What RoboHive's FrankaArm uses of Polymetis's RobotInterface; `before` is told of each call, and may fail."""

    metadata = SimpleNamespace(default_Kq=[40.0] * 7, default_Kqd=[4.0] * 7)

    def __init__(self):
        self.position = np.array([0.0, 0.0, 0.0, -1.57, 0.0, 1.57, 0.78])
        self.target, self.speed, self.stamp = self.position, 100.0, time.time()
        self.commands, self.homes, self.before = [], 0, lambda what: None

    def move(self):
        elapsed, self.stamp = time.time() - self.stamp, time.time()
        self.position = self.position + np.clip(
            self.target - self.position, -self.speed * elapsed, self.speed * elapsed
        )

    def get_robot_state(self):
        self.before("state")
        seconds, nanos = divmod(int(1e9 * time.time()), 10**9)
        return SimpleNamespace(timestamp=SimpleNamespace(seconds=seconds, nanos=nanos))

    def get_joint_positions(self):
        self.before("positions")
        self.move()
        return torch.tensor(self.position)

    def get_joint_velocities(self):
        return torch.zeros(7)

    def is_running_policy(self):
        return False

    def go_home(self, time_to_go):
        self.homes += 1
        self.before("home")

    def send_torch_policy(self, policy, blocking):
        pass

    def update_current_policy(self, update):
        self.before("command")
        self.move()
        self.target = update["q_desired"].double().numpy().copy()
        self.commands.append(self.target)
        self.before("reply")

    def terminate_current_policy(self):
        pass


class Wanting:
    """A policy that asks for `action(step)`, the same of each actuator unless it says more."""

    def __init__(self, env, action):
        self.spec, self._action, self._steps = SimpleNamespace(env=env), action, 0

    def check(self, robot):
        return []

    def act(self, observation, rest):
        self._steps += 1
        return np.broadcast_to(np.float32(self._action(self._steps)), self.spec.env.action_dim), None


def deploy(policy, env, folder, **settings):
    settings = {"max_steps": 8, "max_delta": 0.1, "frozen": 10.0, "staleness": 5.0, **settings}
    return run(policy, env, folder / "out", Settings(**settings))


def as_actions(commands, ranges):
    low, high, offsets = ranges
    return (2 * (np.array(commands) - offsets) - high - low) / (high - low)


def act_on(arm, what, count, action):
    """Calls `action` at the `count`-th call of that kind from now on."""
    calls = []

    def before(kind):
        calls.append(kind)
        if kind == what and calls.count(what) == count:
            action()

    arm.before = before


def fail():
    raise ConnectionError("gone")


def fail_once(arm, what, count):
    """The `count`-th call of that kind from now on raises."""
    act_on(arm, what, count, fail)


def connect_fast(config, installed):
    """The arm, and its description, with half the control period."""
    env = connect(NAME, config)
    env.unwrapped.frame_skip = 20
    return env, attrs.evolve(installed, dt=env.unwrapped.dt)


def write_changed(path, change):
    config = eval(path.read_text())
    path.write_text(repr(change(config["franka"]["actuator"]) or config))
