import numpy as np

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.frames import Frames


def test_frames_repeat_the_first_and_drop_the_oldest():
    frames = Frames(PixelSpec(("a",), 1, 1, frames=3))
    seen = [frames.append(np.full((1, 1, 1, 3), value, np.uint8)) for value in (1, 2, 3, 4)]
    assert [stack[0, 0, 0, ::3].tolist() for stack in seen] == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_frames_of_one_time_replace_each_other():
    frames, now = Frames(PixelSpec(("a",), 1, 1, frames=3)), [(1, False), (2, True), (3, False), (4, True)]
    seen = [frames.append(np.full((1, 1, 1, 3), value, np.uint8), again=again) for value, again in now]
    assert [stack[0, 0, 0, ::3].tolist() for stack in seen] == [[1, 1, 1], [2, 2, 2], [2, 2, 3], [2, 2, 4]]
