"""A RoboHive environment as a robot in a control loop: simulated, or hardware behind RoboHive's drivers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.deploy.drivers import actuators, refuse_reconnecting
from rlhive.deploy.safety import FaultError, Sensors, watchdog
from rlhive.envs.cameras import Image, open_cameras

RESET_SECONDS = 30.0  # RoboHive's drivers take five seconds to go to the start


class Reading(NamedTuple):
    """What the robot shows at one time.

    Attributes:
        time: when it was read, seconds of `time.monotonic`.
        observation: the parts by name, each as RoboHive has it.
        sensors: of each device; empty in simulation, where nothing can be old.
        images: of each of the policy's cameras.
        reward: RoboHive's dense reward.
        done: the episode has ended.
        solved: RoboHive's word on the task.
    """

    time: float
    observation: dict[str, np.ndarray]
    sensors: dict[str, Sensors]
    images: dict[str, Image]
    reward: float
    done: bool
    solved: bool


class Robot:
    """A live RoboHive environment that sends nothing that is not finite and within the actuators' limits.

    Args:
        env: made by `gymnasium.make` or `connect`; wrapped or not.
        spec: what the policy reads and sends.
        dry_run: nothing is sent at all, nor is the robot reset.

    Attributes:
        last_action: what was sent last `[A]`, in a dry run computed; None before.
        last_control: what the actuators were told then `[A]`, in their units and after RoboHive's velocity limits; None
            in a dry run, too.
        act_mode: RoboHive's, "pos" or "vel": whether an action asks for a position or a velocity.
    """

    def __init__(self, env: Any, spec: EnvSpec, *, dry_run: bool) -> None:
        self.env = env.unwrapped
        self.name: str | None = getattr(self.env.spec, "id", None)
        self.is_hardware = bool(self.env.robot.is_hardware)
        self.act_mode: str = self.env.robot._act_mode
        self.last_action: np.ndarray | None = None
        self.last_control: np.ndarray | None = None
        self._spec, self._dry_run = spec, dry_run
        self._wanted: np.ndarray | None = None  # the action that is on its way
        self._cameras = open_cameras(self.env, spec)
        if self.is_hardware:
            self._guard()

    def reset(self) -> Reading:
        """Goes to the start of an episode, as RoboHive does it but without waiting for a key.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        with _as_fault(RESET_SECONDS, "the reset"):
            if not self._dry_run:
                self.env.reset(**({"blocking": False} if self.is_hardware else {}))
            reading = self._read(self.env.forward())
        return self._look(reading, RESET_SECONDS)

    def step(self, action: np.ndarray, deadline: float, limit: float) -> Reading:
        """Sends the action, waits until `deadline` (of `time.monotonic`) and reads.

        Args:
            action: `[A]`, finite and within its limits.
            deadline: when to read; hardware reads then, a simulation is at rest from its step until then.
            limit: seconds from now within which all that must have happened.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        ends = time.monotonic() + limit
        self._wanted = action
        if self._dry_run:
            self.last_action = action
        if not self.is_hardware:
            with _as_fault(limit, "the step"):
                reading = self._read(self.env.forward() if self._dry_run else self._simulate(action))
            reading = self._look(reading, RESET_SECONDS)  # where no GPU draws it takes longer than a step may
            _sleep_until(deadline)
            return reading._replace(time=time.monotonic())
        with _as_fault(limit, "the step"):
            if self._dry_run:
                _sleep_until(deadline)
                result = self.env.forward()
            else:
                # RoboHive sleeps for dt since its last reading, which would add the time of each reading to each step.
                robot = self.env.robot
                robot.time_wall = time.time() - robot.time_start + (deadline - time.monotonic()) - self.env.dt
                result = self.env.step(action)
            reading = self._read(result)
        return self._look(reading, max(0.001, ends - time.monotonic()))

    def hold(self, action: np.ndarray | None = None) -> None:
        """Sends an action without looking at sensors, which may be broken; only after one was sent by `step`.

        Args:
            action: `[A]`, finite and within its limits; None tells the actuators again what they were told last.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        if self._dry_run:
            return
        assert self.last_action is not None
        self._wanted = self.last_action if action is None else action
        with _as_fault(self._spec.dt, "sending the safe action"):
            robot = self.env.robot
            if not self.is_hardware:
                self._simulate(self._wanted)
            elif action is None:
                robot.hardware_apply_controls(self.last_control)
            else:
                control = robot.process_actuator(
                    controls=action.astype(np.float64),
                    step_duration=self.env.dt,
                    normalized=self.env.normalize_act,
                    velocity_limits=False,
                    out_space="hdr",
                )
                robot.hardware_apply_controls(control)

    def standstill(self) -> np.ndarray | None:
        """The action `[A]` that would keep each actuator where it is, NaN where that is not known."""
        data = self.env.robot.sim.data
        if self.act_mode == "vel":
            action = self._as_action(lambda actuator: 0.0)
        else:
            action = self._as_action(
                lambda actuator: getattr(data, actuator["data_type"])[actuator["data_id"]]
            )
        return None if action is None else np.clip(action, self._spec.action_low, self._spec.action_high)

    def led_to(self) -> np.ndarray | None:
        """The action `[A]` that asks for what the actuators were told last; None before.

        RoboHive's velocity limits around what was measured hold back what an action asks for.
        """
        control = self.last_control
        if self.last_action is None or control is None or not self.is_hardware or self.act_mode != "pos":
            return self.last_action
        action = self._as_action(lambda actuator: control[actuator["sim_id"]])
        return self.last_action if action is None else np.where(np.isnan(action), self.last_action, action)

    def reach(self) -> np.ndarray:
        """How far an action may lead from the one before it `[A]`, by the actuators' velocity limits."""
        reach = np.full(self._spec.action_dim, np.inf)
        if self._is_scaled() and self.act_mode == "pos":
            for actuator in actuators(self.env.robot.robot_config):
                (low, high), (back, forth) = actuator["pos_range"], actuator["vel_range"]
                reach[actuator["sim_id"]] = max(0.0, min(-back, forth)) * self.env.dt / ((high - low) / 2)
        return reach

    def _look(self, reading: Reading, limit: float) -> Reading:
        """The reading with the images of now; hardware's time stays that of its measurements, which have aged since."""
        with _as_fault(limit, "reading the cameras"):
            images = self._cameras()
        return reading._replace(images=images, time=reading.time if self.is_hardware else time.monotonic())

    def _read(self, result: tuple[Any, ...]) -> Reading:
        now = time.monotonic()
        _, reward, done, *_, info = result
        return Reading(
            now,
            {key: _unmasked(key, self.env.obs_dict[key]) for key in self._spec.observation_keys},
            self._sensors() if self.is_hardware else {},
            {},
            float(reward),
            bool(done),
            bool(info.get("solved", False)),
        )

    def _simulate(self, action: np.ndarray) -> tuple[Any, ...]:
        result: tuple[Any, ...] = self.env.step(action)
        self.last_action, self.last_control = action, np.array(self.env.last_ctrl, float)
        return result

    def _is_scaled(self) -> bool:
        """Whether an action is a place within `pos_range` or `vel_range` of the configured actuators."""
        return self.env.normalize_act and "default_robot" not in self.env.robot.robot_config

    def _as_action(self, value: Callable[[dict[str, Any]], float]) -> np.ndarray | None:
        """The action `[A]` that asks each actuator for its `value`, in its units; NaN for those not configured."""
        if not self._is_scaled():
            return None
        action = np.full(self._spec.action_dim, np.nan)
        for actuator in actuators(self.env.robot.robot_config):
            low, high = actuator[f"{self.act_mode}_range"]
            if low < high:  # an actuator whose `vel_range` has no width stands still whatever it is asked for
                action[actuator["sim_id"]] = (2 * value(actuator) - high - low) / (high - low)
        return action

    def _sensors(self) -> dict[str, Sensors]:
        robot = self.env.robot
        return {
            name: Sensors(
                _unmasked(name, device["sensor_data"]).astype(np.float64), _age(device, robot.time_start)
            )
            for name, device in robot.robot_config.items()
            if device["sensor"]
        }

    def _guard(self) -> None:
        """The last place before the drivers: what reaches them is finite and within the actuators' limits."""
        robot = self.env.robot
        send = robot.hardware_apply_controls
        known = actuators(robot.robot_config)
        ids = [actuator["sim_id"] for actuator in known]
        low, high = np.array([actuator["pos_range"] for actuator in known], float).T

        def guarded(control: Any, is_reset: bool = False) -> None:
            values = np.asarray(control, float)[ids]
            if self._dry_run:
                raise FaultError("robot_failed", "a dry run sends nothing")
            if not (np.isfinite(values).all() and (values >= low).all() and (values <= high).all()):
                message = (
                    f"actuators were to be sent {values.tolist()}, not finite or outside of their limits"
                )
                raise FaultError("action_not_finite", message)
            send(control, is_reset=is_reset)
            if not is_reset:
                self.last_action, self.last_control = self._wanted, np.array(control, float)

        robot.hardware_apply_controls = guarded
        for device in robot.robot_config.values():
            refuse_reconnecting(device.get("robot"))


