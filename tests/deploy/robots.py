"""A fake Franka and a fake camera in other processes, for RoboHive's own drivers and environment."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"


class FakeFranka:
    """`config` is RoboHive's configuration for it; `entries` what it wrote down."""

    def __init__(self, folder, fault, after):
        self.log, self.config = folder / "robot.jsonl", folder / "robot.config"
        command = [sys.executable, HERE / "fake_robot.py", self.log, fault, str(after)]
        self.processes = []
        self.actuators = self._write_config(self._start(command))

    def _start(self, command):
        self.processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return f"127.0.0.1:{int(self.processes[-1].stdout.readline())}"

    def add_camera(self, name, fault="none"):
        """A camera that has its fault when the robot writes down its own."""
        address = self._start([sys.executable, HERE / "fake_camera.py", self.log, fault])
        config = eval(self.config.read_text())
        channel = {"hdr_id": "rgb", "scale": 1, "offset": 0, "name": "/color/image_raw"}
        config[name] = {
            "interface": {"type": "realsense", "rgb_topic": address},
            "sensor": [],
            "actuator": [],
        }
        config[name]["cam"] = [channel]
        self.config.write_text(repr(config))

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()

    def _write_config(self, address):
        import robohive

        shipped = Path(robohive.__file__).parent / "envs/arms/franka/assets/franka_reach_v0.config"
        config = {"franka": eval(shipped.read_text(), {"np": np})["franka"]}
        config["franka"]["interface"]["ip_address"] = address
        self.config.write_text(repr(config))
        return config["franka"]["actuator"]

    def entries(self, kind):
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [(line["time"], line[kind]) for line in lines if kind in line]

    def wait_for(self, kind):
        """Until there is an entry, which another process writes."""
        end = time.monotonic() + 30
        while not self.entries(kind):
            assert time.monotonic() < end, f"no {kind} in {self.log}"
            time.sleep(0.01)

    def commands(self):
        """What the policy's side sent, `[n, 7]`, in the simulator's units, and when."""
        times, sent = zip(*self.entries("command"), strict=True)
        offsets = np.array([actuator["offset"] for actuator in self.actuators])
        return np.array(times), np.array(sent) - offsets

    def limits(self):
        return np.array([actuator["pos_range"] for actuator in self.actuators]).T


@contextlib.contextmanager
def fake_franka(folder, fault="none", after=0):
    robot = FakeFranka(folder, fault, after)
    try:
        yield robot
    finally:
        robot.stop()
