"""A Franka in a process of its own: streams its state over UDP, obeys what it is sent, writes down all of it.

    python fake_robot.py LOG [FAULT AFTER_COMMANDS]

It prints its port. From the given command on it has the fault; each command and the fault are a line of JSON in LOG.
"""

import json
import os
import select
import socket
import sys
import time

RATE = 200.0  # states per second
START = [0.0, 0.0, 0.0, -1.57, 0.0, 1.57, 0.78]


class FakeRobot:
    def __init__(self, log, fault, after):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.log = open(log, "w", buffering=1)  # noqa: SIM115
        self.fault, self.after = fault, after
        self.client, self.commands, self.ticks = None, 0, 0
        self.position, self.target = list(START), list(START)
        self.sent = []

    def faulty(self, name):
        return self.fault == name and self.commands >= self.after

    def write(self, **entry):
        self.log.write(json.dumps({"time": time.time(), **entry}) + "\n")

    def receive(self):
        message, self.client = self.socket.recvfrom(65536)
        command = json.loads(message)
        if "q_desired" in command:
            self.target = command["q_desired"]
            self.commands += 1
            self.write(command=command["q_desired"])
            if self.commands == self.after:
                self.write(fault=self.fault)
        elif command.get("home"):
            self.target = list(START)
            self.write(home=True)

    def state(self):
        self.ticks += 1
        self.position = [p + 0.1 * (t - p) for p, t in zip(self.position, self.target, strict=True)]
        noise = 1e-6 * (self.ticks % 7)
        measured = [p + noise for p in self.position]
        state = {"time": time.time(), "joint_pos": measured, "joint_vel": [noise] * 7}
        if self.faulty("nan"):
            state["joint_pos"][2] = float("nan")
        if self.faulty("short"):
            state["joint_pos"].pop()
        if self.faulty("long"):
            state["joint_pos"].append(0.0)
        if self.faulty("late"):  # half a minute on its way, which no busy machine takes
            state["time"] -= 30.0
        if self.faulty("reordered"):
            state = dict(reversed(state.items()))
        if self.faulty("frozen"):
            state = {**self.sent[-1], "time": state["time"]}
        return state

    def run(self):
        while True:
            if select.select([self.socket], [], [], 1.0 / RATE)[0]:
                self.receive()
                continue
            if self.faulty("killed"):
                os._exit(9)
            if self.client is None or self.faulty("dropped"):
                continue
            state = self.state()
            self.sent.append(state)
            if self.faulty("lost") and self.ticks % 2:  # every other message
                continue
            self.socket.sendto(json.dumps(state).encode(), self.client)


if __name__ == "__main__":
    log, fault, after = [*sys.argv[1:], "none", "0"][:3]
    robot = FakeRobot(log, fault, int(after))
    sys.stdout.write(f"{robot.socket.getsockname()[1]}\n")
    sys.stdout.flush()
    robot.run()
