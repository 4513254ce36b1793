"""The control loop: observe, check, act, check, send, wait; and a safe stop whatever happens."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.core.errors import NotFiniteActionError, NotFiniteError
from rlhive.core.interrupt import catch_signals
from rlhive.deploy.drivers import one_line, release
from rlhive.deploy.journal import JOURNAL, Journal
from rlhive.deploy.policy_images import PolicyImages, newest
from rlhive.deploy.provenance import describe_deployment
from rlhive.deploy.readings import Reading
from rlhive.deploy.reporting import Report, write_report
from rlhive.deploy.robot import Robot
from rlhive.deploy.safe_stop import SafeStop
from rlhive.deploy.safety import (
    EXIT_CODES,
    FaultError,
    PositionWatch,
    SensorWatch,
    limit_action,
)
from rlhive.deploy.settings import Settings, check_act_mode, check_settings
from rlhive.deploy.watchdog import check_main_thread
from rlhive.policy_fn.policy import Policy

LOG = logging.getLogger("rlhive.deploy")
_DEFAULTS = Settings()


def run(
    policy: Policy,
    env: Any,
    folder: str | Path,
    settings: Settings = _DEFAULTS,
    policy_source: Mapping[str, Any] | None = None,
) -> Report:
    """Runs a policy on a robot until it finishes, fails, or receives Ctrl-C, SIGTERM or SIGHUP; then holds the robot.

    Writes into `folder`: `journal.bin` step by step, and at the end `trace.h5` (RoboHive's Trace), `report.json` and
    `latency.png`. Main thread only, because a watchdog's signal interrupts drivers that do not answer. Hardware is left
    where it is, engaged; `env` cannot be used afterwards, even if this raises.

    Args:
        policy: the policy.
        env: a live RoboHive environment, simulated or returned by `deploy.connect`.
        folder: where to write; created if it does not exist.
        settings: how to run and when to stop.
        policy_source: where the policy comes from, as returned by `provenance.describe_policy`; it is recorded.

    Raises:
        ValueError: the environment differs from the one trained on (every difference is named), a setting does not fit
            it, `policy_source` contains values that JSON cannot express, or this is not the main thread.
        FileExistsError: `folder` already has a journal.
    """
    try:
        return _run(policy, env, Path(folder), settings, policy_source)
    finally:
        release(env)


def _run(
    policy: Policy, env: Any, folder: Path, settings: Settings, policy_source: Mapping[str, Any] | None
) -> Report:
    check_main_thread("run")
    if lines := policy.check(env):
        raise ValueError(f"the policy does not fit the robot: {'; '.join(lines)}")
    staleness = 2 * policy.spec.env.dt if settings.staleness is None else settings.staleness
    robot = Robot(
        env,
        policy.spec.env,
        max_delta=settings.max_delta,
        staleness=staleness,
        dry_run=settings.dry_run,
    )
    check_settings(settings, policy.spec.env, is_hardware=robot.is_hardware)
    if robot.is_hardware:
        check_act_mode(settings, robot.actuators.act_mode)
    deployment = describe_deployment(policy_source, robot.env, settings, policy.spec.env.dt)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / JOURNAL, policy.spec.env, robot.name, deployment)
    loop = _Loop(policy, robot, settings, staleness, journal)
    with catch_signals() as received:
        reason, message = _guarded(loop, received)
        detected = time.monotonic()
        stop = SafeStop(robot, settings, policy.spec.env)
        held = stop.hold(reason, received)
        stop_seconds = (stop.held_at or detected) - detected
        return write_report(
            journal,
            folder,
            deployment,
            reason=reason,
            message=message,
            held=held,
            stop_seconds=stop_seconds,
            repeated_frames=loop.repeated_frames(),
        )


class _Loop:
    def __init__(
        self, policy: Policy, robot: Robot, settings: Settings, staleness: float, journal: Journal
    ) -> None:
        env = policy.spec.env
        self._policy, self._robot, self._settings, self._journal = policy, robot, settings, journal
        self._dt = env.dt
        self._low = np.asarray(env.action_low, np.float32)
        self._high = np.asarray(env.action_high, np.float32)
        self._staleness = staleness
        self._watch = SensorWatch(staleness, settings.frozen)
        self._joints = PositionWatch(robot.actuators.limits_by_name(), env.dt)
        frozen = settings.frozen if robot.is_hardware else math.inf  # a simulation may be at rest
        self._images = None if env.pixels is None else PolicyImages(env.pixels, staleness, frozen)
        self._started = self._deadline = 0.0
        self._reference: np.ndarray | None = None
        self._plan: np.ndarray | None = None  # its remaining actions

    def run(self, received: Sequence[int]) -> tuple[str, str]:
        """Steps until there is a reason to stop; returns the reason and a message."""
        reading = self._robot.reset(self._joints.is_start)
        self._reference, self._started = self._robot.standstill(), reading.time
        self._joints.start(self._robot.rest)
        self._deadline, step = reading.time, 0
        while (end := self._ended(reading, step, received)) is None:
            self._deadline += self._dt
            reading = self._step(reading)
            step += 1
        self._write_last(reading)
        return end

    def _ended(self, reading: Reading, step: int, received: Sequence[int]) -> tuple[str, str] | None:
        settings = self._settings
        if step and reading.done:
            return "terminated", f"the environment ended the episode after {step} steps"
        if received:
            return "interrupted", f"signal {received[0]} after {step} steps"
        if settings.max_steps is not None and step >= settings.max_steps:
            return "finished", f"{step} steps"
        if settings.max_seconds is not None and time.monotonic() - self._started >= settings.max_seconds:
            return "finished", f"{settings.max_seconds} s, {step} steps"
        return None

    def repeated_frames(self) -> dict[str, int]:
        """As in `Report`; warns if hardware's cameras are slower than the loop."""
        counts = {} if self._images is None else self._images.repeated
        if self._robot.is_hardware and any(counts.values()):
            LOG.warning("repeated images: %s", counts)
        return counts

    def _step(self, reading: Reading) -> Reading:
        record = self._record(reading) | {"refused": True}
        try:
            action = self._decide(reading, record)
            following = self._send(action, reading, record)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error says why the robot stopped
                self._journal.append(record)
            raise
        self._journal.append(record)
        return following

    def _decide(self, reading: Reading, record: dict[str, Any]) -> np.ndarray:
        """The action to send; records what it was computed from."""
        seen = self._see(reading, record)
        wanted, self._plan = _act(self._policy, reading.observation | seen, self._plan)
        latency = time.monotonic() - reading.time
        record.update(policy_actions=wanted, latency=latency)
        if self._robot.is_hardware and latency > self._staleness:
            what = "reading and the policy" if self._images is None else "reading, the cameras and the policy"
            message = f"{what} took {latency:.3f} s, more than {self._staleness:.3f} s"
            raise FaultError("sensors_stale", message)
        # Not from the last action: it runs ahead of an arm that is blocked, which would catch up once it is free.
        last = self._reference if self._robot.last_action is None else self._robot.led_to()
        return limit_action(wanted, last, self._low, self._high, self._settings.max_delta)

    def _send(self, action: np.ndarray, reading: Reading, record: dict[str, Any]) -> Reading:
        """Sends the action and reads what it led to; records both, the action only if it was sent."""
        self._robot.wait_for_turn()
        now = time.monotonic()
        if now > self._deadline:  # on hardware even a late action gets time to take effect
            self._deadline = now + (self._dt / 2 if self._robot.is_hardware else 0.0)
        record.update(latency=now - reading.time)
        try:
            following = self._robot.step(action, reading.time, self._deadline)
        finally:
            if self._robot.last_action is action:
                control = self._robot.last_control
                record.update(refused=False, actions=action, controls=np.nan if control is None else control)
        record.update(
            rewards=following.reward,
            done=following.done,
            solved=following.solved,
            period=following.time - reading.time,
        )
        return following

    def _see(self, reading: Reading, record: dict[str, Any]) -> dict[str, np.ndarray]:
        """Checks a reading; returns the images as the policy sees them, as "pixels", or nothing without images."""
        try:
            self._watch.check(reading.time, reading.sensors)
            self._joints.check(reading.time, reading.positions)
            seen = {} if self._images is None else {"pixels": self._images.stack(reading)}
        except FaultError as fault:
            record["frozen_since"] = fault.frozen_since - self._started
            raise
        record.update(newest(seen))
        return seen

    def _record(self, reading: Reading) -> dict[str, Any]:
        env = self._policy.spec.env
        vector = np.concatenate([reading.observation[key].ravel() for key in env.observation_keys])
        record = {
            "time": reading.time - self._started,
            "unix_time": time.time() - (time.monotonic() - reading.time),
            "sensor_age": reading.oldest(),
        }
        return record | ({"observations": vector} if vector.size == env.observation_dim else {})

    def _write_last(self, reading: Reading) -> None:
        """Records the reading that the last action led to; no action follows it."""
        record = self._record(reading)
        try:
            self._see(reading, record)
            record["refused"] = not np.isfinite(record.get("observations", np.nan)).all()
        except FaultError:
            record["refused"] = True
        self._journal.append(record)


def _act(
    policy: Policy, observation: dict[str, np.ndarray], rest: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        return policy.act(observation, rest)
    except NotFiniteActionError as error:
        raise FaultError("action_not_finite", str(error)) from None
    except NotFiniteError as error:
        raise FaultError("observation_not_finite", str(error)) from None
    except ValueError as error:
        raise FaultError("observation_wrong", str(error)) from None


def _guarded(loop: _Loop, received: Sequence[int]) -> tuple[str, str]:
    """Runs the loop; returns the reason why it stopped, and one line on what happened."""
    try:
        reason, message = loop.run(received)
    except FaultError as fault:
        reason, message = fault.reason, str(fault)
    except KeyboardInterrupt:
        reason, message = "interrupted", "Ctrl-C, twice"
    # The robot is brought to its safe state whatever fails, be it the disk or a driver that calls quit().
    except (Exception, SystemExit) as error:
        reason, message = "loop_failed", one_line(error)
    LOG.log(logging.WARNING if EXIT_CODES[reason] else logging.INFO, "stopped, %s: %s", reason, message)
    return reason, message
