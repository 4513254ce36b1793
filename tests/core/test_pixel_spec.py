import json

import attrs
import pytest

from rlhive.core.env_spec import EnvSpec
from rlhive.core.pixel_spec import PixelSpec

SPEC = PixelSpec(["left_cam", "top_cam"], 48, 64, "fast", depth=True)


def test_shape():
    assert SPEC.shape == (2, 48, 64, 3)


def test_no_cameras_are_no_images():
    assert PixelSpec((), 48, 64).shape == (0, 48, 64, 3)


def test_json_and_back():
    assert PixelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_env_spec_carries_it_through_json(franka_spec):
    spec = attrs.evolve(franka_spec, pixels=SPEC)
    assert EnvSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_env_spec_written_before_there_were_images_loads(franka_spec):
    old = franka_spec.to_dict()
    del old["pixels"]
    assert EnvSpec.from_dict(old) == franka_spec


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cameras": ("a", "a")}, "each named once; got a, a"),
        ({"quality": "best"}, "full or fast, got 'best'"),
        ({"height": 0}, "'height' must be >= 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PixelSpec(**{**SPEC.to_dict(), **wrong})
