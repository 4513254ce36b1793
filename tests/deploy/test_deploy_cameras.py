"""The loop with a policy that sees: drawn as in training, or RoboHive's RealSense driver and a camera that fails."""

import itertools
import time
from types import SimpleNamespace

import attrs
import h5py
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.formats import episodes
from rlhive.data.trace import read_environment, read_pixels
from rlhive.deploy import Settings, connect, run, simulate
from rlhive.deploy.journal import read_journal, write_trace
from rlhive.deploy.safety import FaultError, ImageWatch
from rlhive.envs import cameras
from rlhive.envs.cameras import Image
from rlhive.envs.robohive import RoboHive, env_spec
from tests.deploy.fake_camera import SHAPE, image
from tests.deploy.robots import DRIVERS, fake_franka
from tests.helpers import files_up_to, make_pixel_policy

NAME = "FrankaReachRandom-v0"
AFTER = 8  # commands before the fault
PIXELS = PixelSpec(("top_cam", "left_cam"), 32, 40, "fast", frames=2)


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture(scope="module")
def simulated(installed, tmp_path_factory):
    """A policy, and where its deployment wrote to."""
    folder = tmp_path_factory.mktemp("simulated")
    policy = make_pixel_policy(attrs.evolve(installed, pixels=PIXELS))
    report = run(policy, simulate(NAME, 3, PIXELS), folder, Settings(max_steps=5))
    assert (report.reason, report.steps) == ("finished", 5)
    return policy, folder


def test_images_are_those_of_training_bit_for_bit(simulated):
    policy, folder = simulated
    records = read_journal(folder / "journal.bin")
    env = RoboHive(NAME, seed=3, pixels=PIXELS)
    observation = env.reset()
    for record in records:
        pixels = env.render()  # two frames, the newest last
        assert np.array_equal(record["pixels"], pixels[..., 3:])
        if np.isnan(record["actions"]).all():
            break
        action = policy({"observation": observation, "pixels": pixels})
        assert np.array_equal(record["policy_actions"], action)
        observation = env.step(record["actions"]).observation
    assert np.array_equal(record["observations"], observation)
    env.close()
    assert len(np.unique(records["pixels"][:, 0].reshape(6, -1), axis=0)) == 6


def test_trace_has_the_images_by_robohives_names(simulated):
    records = read_journal(simulated[1] / "journal.bin")
    with h5py.File(simulated[1] / "trace.h5") as file:
        images = file["Trial0/env_infos/visual_dict"]
        assert sorted(images) == ["rgb:left_cam:32x40:2d", "rgb:top_cam:32x40:2d", "time"]
        for index, name in enumerate(PIXELS.cameras):
            assert np.array_equal(images[f"rgb:{name}:32x40:2d"], records["pixels"][:, index])
        assert np.array_equal(images["time"], records["time"][:, None])
    [episode] = episodes(simulated[1] / "trace.h5", "trace")
    assert len(episode.actions) == 5
    assert read_environment(simulated[1] / "trace.h5") == NAME
    assert read_pixels(simulated[1] / "trace.h5") == attrs.evolve(PIXELS, frames=1)


def test_images_that_do_not_change_are_counted(simulated, tmp_path):
    report = run(simulated[0], simulate(NAME, 3, PIXELS), tmp_path, Settings(max_steps=2, dry_run=True))
    assert report.repeated_frames == {"top_cam": 2, "left_cam": 2}


def test_images_of_sixteen_bits_are_narrowed_for_the_driver_that_widens_them_alone():
    pixels = np.full((2, 2, 3), 7, np.uint16)
    shown = {"time": 0, "rgb": pixels, "d": None}
    widening = SimpleNamespace(get_sensors=lambda: shown, get_rgbd=None)
    other = SimpleNamespace(get_sensors=lambda: shown)
    images = cameras._read({"a": widening, "b": other})()
    assert images["a"].pixels.dtype == np.uint8 and np.array_equal(images["a"].pixels, pixels)
    assert images["b"].pixels.dtype == np.uint16  # which the loop refuses


