"""What RoboHive's FrankaArm uses of Polymetis's torchcontrol."""

from types import SimpleNamespace

import torch

PolicyModule = torch.nn.Module
modules = SimpleNamespace(JointSpacePD=lambda kp, kd: torch.nn.Module())
