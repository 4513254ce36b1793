"""What RoboHive uses of vikashplus's driver of Dynamixels, which quits at a fault and switches the motors off."""

import sys

import dynamixel_functions
import numpy as np


class Motors:
    """What the motors are told; `places` by id is where they are, `before` is told of each call, and may fail."""

    def __init__(self, places):
        self.places, self.reads = places, 0
        self.commands, self.switched_off, self.before = [], [], lambda what: None


motors = Motors({})


class dxl:  # noqa: N801 - its name there
    def __init__(self, motor_id, motor_type, devicename):
        self.motor_id, self.group_desPos = motor_id, {}

    def open_port(self):
        motors.before("port")

    def okay(self):
        return True

    def set_operation_mode(self, motor_id, mode):
        pass

    def engage_motor(self, motor_id, enable):
        if not enable:
            motors.switched_off += motor_id

    def get_pos(self, motor_id):
        motors.before("positions")
        motors.reads += 1
        return np.array([motors.places[i] for i in motor_id]) + 1e-6 * (motors.reads % 3)

    def get_vel(self, motor_id):
        return np.zeros(len(motor_id))

    def set_des_pos(self, motor_id, positions):
        if self.group_desPos:
            self.close(motor_id)
            sys.exit()
        self.group_desPos.update(zip(motor_id, positions, strict=True))
        motors.before("command")
        motors.commands.append(list(positions))
        dynamixel_functions.groupSyncWriteClearParam(self.group_desPos)

    def close(self, motor_id):
        self.engage_motor(motor_id, False)
        return True

    def __del__(self):
        self.close(self.motor_id)
