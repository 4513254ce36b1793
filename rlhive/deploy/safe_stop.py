"""Brings the robot to a safe state once the policy has stopped: it holds the last action, or goes to a safe one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.deploy.robot import Robot
from rlhive.deploy.safety import EXIT_CODES, FaultError, limit_action
from rlhive.deploy.settings import Settings


class SafeStop:
    """Holds a robot after its loop has ended.

    Args:
        robot: the robot, as the loop left it.
        settings: the loop's settings.
        env: description of the policy's actions.

    Attributes:
        held_at: when the first action was sent for safety, `time.monotonic`; None before.
    """

    def __init__(self, robot: Robot, settings: Settings, env: EnvSpec) -> None:
        self._robot, self._settings, self._dt = robot, settings, env.dt
        self._low = np.asarray(env.action_low, np.float32)
        self._high = np.asarray(env.action_high, np.float32)
        self.held_at: float | None = None

    def hold(self, reason: str, received: Sequence[int]) -> str:
        """Brings the robot to the safe state; returns which one, or why it could not be reached.

        Once a signal is in `received`, the robot stays where it is, even on the way to the safe action.
        """
        if self._settings.dry_run:
            return "nothing, it was a dry run"
        if self._robot.last_action is None:
            return "nothing is known to have been sent"
        safe = self._settings.safe_action
        try:
            if safe is None or EXIT_CODES[reason] == 0 or received:
                return self._hold_last()
            try:
                return self._lead(np.asarray(safe, np.float32), received)
            except FaultError as fault:
                return f"{self._hold_last()}, the way to the safe action failed: {fault}"
        except FaultError as fault:
            return f"nothing could be sent: {fault}"

    def _hold_last(self) -> str:
        self._robot.hold()
        self.held_at = self.held_at or time.monotonic()
        return "last action"

    def _lead(self, target: np.ndarray, received: Sequence[int]) -> str:
        """Leads the robot to an action as fast as `max_delta` and its velocity limits allow, without its sensors.

        It first repeats the last command that is known to have been sent: a later one whose sending failed may have
        arrived, and a step from there could be too long.
        """
        most = np.minimum(self._robot.actuators.reach(), self._settings.max_delta or np.inf)
        before = self._robot.led_to()
        assert before is not None  # `hold` has checked
        self._hold_last()
        while True:
            time.sleep(self._dt)
            if received:
                return f"{self._hold_last()}, stopped on the way to the safe action"
            action = limit_action(target, before, self._low, self._high, most)
            self._robot.hold(action)
            if np.array_equal(action, before):
                reached = np.array_equal(action, target)
                return "safe action" if reached else "as near the safe action as vel_range lets it"
            before = action
