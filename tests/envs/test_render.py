"""Images against RoboHive's own, bit for bit, and what it takes to draw them. Drivers are tried in fresh processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from torchrl.envs.utils import check_env_specs

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import RoboHive, make
from rlhive.envs.pixels import _own_pixels
from rlhive.envs.render import _renderers, choose_backend

AGAINST_ROBOHIVE = """
import sys
import numpy as np
from rlhive.envs import RoboHive
from rlhive.envs.importing import quiet

for name in sys.argv[1:]:
    env = RoboHive(name, seed=3)
    with quiet():
        import gymnasium
        reference = gymnasium.make(name, seed=0, disable_env_checker=True).unwrapped
    reference.np_random.bit_generator.state = np.random.PCG64(np.random.SeedSequence(3)).state
    observation, _ = env.reset(), reference.reset()
    action = np.random.default_rng(0).uniform(-1, 1, env.spec.action_dim).astype(np.float32)
    pixels, depth = np.empty(env.spec.pixels.shape, np.uint8), np.empty(env.spec.pixels.shape[:3], np.float32)
    for step in range(2):
        env.render(pixels, depth)
        seen = reference.get_exteroception()
        assert all(np.array_equal(a, seen[key]) for a, key in zip(pixels, reference.visual_keys, strict=True)), name
        assert pixels.std() > 10
        proprioception = reference.get_proprioception()[1]
        if proprioception is not None:
            assert np.array_equal(observation, proprioception.astype(np.float32)), name
        if step == 0:
            observation = env.step(action).observation
            reference.step(action)
    size = {"height": pixels.shape[1], "width": pixels.shape[2]}
    sensors = reference.robot.get_visual_sensors(
        **size, cameras=env.spec.pixels.cameras, device_id=0, sim=reference.sim_obsd
    )
    assert np.array_equal(depth, sensors[1].astype(np.float32)), name
    env.close()
