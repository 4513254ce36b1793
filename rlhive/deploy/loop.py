"""The control loop: observe, check, act, check, send, wait; and a safe stop whatever happens."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.core.errors import NotFiniteActionError, NotFiniteError
from rlhive.core.files import write_text
from rlhive.core.interrupt import catch_signals
from rlhive.deploy.journal import JOURNAL, TRACE, Journal, read_journal, write_trace
from rlhive.deploy.latency import plot, summarize
from rlhive.deploy.robot import Reading, Robot, release
from rlhive.deploy.safety import EXIT_CODES, FaultError, ImageWatch, SensorWatch, limit_action
from rlhive.deploy.settings import Settings, check_settings
from rlhive.envs.cameras import Frames, stack_cameras
from rlhive.policy_fn.policy import Policy

LOG = logging.getLogger("rlhive.deploy")
REPORT, PICTURE = "report.json", "latency.png"
_DEFAULTS = Settings()


@attrs.frozen
class Report:
    """How a loop ended.

    Attributes:
        reason: one of `safety.EXIT_CODES`.
        message: what happened, in one line.
        steps: actions sent; in a dry run, computed.
        solved: steps on which RoboHive called the task solved.
        total_reward: sum of RoboHive's dense reward.
        held: how it was left: "last action", "safe action", stopped on the way there, or why neither was sent.
        stop_seconds: from the detection of the reason to the first action sent for safety.
        timing: as in `latency.summarize`.
    """

    reason: str
    message: str
    steps: int
    solved: int
    total_reward: float
    held: str
    stop_seconds: float
    timing: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return EXIT_CODES[self.reason]


def run(policy: Policy, env: Any, folder: str | Path, settings: Settings = _DEFAULTS) -> Report:
    """Runs a policy on a robot until it has finished, fails, or Ctrl-C, SIGTERM or SIGHUP arrives; then holds it.

    Writes into `folder`: `journal.bin` step by step, and at the end `trace.h5` (RoboHive's Trace), `report.json` and
    `latency.png`. Main thread only, because a watchdog's signal ends what does not answer. Hardware is left where it
    is, engaged, and `env` is of no use afterwards, also where this raises.

    Args:
        policy: the policy.
        env: a live RoboHive environment, simulated or of `deploy.connect`.
        folder: where to write; made if it is not there.
        settings: how to run and when to stop.

    Raises:
        ValueError: the environment is not the one trained on (every difference is named), or a setting does not fit it.
        FileExistsError: `folder` has a journal.
    """
    try:
        return _run(policy, env, Path(folder), settings)
    finally:
        release(env)


def _run(policy: Policy, env: Any, folder: Path, settings: Settings) -> Report:
    if lines := policy.check(env):
        raise ValueError(f"the policy does not fit the robot: {'; '.join(lines)}")
    robot = Robot(env, policy.spec.env, dry_run=settings.dry_run)
    check_settings(settings, policy.spec.env, is_hardware=robot.is_hardware)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / JOURNAL, policy.spec.env, robot.name)
    loop = _Loop(policy, robot, settings, journal)
    with catch_signals() as received:
        reason, message = _guarded(loop, received)
        detected = time.monotonic()
        held = loop.hold(reason, received)
        stop_seconds = (loop.held_at or detected) - detected
        return _finish(folder, journal, policy.spec.env.dt, (reason, message, held, stop_seconds))


class _Loop:
    def __init__(self, policy: Policy, robot: Robot, settings: Settings, journal: Journal) -> None:
        env = policy.spec.env
        self._policy, self._robot, self._settings, self._journal = policy, robot, settings, journal
        self._dt = env.dt
        self._low, self._high = (
            np.asarray(env.action_low, np.float32),
            np.asarray(env.action_high, np.float32),
        )
        self._staleness = 2 * env.dt if settings.staleness is None else settings.staleness
        self._watch = SensorWatch(self._staleness, settings.frozen)
        if env.pixels is not None:
            shape = (env.pixels.height, env.pixels.width, 3)
            frozen = settings.frozen if robot.is_hardware else math.inf  # a simulation may be at rest
            self._images, self._frames = ImageWatch(shape, self._staleness, frozen), Frames(env.pixels)
        self._reference: np.ndarray | None = None
        self._plan: np.ndarray | None = None  # what is left of it
        self.held_at: float | None = None

    def run(self, received: Sequence[int]) -> tuple[str, str]:
        """Steps until there is a reason to stop, which it returns."""
        settings = self._settings
        reading = self._robot.reset()
        self._reference = self._robot.position()
        started = time.monotonic()
        deadline, step = reading.time, 0
        while True:
            if received:
                return "interrupted", f"signal {received[0]} after {step} steps"
            if settings.max_steps is not None and step >= settings.max_steps:
                return "finished", f"{step} steps"
            if settings.max_seconds is not None and time.monotonic() - started >= settings.max_seconds:
                return "finished", f"{settings.max_seconds} s, {step} steps"
            deadline = max(deadline, time.monotonic() - self._dt) + self._dt  # after an overrun, from now on
            reading = self._step(reading, deadline, started)
            step += 1
            if reading.done:
                return "terminated", f"the environment ended the episode after {step} steps"

    def hold(self, reason: str, received: Sequence[int]) -> str:
        """Brings the robot to the safe state; returns what that was, or why it could not be reached.

        With a signal in `received` it stays where it is, on the way to the safe action too.
        """
        if self._settings.dry_run:
            return "nothing, it was a dry run"
        if self._robot.last_action is None:
            return "nothing had been sent"
        try:
            safe = self._settings.safe_action
            if safe is not None and EXIT_CODES[reason] != 0 and not received:
                return self._lead(np.asarray(safe, np.float32), received)
            self._robot.hold()
            self.held_at = time.monotonic()
            return "last action"
        except FaultError as fault:
            return f"nothing could be sent: {fault}"

    def _lead(self, target: np.ndarray, received: Sequence[int]) -> str:
        """Leads the robot to an action as fast as `max_delta` and its velocity limits allow, without its sensors."""
        most = np.minimum(self._robot.reach(), self._settings.max_delta or np.inf)
        before = self._robot.led_to()
        assert before is not None  # `hold` has looked
        while True:
            action = limit_action(target, before, self._low, self._high, most)
            self._robot.hold(action)
            self.held_at = self.held_at or time.monotonic()
            if np.array_equal(action, before):
                reached = np.array_equal(action, target)
                return "safe action" if reached else "as near the safe action as vel_range lets it"
            before = action
            time.sleep(self._dt)
            if received:
                self._robot.hold()
                return "last action, stopped on the way to the safe action"

    def _step(self, reading: Reading, deadline: float, started: float) -> Reading:
        self._watch.check(reading.time, reading.sensors)
        images = self._see(reading)
        wanted, self._plan = _act(self._policy, reading.observation | images, self._plan)
        last = self._reference if self._robot.last_action is None else self._robot.last_action
        action = limit_action(wanted, last, self._low, self._high, self._settings.max_delta)
        latency = time.monotonic() - reading.time
        if self._robot.is_hardware and latency > self._staleness:
            what = "the policy" if self._policy.spec.env.pixels is None else "the cameras and the policy"
            message = f"{what} took {latency:.3f} s, more than {self._staleness:.3f} s"
            raise FaultError("sensors_stale", message)
        limit = max(0.0, deadline - time.monotonic()) + self._staleness
        following = self._robot.step(action, deadline, limit)
        ages = [age for _, age in (*reading.sensors.values(), *reading.images.values())]
        env = self._policy.spec.env
        vector = np.concatenate([reading.observation[key].ravel() for key in env.observation_keys])
        record = {
            "time": reading.time - started,
            "observations": vector,
            "policy_actions": wanted,
            "actions": action,
            "rewards": following.reward,
            "done": following.done,
            "solved": following.solved,
            "sensor_age": max(ages, default=np.nan),
            "latency": latency,
            "period": following.time - reading.time,
        }
        newest = {name: pixels[..., -3:] for name, pixels in images.items()}
        self._journal.append(record | newest)
        return following

    def _see(self, reading: Reading) -> dict[str, np.ndarray]:
        """The images as the policy sees them, by the name "pixels"; nothing without any."""
        pixels = self._policy.spec.env.pixels
        if pixels is None:
            return {}
        images = self._images.check(reading.time, reading.images)
        return {"pixels": self._frames.append(stack_cameras(images, pixels))}


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
    """Runs the loop; the reason why it stopped, and what happened, in one line."""
    try:
        reason, message = loop.run(received)
    except FaultError as fault:
        reason, message = fault.reason, str(fault)
    except KeyboardInterrupt:
        reason, message = "interrupted", "Ctrl-C, twice"
    except Exception as error:  # the robot is brought to its safe state whatever fails, be it the disk
        text = " ".join(str(error).split())
        reason, message = "loop_failed", f"{type(error).__name__}: {text}"
    LOG.log(logging.WARNING if EXIT_CODES[reason] else logging.INFO, "stopped, %s: %s", reason, message)
    return reason, message


def _finish(folder: Path, journal: Journal, dt: float, end: tuple[str, str, str, float]) -> Report:
    records = read_journal(folder / JOURNAL)
    reason, message, held, stop_seconds = end
    report = Report(
        reason=reason,
        message=message,
        steps=len(records),
        solved=int(records["solved"].sum()),
        total_reward=float(records["rewards"].sum()),
        held=held,
        stop_seconds=stop_seconds,
        timing=summarize(records["latency"], records["period"], dt),
    )
    try:
        journal.close()
        values = attrs.asdict(report) | {"exit_code": report.exit_code}
        write_text(folder / REPORT, json.dumps(values, indent=2) + "\n")
        if len(records):
            write_trace(folder / JOURNAL, folder / TRACE)
            plot(records["latency"], records["period"], dt, folder / PICTURE)
    # The exit code has to say why the robot stopped. A RuntimeError is h5py's of a file that it cannot finish.
    except (OSError, RuntimeError, KeyboardInterrupt) as error:
        LOG.error("%s: not all could be written: %s", folder, str(error) or "Ctrl-C, twice")
    return report
