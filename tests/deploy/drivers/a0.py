"""What RoboHive's RealSense uses of AlephZero, over UDP from `fake_camera.py`; a topic is "host:port"."""

import socket
import threading
from types import SimpleNamespace

ITER_NEWEST = None


class Subscriber:
    def __init__(self, topic, start, callback):
        host, port = topic.split(":")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, int(port)))
        self._socket.send(b"hello")
        threading.Thread(target=self._receive, args=(callback,), daemon=True).start()

    def _receive(self, callback):
        while True:
            stamp, _, payload = self._socket.recv(65536).partition(b"\n")
            callback(SimpleNamespace(headers=[("a0_time_wall", stamp.decode())], payload=payload))
