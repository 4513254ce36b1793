"""A RealSense in a process of its own: streams images over UDP, and has its fault once the robot's log says so.

    python fake_camera.py LOG FAULT

It prints its port. Image i is `image(i)`, in RoboHive's own messages.
"""

import datetime
import importlib.util
import os
import site
import socket
import sys
import time
from pathlib import Path

import numpy as np

RATE = 30.0  # images per second
SHAPE = (32, 32, 3)


def image(number):
    return np.random.default_rng(number).integers(256, size=SHAPE, dtype=np.uint8)


def packet(messages, pixels, when):
    message = messages.Image.new_message()
    message.height, message.width, _ = pixels.shape
    message.encoding, message.step = str(pixels.dtype), pixels.strides[0]
    message.data = pixels.tobytes()
    stamp = datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{stamp}000-00:00\n".encode() + message.to_bytes()


def stream(messages, own, client, log, fault):
    number = 0
    while True:
        time.sleep(1.0 / RATE)
        faulty = '"fault"' in log.read_text()
        if faulty and fault == "killed":
            os._exit(9)
        if faulty and fault == "dropped":
            continue
        number += not (faulty and fault == "frozen")
        when = time.time()
        pixels = image(number)
        if faulty and fault == "late":
            when -= 0.5
        if faulty and fault == "shape":
            pixels = pixels[:24]
        if faulty and fault == "dtype":
            pixels = pixels.astype(np.float32)
        own.sendto(packet(messages, pixels, when), client)


if __name__ == "__main__":
    import capnp

    schema = Path(importlib.util.find_spec("robohive").origin).parent / "robot/capnp/sensor_msgs.capnp"
    messages = capnp.SchemaParser().load(str(schema), imports=site.getsitepackages())
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{own.getsockname()[1]}\n")
    sys.stdout.flush()
    stream(messages, own, own.recvfrom(64)[1], Path(sys.argv[1]), sys.argv[2])