"""
FRANKA = "FrankaReachRandom-v0"
SMALL = PixelSpec(("left_cam", "top_cam"), 48, 64, "fast")


def run(code, *arguments, gl=""):
    """Runs code in a fresh process, with MUJOCO_GL as in `gl`."""
    unset = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    env = {name: value for name, value in os.environ.items() if name not in unset} | {"MUJOCO_GL": gl}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("backend", "names"),
    [("egl", ["FrankaReachRandom_v2d-v0", "door_v2d-v1"]), ("osmesa", ["TrifingerReachRandom_v2d-v0"])],
)
def test_full_images_and_proprioception_are_robohives_own(backend, names):
    run(AGAINST_ROBOHIVE, *names, gl=backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", _own_pixels())
def test_full_images_of_every_id_are_robohives_own(name):
    run(AGAINST_ROBOHIVE, name, gl="egl")


def test_ids_without_proprioception_of_their_own_get_one():
    env = RoboHive("FrankaPickPlaceRandom_v2d-v0")
    assert env.spec.observation_keys == ("qp_robot", "qp_object", "qv_robot", "qv_object")
    assert env.reset(1).shape == (env.spec.observation_slices[-1][1],)
    env.close()
    assert RoboHive("TrifingerReachRandom_v2d-v0").spec.observation_keys == ("qp", "qv")


def test_id_with_an_encoder_is_built_without_it():
    env, plain = RoboHive("FrankaReachRandom_vr3m18-v0"), RoboHive("FrankaReachRandom_v2d-v0")
    assert env.spec.name == "FrankaReachRandom_vr3m18-v0"
    assert env.spec.observation_keys == ("qp_robot", "qv_robot")
    assert env.spec.observation_slices == ((0, 9), (9, 18))
    assert (env.spec.pixels, env.spec.observation_dim) == (plain.spec.pixels, plain.spec.observation_dim)
    assert np.array_equal(env.reset(2), plain.reset(2))


@pytest.mark.parametrize("quality", ["full", "fast"])
def test_images_change_nothing_else(quality):
    blind = RoboHive(FRANKA, seed=1)
    env = RoboHive(FRANKA, seed=1, pixels=PixelSpec(("top_cam",), 32, 32, quality))
    assert np.array_equal(env.reset(), blind.reset())
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 9)).astype(np.float32):
        env.render()
        assert all(map(np.array_equal, env.step(action), blind.step(action)))


def test_fast_images_show_the_same_scene():
    full = RoboHive(FRANKA, seed=1, pixels=PixelSpec(("left_cam",), 64, 64))
    fast = RoboHive(FRANKA, seed=1, pixels=PixelSpec(("left_cam",), 64, 64, "fast"))
    full.reset(), fast.reset()
    pair = [env.render().ravel().astype(float) for env in (full, fast)]
    assert 0.6 < np.corrcoef(pair)[0, 1] < 0.999


def test_images_lie_where_they_are_wanted():
    env = RoboHive(FRANKA, seed=1, pixels=SMALL)
    env.reset()
    many = np.zeros((3, *SMALL.shape), np.uint8)
    assert env.render(many[1]) is not None
    assert np.array_equal(many[1], env.render()) and not many[[0, 2]].any()


@pytest.mark.parametrize(
    ("name", "camera"),
    [(FRANKA, "left_cam"), ("baoding-v1", "cam0"), ("myoChallengeChaseTagP2-v0", "topview")],
)
def test_seed_fully_determines_images(name, camera):
    spec = PixelSpec((camera,), 64, 64, "fast")
    used, fresh = RoboHive(name, pixels=spec), RoboHive(name, pixels=spec)

    def images(env, seed):
        env.reset(seed)
        action = np.full(env.spec.action_dim, 0.3, np.float32)
        return [env.render(), *((env.step(action), env.render())[1] for _ in range(2))]

    before = images(used, 3)
    images(used, 4)
    assert np.array_equal(images(fresh, 3), before)
    assert np.array_equal(images(used, 3), before)


def test_environments_of_one_id_share_a_renderer_for_as_long_as_one_is_open():
    first, second = RoboHive(FRANKA, seed=1, pixels=SMALL), RoboHive(FRANKA, seed=2, pixels=SMALL)
    first.reset(), second.reset()
    alone = first.render()
    assert not np.array_equal(second.render(), alone)
    assert np.array_equal(first.render(), alone)
    assert len(_renderers) == 1
    first.close()
    assert len(_renderers) == 1
    second.close()
    assert len(_renderers) == 0


def test_unknown_camera_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="has no camera 'front'; it has left_cam, right_cam, top_cam"):
        RoboHive(FRANKA, pixels=PixelSpec(("front",), 64, 64))


def test_environment_without_images_says_how_to_get_them():
    with pytest.raises(RuntimeError, match=r"has no images: RoboHive\(…, pixels="):
        RoboHive(FRANKA).render()


def test_torchrl_environment_has_pixels_and_depth():
    settings = {"cameras": ["top_cam"], "image_size": (48, 64), "quality": "fast"}
    env = make(FRANKA, seed=1, from_pixels=True, depth=True, **settings)
    check_env_specs(env, check_dtype=True)
    rollout = env.rollout(2)
    assert rollout["pixels"].shape == (2, 1, 48, 64, 3)
    assert rollout["next", "depth"].shape == (2, 1, 48, 64) and (rollout["depth"] > 0).all()
    assert (rollout["pixels"][1] == rollout["next", "pixels"][0]).all()


def test_backend_is_the_first_that_works(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    assert choose_backend() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "")
    assert choose_backend() == os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere.json")
    assert choose_backend() == os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    with pytest.raises(
        RuntimeError, match=r"no GL backend can draw images here \(egl: ImportError.*doctor"
    ) as caught:
        choose_backend()
    assert "\n" not in str(caught.value)


def test_the_backend_is_spelled_as_mujoco_and_dm_control_want_it(monkeypatch):
    for given in ("EGL", " egl", "egl\n"):
        monkeypatch.setenv("MUJOCO_GL", given)
        assert choose_backend() == os.environ["MUJOCO_GL"] == "egl"
    for given in ("on", "TRUE", "1"):
        monkeypatch.setenv("MUJOCO_GL", given)
        assert choose_backend() == os.environ["MUJOCO_GL"] == "glfw"
    for given in ("nonsense", "wgl", "off", "false"):
        monkeypatch.setenv("MUJOCO_GL", given)
        with pytest.raises(
            ValueError, match=f"MUJOCO_GL must be egl, osmesa or glfw, or not set, got '{given}'"
        ):
            choose_backend()


@pytest.mark.parametrize(
    "given",
    [
        "off",
        " Glfw",
        *(pytest.param(value, marks=pytest.mark.slow) for value in ("osmesa", "0", "TRUE", " ")),
    ],
)
def test_without_images_all_will_do_that_both_take(given):
    run(
        "from rlhive.gl_backend import check_backend; check_backend(draws=False)\nimport mujoco, dm_control._render",
        gl=given,
    )


@pytest.mark.parametrize("backend", ["", "osmesa"])
def test_images_after_mujoco_was_imported_for_a_state_environment(backend):
    code = """
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import RoboHive
RoboHive("FrankaReachRandom-v0").reset()
env = RoboHive("FrankaReachRandom-v0", pixels=PixelSpec(("left_cam",), 32, 32, "fast"))
env.reset()
assert env.render().std() > 10
"""
    assert run(code, gl=backend) == ""  # nothing complains at the end, either, where all is open still