@contextlib.contextmanager
def _as_fault(seconds: float, what: str) -> Iterator[None]:
    """A watchdog; whatever RoboHive raises is a fault of the robot."""
    try:
        with watchdog(seconds, what):
            yield
    except FaultError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise FaultError("robot_failed", f"{what} failed: {type(error).__name__}: {text}") from error


def _unmasked(name: str, values: Any) -> np.ndarray:
    """A copy; what a mask hides would pass for a measurement once the mask is dropped."""
    if isinstance(values, np.ma.MaskedArray):
        raise FaultError("observation_wrong", f"{name} is a masked array, expected a plain one")
    if np.iscomplexobj(values):
        raise FaultError("observation_wrong", f"{name} is complex, expected real numbers")
    return np.array(values)


def _age(device: dict[str, Any], time_start: float) -> float:
    """The most that a device's measurement may be old, by its own time stamp, in seconds; NaN where it has none.

    The drivers give the stamp of now alone, not that of the measurement, which was taken some time before.
    """
    robot = getattr(device["robot"], "robot", None)
    read = getattr(robot, "get_robot_state", None) or getattr(robot, "get_state", None)
    if read is None:
        return math.nan
    stamp, now = read().timestamp, time.time()
    since_measured = now - time_start - device["sensor_time"]
    return now - (stamp.seconds + 1e-9 * stamp.nanos) + since_measured


def _sleep_until(deadline: float) -> None:
    time.sleep(max(0.0, deadline - time.monotonic()))
