"""A Franka that is seen, with episodes of three steps; apart from the tests so that workers import no torch."""

import attrs

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.robohive import RoboHive

PIXELS = PixelSpec(("left_cam", "top_cam"), 48, 64, "fast", depth=True)


def short_franka():
    env = RoboHive("FrankaReachRandom-v0", pixels=PIXELS)
    env._limit = 3
    return env


def stacked_franka():
    env = RoboHive("FrankaReachRandom-v0", pixels=attrs.evolve(PIXELS, frames=3))
    env._limit = 3
    return env
