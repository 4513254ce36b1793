"""A RoboHive environment as a robot in a control loop: simulated, or hardware behind RoboHive's drivers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.deploy.actuators import Actuators
from rlhive.deploy.drivers import forget_broken_command
from rlhive.deploy.readings import Reading, age, unmasked
from rlhive.deploy.safety import FaultError, Sensors
from rlhive.deploy.watchdog import as_fault
from rlhive.envs.cameras import open_cameras

RESET_SECONDS = 30.0  # RoboHive's drivers take five seconds to go to the start
SETTLE_SECONDS = 5.0


class Robot:
    """A live RoboHive environment that only sends commands which are finite, within the actuators' limits and no jump.

    Args:
        env: simulated or of `connect`; wrapped or not.
        spec: description of the policy's observations and actions.
        max_delta: largest change of an action per step, in its units; None for no limit.
        staleness: maximum age of a measurement, seconds.
        dry_run: whether to send nothing at all, and not to reset hardware.

    Attributes:
        name: RoboHive's id of the environment; None where it has none.
        is_hardware: whether it is hardware, not a simulation.
        actuators: the configured actuators.
        rest: where hardware's actuators were just before the first reading of the episode, by name.
        last_action: the last action sent `[A]`, in a dry run the last one computed; None before the first.
        last_control: the command sent for it `[A]`, in the actuators' units and after all limits; None in a dry run.
    """

    def __init__(
        self, env: Any, spec: EnvSpec, *, max_delta: float | None, staleness: float, dry_run: bool
    ) -> None:
        self.env = env.unwrapped
        self.name: str | None = getattr(self.env.spec, "id", None)
        self.is_hardware = bool(self.env.robot.is_hardware)
        self.actuators = Actuators(self.env, spec.action_dim, max_delta)
        self.rest: dict[str, float] = {}
        self.last_action: np.ndarray | None = None
        self.last_control: np.ndarray | None = None
        self._spec, self._staleness, self._dry_run = spec, staleness, dry_run
        self._wanted: np.ndarray | None = None  # the action being sent
        self._expires = math.inf  # from when on it must not be sent
        self._told_at = -math.inf
        self._cameras = open_cameras(self.env, spec)
        if self.is_hardware:
            self._guard()

    def reset(self, is_start: Callable[[Mapping[str, float], Mapping[str, float]], bool]) -> Reading:
        """Goes to the start of an episode as RoboHive does, but without waiting for a key.

        Args:
            is_start: whether hardware may start, given where its actuators were before a reading and in it. It is read
                for up to `SETTLE_SECONDS` until it may, since some drivers do not wait for their commands to finish.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        with as_fault(RESET_SECONDS, "the reset"):
            if self.is_hardware and self._dry_run:
                self.env.forward()
            else:
                self.env.reset(**({"blocking": False} if self.is_hardware else {}))
            settled_by = time.monotonic() + (0.0 if self._dry_run else SETTLE_SECONDS)
            while True:
                if self.is_hardware:
                    self.rest = self.actuators.by_name()
                    time.sleep(self._spec.dt)
                reading = self._read(self.env.forward())
                if is_start(self.rest, reading.positions) or time.monotonic() > settled_by:
                    break
        return self._look(reading, RESET_SECONDS)

    def wait_for_turn(self) -> None:
        """Waits until half a period after the last command: a late one must not be followed at once."""
        _sleep_until(self._told_at + self._spec.dt / 2)

    def step(self, action: np.ndarray, seen: float, deadline: float) -> Reading:
        """Sends the action, waits until `deadline` and reads; all must end within `staleness` after the deadline.

        Args:
            action: `[A]`, finite and within its limits.
            seen: when the reading that it answers was taken, `time.monotonic`; an answer to a stale reading is not sent
                to hardware.
            deadline: when hardware is read; a simulation is read after its step and rests until then.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        limit = max(0.0, deadline - time.monotonic()) + self._staleness
        ends = time.monotonic() + limit
        self._wanted, self._expires = action, seen + self._staleness
        if self._dry_run:
            self.last_action = action
        if not self.is_hardware:
            with as_fault(limit, "the step"):
                reading = self._read(self.env.forward() if self._dry_run else self._simulate(action))
            reading = self._look(reading, RESET_SECONDS)  # drawing without a GPU takes longer than a step may
            _sleep_until(deadline)
            return reading._replace(time=time.monotonic())
        with as_fault(limit, "the step"):
            if self._dry_run:
                _sleep_until(deadline)
                result = self.env.forward()
            else:
                # RoboHive sleeps until dt after its last reading, which would add the reading's duration to each step.
                robot = self.env.robot
                robot.time_wall = time.time() - robot.time_start + (deadline - time.monotonic()) - self.env.dt
                result = self.env.step(action)
            reading = self._read(result)
        return self._look(reading, max(0.001, ends - time.monotonic()))

    def hold(self, action: np.ndarray | None = None) -> None:
        """Sends an action without reading the sensors, which may be broken; only after `step` has sent one.

        Args:
            action: `[A]`, finite and within its limits; None repeats the last command.

        Raises:
            FaultError: the robot fails or does not answer.
        """
        if self._dry_run:
            return
        assert self.last_action is not None
        self._wanted, self._expires = self.last_action if action is None else action, math.inf
        # If the period is short, a driver may need longer than that to send.
        with as_fault(max(self._spec.dt, self._staleness), "sending the safe action"):
            if not self.is_hardware:
                self._simulate(self._wanted)
                return
            robot, control = self.env.robot, self.last_control
            forget_broken_command(robot)
            if action is not None:
                control = robot.process_actuator(
                    controls=action.astype(np.float64),
                    step_duration=self.env.dt,
                    normalized=self.env.normalize_act,
                    velocity_limits=False,
                    out_space="hdr",
                )
            robot.hardware_apply_controls(control)

    def standstill(self) -> np.ndarray | None:
        """The action `[A]` that would keep each actuator where it is, NaN where that is unknown."""
        measured = self.actuators.measured()
        action = self.actuators.as_action(0 * measured if self.actuators.act_mode == "vel" else measured)
        return None if action is None else np.clip(action, self._spec.action_low, self._spec.action_high)

    def led_to(self) -> np.ndarray | None:
        """The action `[A]` that the last command amounts to; None before the first.

        RoboHive's velocity limits around the measured position can make a command fall short of its action.
        """
        control, known = self.last_control, self.actuators
        if self.last_action is None or control is None or not self.is_hardware or known.act_mode != "pos":
            return self.last_action
        action = known.as_action(control[known.ids])
        return self.last_action if action is None else np.where(np.isnan(action), self.last_action, action)

    def _look(self, reading: Reading, limit: float) -> Reading:
        """Adds current images to a reading; hardware keeps the time of its measurements, which have aged since."""
        with as_fault(limit, "reading the cameras"):
            images = self._cameras()
        return reading._replace(images=images, time=reading.time if self.is_hardware else time.monotonic())

    def _read(self, result: tuple[Any, ...]) -> Reading:
        now = time.monotonic()
        _, reward, done, *_, info = result
        return Reading(
            now,
            {key: unmasked(key, self.env.obs_dict[key]) for key in self._spec.observation_keys},
            self._sensors() if self.is_hardware else {},
            self.actuators.by_name() if self.is_hardware else {},
            {},
            float(reward),
            bool(done),
            bool(info.get("solved", False)),
        )

    def _simulate(self, action: np.ndarray) -> tuple[Any, ...]:
        self._told_at = time.monotonic()
        result: tuple[Any, ...] = self.env.step(action)
        self.last_action, self.last_control = action, np.array(self.env.last_ctrl, float)
        return result

    def _sensors(self) -> dict[str, Sensors]:
        robot = self.env.robot
        return {
            name: Sensors(
                unmasked(name, device["sensor_data"]).astype(np.float64), age(device, robot.time_start)
            )
            for name, device in robot.robot_config.items()
            if device["sensor"]
        }

    def _guard(self) -> None:
        """Checks each command right before the drivers: finite, within the limits, no jump and not late."""
        robot, known = self.env.robot, self.actuators
        send = robot.hardware_apply_controls

        def guarded(control: Any, is_reset: bool = False) -> None:
            told = np.array(control, float)
            values = told[known.ids]
            if self._dry_run:
                raise FaultError("robot_failed", "a dry run sends nothing")
            if not (
                np.isfinite(values).all() and (values >= known.low).all() and (values <= known.high).all()
            ):
                message = f"the command {values.tolist()} is not finite, or outside the actuators' limits"
                raise FaultError("action_not_finite", message)
            if is_reset:
                send(control, is_reset=True)
                return
            self._refuse_late()
            told[known.ids] = known.limit(values, self._told_before())
            self._told_at = time.monotonic()
            send(told)
            self.last_action, self.last_control = self._wanted, told

        robot.hardware_apply_controls = guarded

    def _refuse_late(self) -> None:
        """Checks the age of the reading again: the process may have been suspended since the loop did."""
        late = time.monotonic() - self._expires
        if late > 0.0:
            old = late + self._staleness
            message = f"the action answers a reading from {old:.3f} s ago, more than {self._staleness:.3f} s"
            raise FaultError("sensors_stale", message)

    def _told_before(self) -> np.ndarray:
        """The last command to the configured actuators `[n]`; before the first, where they are, within their limits."""
        if self.last_control is not None:
            return self.last_control[self.actuators.ids]
        return np.clip(np.array([*self.rest.values()]), self.actuators.low, self.actuators.high)


def _sleep_until(deadline: float) -> None:
    time.sleep(max(0.0, deadline - time.monotonic()))
