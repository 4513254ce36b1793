"""What RoboHive's FrankaArm uses of Polymetis, spoken to `fake_robot.py`; `ip_address` is "host:port"."""

import json
import select
import socket
from types import SimpleNamespace

import torch


class RobotInterface:
    def __init__(self, ip_address, enforce_version):
        host, port = ip_address.split(":")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, int(port)))
        self._state = None
        self.metadata = SimpleNamespace(default_Kq=[40.0] * 7, default_Kqd=[4.0] * 7)
        self._send(hello=True)

    def _send(self, **message):
        self._socket.send(json.dumps(message).encode())

    def _latest(self):
        timeout = 2.0 if self._state is None else 0.0
        while select.select([self._socket], [], [], timeout)[0]:
            self._state = json.loads(self._socket.recv(65536))
            timeout = 0.0
        if self._state is None:
            raise ConnectionError("no state arrives")
        return self._state

    def get_robot_state(self):
        seconds, nanos = divmod(int(1e9 * self._latest()["time"]), 10**9)
        return SimpleNamespace(timestamp=SimpleNamespace(seconds=seconds, nanos=nanos))

    def get_joint_positions(self):
        return torch.tensor(self._latest()["joint_pos"])

    def get_joint_velocities(self):
        return torch.tensor(self._latest()["joint_vel"])

    def is_running_policy(self):
        return False

    def go_home(self, time_to_go):
        self._send(home=True)

    def send_torch_policy(self, policy, blocking):
        pass

    def update_current_policy(self, update):
        self._send(**{name: value.tolist() for name, value in update.items()})

    def terminate_current_policy(self):
        self._send(terminated=True)
