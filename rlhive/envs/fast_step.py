"""Faster versions of RoboHive's slowest per-step methods, equal bit for bit, and a step that Ctrl-C can end.

RoboHive reads sensors and limits actuators one number at a time, and copies the whole simulator state into `info`
after each step. For the Franka that is a fifth of the step; everything else stays RoboHive's own code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def speed_up(env: Any) -> None:
    """Replace slow methods of `env` and its robot by faster ones where these apply, and let Ctrl-C end a step."""
    from robohive.envs.env_base import MujocoEnv

    for scene in (env.sim, env.sim_obsd):  # one object or two
        _let_interrupt(scene)
    if type(env).get_env_infos is MujocoEnv.get_env_infos:
        env.get_env_infos = lambda: _infos(env.rwd_dict)
    robot = env.robot
    simulated = not robot.is_hardware and "default_robot" not in robot.robot_config
    if simulated and robot._act_mode == "pos":
        robot.process_actuator = _actuator_limits(robot)
    if simulated and robot._noise_scale == 0:
        robot.get_sensors = _sensor_reading(robot)
        robot.sensor2sim = _sensor_writing(robot)


def _let_interrupt(scene: Any) -> None:
    """Let Ctrl-C end a step of `scene`; RoboHive would take it for a failed step, reset the simulator and go on."""
    from robohive.physics.mj_sim_scene import DMSimScene
    from robohive.utils.prompt_utils import Prompt, prompt

    def advance(substeps: int = 1, render: bool = True) -> None:
        try:
            scene.sim.step(substeps)
        except Exception:  # RoboHive has a bare except; the rest is the same
            prompt("Simulation couldn't be stepped as intended. Issuing a reset", type=Prompt.WARN)
            scene.sim.reset()
        if render:
            scene.renderer.render_to_window()

    if type(scene).advance is DMSimScene.advance:
        scene.advance = advance


def _infos(rewards: dict[str, Any]) -> dict[str, Any]:
    """The part of `info` that is read, by RoboHive's own step and by `RoboHive.step`."""
    infos = {f"rwd_{key}": rewards[key][()] for key in ("dense", "sparse")}
    return infos | {key: rewards[key][()] for key in ("solved", "done")}


def _actuator_limits(robot: Any) -> Callable[..., np.ndarray]:
    """`Robot.process_actuator` for position control: unnormalise, then limit velocities, then positions."""
    actuators = [actuator for device in robot.robot_config.values() for actuator in device["actuator"]]
    control_ids = np.array([actuator["sim_id"] for actuator in actuators], dtype=int)
    state_ids = np.array([actuator["data_id"] for actuator in actuators], dtype=int)
    low, high = np.array([actuator["pos_range"] for actuator in actuators], dtype=float).T
    slowest, fastest = np.array([actuator["vel_range"] for actuator in actuators], dtype=float).T
    middle, width = (high + low) / 2.0, high - low

    # `limits` is ignored: RoboHive's step always asks for both limits, in the order of the simulator.
    def process_actuator(
        controls: np.ndarray, step_duration: float, normalized: bool, **limits: Any
    ) -> np.ndarray:
        desired = controls[control_ids].astype(np.float64)
        if normalized:
            desired = middle + desired * width / 2.0
        last = robot.sim.data.qpos[state_ids]
        velocity = ((desired - last) / step_duration).clip(slowest, fastest)
        processed = controls.copy()
        processed[control_ids] = (last + velocity * step_duration).clip(low, high)
        return processed

    return process_actuator


def _sensor_reading(robot: Any) -> Callable[[], dict[str, Any]]:
    """`Robot.get_sensors` without noise: readings clipped to each sensor's range."""
    plans = []
    for name, device in robot.robot_config.items():
        ids = np.array([sensor["sim_id"] for sensor in device["sensor"]], dtype=int)
        ranges = np.array([sensor["range"] for sensor in device["sensor"]], dtype=float).reshape(-1, 2)
        plans.append((name, device, ids, ranges[:, 0], ranges[:, 1]))

    def get_sensors() -> dict[str, Any]:
        data = robot.sim.data
        values, now = data.sensordata, data.time
        reading: dict[str, Any] = {"time": now}
        for name, device, ids, low, high in plans:
            reading[name] = values[ids].clip(low, high)
            device["sensor_data"], device["sensor_time"] = reading[name], now
        robot._sensor_cache.append(reading)
        robot.time_wall = time.time() - robot.time_start
        return reading

    return get_sensors


def _sensor_writing(robot: Any) -> Callable[..., None]:
    """`Robot.sensor2sim` without noise: the readings become the state of the observed simulator."""
    plans = []
    for name, device in robot.robot_config.items():
        for field in ("qpos", "qvel"):
            rows = [row for row, sensor in enumerate(device["sensor"]) if sensor["data_type"] == field]
            ids = [device["sensor"][row]["data_id"] for row in rows]
            if rows:
                plans.append((name, field, np.array(rows), np.array(ids)))

    def sensor2sim(reading: dict[str, Any], sim: Any) -> None:
        sim.data.time = reading["time"]
        for name, field, rows, ids in plans:
            getattr(sim.data, field)[ids] = reading[name][rows]
        sim.forward()

    return sensor2sim