def test_blind_policy_is_deployed(installed, tmp_path):
    pixels = PixelSpec((), 32, 32)
    policy = make_pixel_policy(attrs.evolve(installed, pixels=pixels))
    report = run(policy, simulate(NAME, 3, pixels), tmp_path, Settings(max_steps=2))
    assert (report.reason, report.steps) == ("finished", 2), report.message
    with h5py.File(tmp_path / "trace.h5") as file:
        assert "visual_dict" not in file["Trial0/env_infos"]


def test_journal_with_images_survives_a_cut(simulated, tmp_path):
    content = (simulated[1] / "journal.bin").read_bytes()
    (tmp_path / "journal.bin").write_bytes(content[:-100])
    assert write_trace(tmp_path / "journal.bin", tmp_path / "trace.h5") == (5, 4)
    record = len(read_journal(tmp_path / "journal.bin")[0].tobytes())
    assert 0 < record - 2 * 32 * 40 * 3 < 300  # what docs/deployment.md says of the size


def test_a_trace_on_a_full_disk_is_one_error_and_leaves_nothing(simulated, tmp_path, capfd):
    with files_up_to(20_000), pytest.raises(OSError, match=r"trace\.h5"):
        write_trace(simulated[1] / "journal.bin", tmp_path / "trace.h5")
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_full_disk_ends_in_the_safe_state(simulated, tmp_path):
    env = simulate(NAME, 3, PIXELS)
    sent, step = [], env.step
    env.step = lambda action: (sent.append(np.array(action)), step(action))[1]
    with files_up_to(20_000):  # two records and a part of the third
        report = run(simulated[0], env, tmp_path, Settings(max_steps=5))
    assert (report.reason, report.exit_code, report.held) == ("loop_failed", 17, "last action")
    assert "bytes could be written" in report.message
    assert np.array_equal(sent[-1], sent[-2]) and len(sent) == 4
    assert len(read_journal(tmp_path / "journal.bin")) == report.steps == 2


def test_image_watch():
    watch = ImageWatch((2, 2, 3), staleness=0.1, frozen=1.0)
    first, second = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    watch.check(0.0, {"a": Image(first, 0.05), "b": Image(first, np.nan)})
    watch.check(0.9, {"a": Image(second, 0.05), "b": Image(first, np.nan)})
    with pytest.raises(FaultError, match=r"camera b did not change in any bit for 1\.000 s") as frozen:
        watch.check(1.1, {"a": Image(second, 0.05), "b": Image(first, np.nan)})
    assert frozen.value.frozen_since == 0.0
    for shown, message in (
        (Image(None, np.nan), "camera a shows no image"),
        (Image(first[:1], 0.0), r"shows uint8 \[1, 2, 3\], expected uint8 \[2, 2, 3\]"),
        (Image(first.astype(np.float32), 0.0), "shows float32"),
        (Image(first, 0.2), r"is 0\.200 s old, more than 0\.100 s"),
        (
            Image(first, -9.0),
            r"the image of camera a is stamped 9\.000 s in the future: robot and computer must",
        ),
    ):
        with pytest.raises(FaultError, match=message):
            watch.check(1.2, {"a": shown})


@pytest.fixture(scope="module")
def seeing(installed):
    pixels = PixelSpec(("top_cam",), *SHAPE[:2], "fast")
    return make_pixel_policy(attrs.evolve(installed, pixels=pixels))


@pytest.fixture
def drivers(monkeypatch):
    monkeypatch.syspath_prepend(DRIVERS)


def deploy(policy, robot, folder, **settings):
    settings = {"max_steps": 3 * AFTER, "max_delta": 0.1, **settings}
    return run(policy, connect(NAME, robot.config), folder, Settings(**settings))


def assert_held(robot):
    """Nothing out of limits was sent, and the last action twice."""
    _, sent = robot.commands()
    low, high = robot.limits()
    assert np.isfinite(sent).all() and (sent >= low - 1e-6).all() and (sent <= high + 1e-6).all()
    assert np.array_equal(sent[-1], sent[-2])


