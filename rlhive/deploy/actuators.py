"""The actuators in a robot's configuration: their positions, what actions mean to them, what they may be sent next."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhive.deploy.drivers import actuators


class Actuators:
    """The `n` configured actuators of a live RoboHive environment, in their units; none without a configuration.

    Args:
        env: the environment, unwrapped.
        action_dim: size of an action, which may have more entries than there are actuators.
        max_delta: the most that an action may change per period; None for no limit.

    Attributes:
        act_mode: "pos" or "vel": whether actions are positions or velocities.
        ids: index of each actuator in an action.
        low: lower limits, `[n]`.
        high: upper limits, `[n]`.
    """

    def __init__(self, env: Any, action_dim: int, max_delta: float | None) -> None:
        config = env.robot.robot_config
        self._known = [] if "default_robot" in config else actuators(config)
        self._robot, self._action_dim = env.robot, action_dim
        self._is_normalized = bool(env.normalize_act)
        self.act_mode: str = env.robot._act_mode
        self.ids = [actuator["sim_id"] for actuator in self._known]
        self.low, self.high = self._column("pos_range")
        self._back, self._forth = self._column("vel_range") * env.dt
        self._most = np.full(len(self.ids), np.inf)
        if self.act_mode == "pos" and max_delta is not None:
            low, high = self._of_actions()
            self._most = max_delta * (high - low) / 2

    def measured(self) -> np.ndarray:
        """Their positions `[n]`, as RoboHive last read them."""
        data = self._robot.sim.data
        return np.array([getattr(data, a["data_type"])[a["data_id"]] for a in self._known], float)

    def by_name(self) -> dict[str, float]:
        """The position of each, by its name."""
        return dict(zip(self._names(), self.measured().tolist(), strict=True))

    def limits_by_name(self) -> dict[str, tuple[float, float, float]]:
        """Lower limit, upper limit and the furthest that `vel_range` lets it move in a period, by its name."""
        fastest = np.maximum(np.abs(self._back), np.abs(self._forth))
        values = zip(self.low.tolist(), self.high.tolist(), fastest.tolist(), strict=True)
        return dict(zip(self._names(), values, strict=True))

    def limit(self, told: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The command `[n]`, no further from the one before it than `vel_range` and `max_delta` allow.

        RoboHive's own limit is relative to the measured position, so a wrong measurement would lead it astray.
        """
        back = np.maximum(np.minimum(self._back, 0.0), -self._most)
        forth = np.minimum(np.maximum(self._forth, 0.0), self._most)
        return np.clip(told, before + back, before + forth)

    def as_action(self, values: np.ndarray) -> np.ndarray | None:
        """The action `[A]` for these positions or velocities `[n]`, NaN for entries without a configured actuator.

        None if no actuators are configured.
        """
        if not self._known:
            return None
        low, high = self._of_actions()
        action = np.full(self._action_dim, np.nan)
        action[self.ids] = (2 * values - high - low) / (high - low)
        return action

    def reach(self) -> np.ndarray:
        """The furthest that `vel_range` lets an action be from the one before it, `[A]`."""
        reach = np.full(self._action_dim, np.inf)
        if self.act_mode == "pos":
            low, high = self._of_actions()
            slower = np.maximum(0.0, np.minimum(-self._back, self._forth))
            reach[self.ids] = slower / ((high - low) / 2)
        return reach

    def _of_actions(self) -> np.ndarray:
        """What actions of -1 and 1 mean, `[2, n]`; actions that are not normalised mean themselves."""
        if self._is_normalized:
            return self._column(f"{self.act_mode}_range")
        return np.array([[-1.0], [1.0]]).repeat(len(self.ids), axis=1)

    def _names(self) -> list[str]:
        return [actuator["name"] for actuator in self._known]

    def _column(self, key: str) -> np.ndarray:
        """Both ends of a range of each actuator, `[2, n]`."""
        return np.array([actuator[key] for actuator in self._known], float).reshape(-1, 2).T
