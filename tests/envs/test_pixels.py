import re

import gymnasium
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import list_names
from rlhive.envs.importing import quiet
from rlhive.envs.names import built_name, check_name, encoder_of
from rlhive.envs.pixels import choose_pixels, model_cameras, own_pixels


def test_own_images_are_those_that_robohive_registers():
    with quiet():
        import robohive  # noqa: F401
    visual = [name for name in list_names() if re.search(r"_v(2d|r3m\d\d|rrl\d\d|vc1\w)-v\d$", name)]
    assert len(visual) == 521 - 438
    for name in visual:
        keys = gymnasium.spec(name).kwargs["visual_keys"]
        own, encoder = own_pixels(name), encoder_of(name) or "2d"
        assert keys == [f"rgb:{camera}:{own.height}x{own.width}:{encoder}" for camera in own.cameras]
    assert not [name for name in list_names() if name not in visual and own_pixels(name)]


@pytest.mark.parametrize(
    ("name", "encoder", "built"),
    [
        ("FrankaReachRandom_vr3m18-v0", "r3m18", "FrankaReachRandom_v2d-v0"),
        ("door_vrrl50-v1", "rrl50", "door_v2d-v1"),
        ("FK1_LightOnRandom_vflat-v4", "flat", "FK1_LightOnRandom_v2d-v4"),
        ("FrankaReachRandom_v2d-v0", None, "FrankaReachRandom_v2d-v0"),
        ("FrankaReachRandom-v0", None, "FrankaReachRandom-v0"),
    ],
)
def test_encoder_in_a_name(name, encoder, built):
    check_name(name)
    assert encoder_of(name) == encoder
    assert built_name(name) == built


@pytest.mark.parametrize("name", ["FrankaReachRandom_vr3m19-v0", "FrankaReachFixed_vr3m18-v0"])
def test_encoder_that_is_none_or_without_cameras_is_unknown(name):
    with pytest.raises(ValueError, match="did you mean"):
        check_name(name)


def test_own_images_and_what_replaces_parts_of_them():
    name = "FrankaReachRandom_v2d-v0"
    own = PixelSpec(("left_cam", "right_cam", "top_cam"), 224, 224)
    assert choose_pixels(name) == own_pixels(name) == own_pixels("FrankaReachRandom_vr3m34-v0") == own
    assert choose_pixels(name, quality="fast") == PixelSpec(own.cameras, 224, 224, "fast")
    assert choose_pixels(name, cameras=["top_cam"], image_size=64) == PixelSpec(("top_cam",), 64, 64)
    assert choose_pixels(name, image_size=(48, 64), depth=True) == PixelSpec(own.cameras, 48, 64, depth=True)


def test_images_of_a_state_environment():
    name = "FrankaReachRandom-v0"
    assert choose_pixels(name) is None
    wanted = choose_pixels(name, from_pixels=True, cameras=["top_cam"], image_size=64, quality="fast")
    assert wanted == PixelSpec(("top_cam",), 64, 64, "fast")


def test_the_cameras_of_every_model_are_known():
    for name in list_names():
        own = own_pixels(name)
        assert all(model_cameras(name)) and set(own.cameras if own else ()) <= set(model_cameras(name)), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"from_pixels": True}, "needs cameras and an image_size, got cameras=None"),
        ({"from_pixels": True, "cameras": ["top_cam"]}, "needs cameras and an image_size"),
        ({"cameras": ["top_cam"], "image_size": 64}, "from_pixels=True adds them"),
        ({"quality": "fast"}, "from_pixels=True adds them"),
        ({"from_pixels": True, "cameras": "top_cam", "image_size": 64}, "must be a list of names"),
        (
            {"from_pixels": True, "cameras": ["top_cam", "front"], "image_size": 64},
            "has no camera 'front'; it has left_cam, right_cam, top_cam, Franka_wrist_cam",
        ),
    ],
)
def test_images_that_are_not_said_in_full_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        choose_pixels("FrankaReachRandom-v0", **settings)