def test_healthy_camera_is_seen_and_recorded(drivers, seeing, tmp_path):
    with fake_franka(tmp_path) as robot:
        robot.add_camera("top_cam")
        report = deploy(seeing, robot, tmp_path / "out", staleness=0.5)  # other processes may keep it waiting
        time.sleep(0.05)
        assert_held(robot)
    assert (report.reason, report.steps) == ("finished", 3 * AFTER)
    records = read_journal(tmp_path / "out/journal.bin")[:-1]
    sent = [image(number) for number in range(2000)]
    numbers = [
        next(number for number, pixels in enumerate(sent) if np.array_equal(pixels, record["pixels"][0]))
        for record in records
    ]
    assert numbers == sorted(numbers) and len(set(numbers)) > AFTER
    shown = read_journal(tmp_path / "out/journal.bin")["pixels"]
    repeated = sum(np.array_equal(new, old) for old, new in itertools.pairwise(shown))
    assert report.repeated_frames == {"top_cam": repeated}
    seen = {"observation": records["observations"][-1], "pixels": records["pixels"][-1]}
    assert np.array_equal(seeing(seen), records["policy_actions"][-1])


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("frozen", "sensors_frozen", "the image of camera top_cam did not change in any bit"),
        ("late", "sensors_stale", "the image of camera top_cam is "),
        ("dropped", "sensors_stale", "the image of camera top_cam is "),
        ("killed", "sensors_stale", "the image of camera top_cam is "),
        ("shape", "observation_wrong", "camera top_cam shows uint8 [24, 32, 3], expected uint8 [32, 32, 3]"),
        ("dtype", "observation_wrong", "camera top_cam shows float32 [32, 32, 3]"),
    ],
)
def test_faults_of_a_camera_end_in_the_last_action(drivers, seeing, tmp_path, caplog, fault, reason, message):
    with fake_franka(tmp_path, "camera", AFTER) as robot:
        robot.add_camera("top_cam", fault)
        staleness = None if reason == "sensors_stale" else 1.0  # other processes may keep it waiting
        report = deploy(seeing, robot, tmp_path / "out", frozen=0.3, staleness=staleness)
        time.sleep(0.05)
        assert_held(robot)
    assert (report.reason, AFTER <= report.steps < 2 * AFTER) == (reason, True), report
    assert message in report.message
    assert report.held == "last action"
    assert report.stop_seconds <= seeing.spec.env.dt
    told = "repeated images: {'top_cam': " in caplog.text
    assert told == (report.repeated_frames["top_cam"] > 0) and (told or fault != "frozen")


def test_camera_must_fit_before_anything_is_sent(drivers, seeing, tmp_path):
    with fake_franka(tmp_path) as robot:
        with pytest.raises(ValueError, match="camera top_cam: missing"):
            deploy(seeing, robot, tmp_path / "out")
        robot.wait_for("home")  # as the driver connects
        homes = len(robot.entries("home"))
        with pytest.raises(ValueError, match="the policy does not fit the robot: camera top_cam: missing"):
            connect(NAME, robot.config, policy=seeing)
        assert len(robot.entries("home")) == homes
        robot.add_camera("top_cam")
        other = attrs.evolve(seeing.spec.env, pixels=PixelSpec(("top_cam",), 24, 32, "fast"))
        env = connect(NAME, robot.config)
        lines = make_pixel_policy(other).check(env)
        assert lines == ["camera top_cam: images of [32, 32], but [24, 32] in training"]
        env.robot.robot_config["top_cam"]["cam"][0]["scale"] = 0.5
        with pytest.raises(ValueError, match="camera top_cam: its scale and offset must be 1 and 0"):
            run(seeing, env, tmp_path / "out", Settings(max_delta=0.1))
        assert robot.entries("command") == []


def test_policy_that_is_too_slow_is_a_fault(drivers, seeing, tmp_path):
    class Slow:
        spec, calls = seeing.spec, 0

        def check(self, robot):
            return seeing.check(robot)

        def act(self, observation, rest):
            self.calls += 1
            time.sleep(0.3 if self.calls > AFTER else 0.0)
            return seeing.act(observation, rest)

    with fake_franka(tmp_path) as robot:
        robot.add_camera("top_cam")
        report = deploy(Slow(), robot, tmp_path / "out")
        time.sleep(0.05)
        assert_held(robot)
    assert (report.reason, report.steps, report.held) == ("sensors_stale", AFTER, "last action")
    assert "the policy took 0.3" in report.message
