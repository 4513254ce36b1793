"""RoboSet against files of RoboHive's writer, and the conversion from a Trace."""

import h5py
import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import formats, roboset, trace
from rlhive.data.convert import convert
from rlhive.data.record import record
from tests.data.demo_files import read_all, write_roboset


def test_a_roboset_of_robohives_writer(tmp_path):
    path = write_roboset(tmp_path / "demo.h5")
    assert formats.detect(path) == "roboset"
    episode = read_all(path)[1]
    with h5py.File(path) as file:
        data = file["Trial1/data"]
        states = [data[name][:] for name in ("qp_arm", "qp_ee", "qv_arm")]
        assert np.array_equal(episode.observations, np.concatenate(states, 1).astype(np.float32))
        actions = np.concatenate([data["ctrl_arm"][:], data["ctrl_ee"][:]], 1)[:-1]
        assert np.array_equal(episode.actions, actions.astype(np.float32))
    assert len(episode) == 8 and episode.rewards is None and episode.success is None
    assert not episode.terminated.any() and len(episode.times) == 9


ARM_IMAGES = PixelSpec(("top_cam",), 4, 4, "fast")


def write_arm_trace(path):
    """A Trace of an arm as RoboSet describes it."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (5, 8))
    actions[-1] = np.nan
    infos = {"time": np.arange(5.0), "qp_arm": rng.normal(size=(5, 7)), "qp_ee": rng.normal(size=(5, 1))}
    values = {f"env_infos/obs_dict/{key}": value for key, value in infos.items()}
    values["env_infos/visual_dict/rgb:top_cam:4x4:2d"] = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    values |= {"actions": actions, "observations": rng.normal(size=(5, 8)), "rewards": np.zeros(5)}
    with trace.trace_file(path, "somewhere-v0", ARM_IMAGES) as file:
        trace.write_trial(file, "Trial0", values | {"done": np.zeros(5, bool)})
    return values


def test_from_trace_to_roboset(tmp_path):
    values = write_arm_trace(tmp_path / "arm.h5")
    assert convert(tmp_path / "arm.h5", tmp_path / "set.h5", "roboset") == (1, [])
    with h5py.File(tmp_path / "set.h5") as file:
        assert np.array_equal(file["Trial0/data/qp_arm"], values["env_infos/obs_dict/qp_arm"])
        assert np.array_equal(file["Trial0/data/rgb_top"], values["env_infos/visual_dict/rgb:top_cam:4x4:2d"])
    assert read_all(tmp_path / "set.h5")[0].actions.shape == (4, 8)
    assert trace.read_environment(tmp_path / "set.h5") == "somewhere-v0"
    assert trace.read_pixels(tmp_path / "set.h5") == ARM_IMAGES


def rewrite_arm(path, change):
    """The Trace of an arm after `change(trial)`, as a RoboSet; returns its episode."""
    write_arm_trace(path)
    with h5py.File(path, "r+") as file:
        change(file["Trial0"])
    out = path.with_name("set.h5")
    convert(path, out, "roboset")
    return read_all(out)[0]


def replace(trial, key, values):
    del trial[key]
    trial[key] = values


def test_an_arm_without_a_gripper_becomes_a_roboset_and_is_read_again(tmp_path):
    episode = rewrite_arm(
        tmp_path / "arm.h5", lambda trial: replace(trial, "actions", trial["actions"][:, :7])
    )
    with h5py.File(tmp_path / "arm.h5") as file:
        assert np.array_equal(episode.actions, file["Trial0/actions"][:-1].astype(np.float32))


def test_a_column_of_a_roboset_may_be_a_vector(tmp_path):
    """RoboHive squeezes what is one number per step, such as the opening of a gripper."""
    path = tmp_path / "arm.h5"
    key = "env_infos/obs_dict/qp_ee"
    episode = rewrite_arm(path, lambda trial: replace(trial, key, trial[key][:, 0]))
    assert episode.observations.shape == (5, 8)
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        assert np.array_equal(episode.observations[:, 7], file["Trial0/data/qp_ee"][:].astype(np.float32))
        replace(file["Trial0"], "data/ctrl_ee", file["Trial0/data/ctrl_ee"][:, 0])
    assert np.array_equal(read_all(tmp_path / "set.h5")[0].actions, episode.actions)
    assert roboset.columns(tmp_path / "set.h5", "Trial0") == {"qp_arm": 7, "qp_ee": 1}


@pytest.mark.slow
def test_the_arm_that_roboset_is_made_for_is_recorded_converted_and_read_again(tmp_path):
    record("rpFrankaRobotiqData-v0", "zero", 1, tmp_path / "arm.h5")
    convert(tmp_path / "arm.h5", tmp_path / "set.h5", "roboset")
    [episode] = read_all(tmp_path / "set.h5")
    assert episode.observations.shape == (51, 16) and episode.actions.shape == (50, 8)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (["front_cam"], "its camera front_cam has no place in a RoboSet.* record without this camera"),
        (
            ["top_left_cam"],
            "its camera top_left_cam fits both left and top in a RoboSet.* without this camera",
        ),
        (
            ["left_cam", "other_left_cam"],
            "rgb:left_cam:4x4:2d and rgb:other_left_cam:4x4:2d would both become the left images of a RoboSet"
            ".* record without one of them",
        ),
    ],
)
def test_cameras_that_a_roboset_would_lose_are_refused(tmp_path, cameras, message):
    def change(trial):
        for camera in cameras:
            trial[f"env_infos/visual_dict/rgb:{camera}:4x4:2d"] = np.zeros((5, 4, 4, 3), np.uint8)

    with pytest.raises(LoadError, match=f"Trial0: {message}$") as refused:
        rewrite_arm(tmp_path / "arm.h5", change)
    assert ", which has one left, " in str(refused.value) and "a Trace is trained on as it is" in str(
        refused.value
    )
    assert "minari" not in str(refused.value)  # which would lose all of them
    assert not (tmp_path / "set.h5").exists()


def test_the_depth_of_a_camera_goes_along_to_a_roboset(tmp_path):
    depth = "env_infos/visual_dict/d:top_cam:4x4:2d"
    rewrite_arm(tmp_path / "arm.h5", lambda trial: trial.__setitem__(depth, np.ones((5, 4, 4, 1))))
    with h5py.File(tmp_path / "set.h5") as file:
        assert {"rgb_top", "d_top"} <= set(file["Trial0/data"])


@pytest.mark.parametrize("values", [np.float64(0.5), np.zeros((3, 7))])
def test_a_roboset_is_made_of_data_sets_with_a_row_for_each_state(tmp_path, values):
    write_arm_trace(tmp_path / "arm.h5")
    with h5py.File(tmp_path / "arm.h5", "r+") as file:
        del file["Trial0/env_infos/obs_dict/qp_arm"]
        file["Trial0/env_infos/obs_dict/qp_arm"] = values
    with pytest.raises(LoadError, match=r"Trial0/env_infos/obs_dict/qp_arm: must have 5 rows, "):
        convert(tmp_path / "arm.h5", tmp_path / "set.h5", "roboset")
    assert not (tmp_path / "set.h5").exists()


def test_a_trace_of_another_robot_is_no_roboset(tmp_path):
    values = write_arm_trace(tmp_path / "arm.h5")
    other = {key.replace("/qp_", "/angle_"): value for key, value in values.items()}
    with trace.trace_file(tmp_path / "other.h5", None) as file:
        trace.write_trial(file, "Trial0", other | {"done": np.zeros(5, bool)})
    with pytest.raises(
        LoadError, match=r"Trial0: has no state that a RoboSet can hold.*; --to=minari takes"
    ) as refused:
        convert(tmp_path / "other.h5", tmp_path / "out.h5", "roboset")
    assert "skip_damaged" not in str(refused.value)
    with h5py.File(tmp_path / "arm.h5", "r+") as file:
        del file["Trial0/done"]
    with pytest.raises(LoadError, match=r"Trial0: has no done.*; leave such trials out with --skip_damaged"):
        convert(tmp_path / "arm.h5", tmp_path / "out.h5", "roboset")
