"""Several Traces as one."""

import json

import h5py
import numpy as np
import pytest

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec, camera_key
from rlhive.data import load_dataset
from rlhive.data.formats import episodes
from rlhive.data.h5 import datasets
from rlhive.data.join import join
from rlhive.data.trace import SEEN, read_environment, read_pixels, trace_file, write_trial
from tests.data.demo_files import demo_rows, write_roboset

IMAGES = PixelSpec(("top_cam",), 4, 4)
NAME = "FrankaReachRandom-v0"


def write_deployment(
    path, number, *, trials=1, environment=NAME, pixels=IMAGES, seen=IMAGES, dry_run=False, without=()
):
    """A Trace as a deployment leaves it."""
    with trace_file(path, environment, pixels) as file:
        file.attrs["dry_run"], file.attrs["deployment"] = dry_run, json.dumps({"run": number})
        for trial in range(trials):
            rows = demo_rows(number + trial, 6)
            rows["env_infos/solved"] = rows.pop("solved")
            for camera in seen.cameras:
                images = np.full((7, seen.height, seen.width, 3), number, np.uint8)
                rows[SEEN + camera_key(camera, seen)] = images
            write_trial(
                file, f"Trial{trial}", {key: rows[key] for key in rows if key not in without}, seed=number
            )
    return path


def test_deployments_become_one_data_set(tmp_path):
    one = write_deployment(tmp_path / "one.h5", 1)
    two = write_deployment(tmp_path / "two.h5", 2, trials=2)
    assert join([one, two], tmp_path / "both.h5") == 3
    both = list(episodes(tmp_path / "both.h5", "trace"))
    assert [episode.name for episode in both] == ["Trial0", "Trial1", "Trial2"]
    assert read_environment(tmp_path / "both.h5") == NAME and read_pixels(tmp_path / "both.h5") == IMAGES
    with h5py.File(tmp_path / "both.h5") as file, h5py.File(one) as first, h5py.File(two) as second:
        for name, trial in (("Trial0", first["Trial0"]), ("Trial2", second["Trial1"])):
            found = datasets(file[name], "here")
            assert found.keys() == datasets(trial, "here").keys()
            for key, item in found.items():
                assert np.array_equal(item[()], trial[key][()], equal_nan=item.dtype.kind == "f")
        assert [json.loads(trial.attrs["deployment"])["run"] for trial in file.values()] == [1, 2, 2]
        assert [bool(trial.attrs["dry_run"]) for trial in file.values()] == [False] * 3
        assert [int(trial.attrs["seed"]) for trial in file.values()] == [1, 2, 2]
        assert dict(file.attrs).keys() == {"environment", "pixels"}
    again = write_deployment(tmp_path / "again.h5", 3)
    assert join([tmp_path / "both.h5", again], tmp_path / "all.h5") == 4
    with h5py.File(tmp_path / "all.h5") as file:
        assert [json.loads(trial.attrs["deployment"])["run"] for trial in file.values()] == [1, 2, 2, 3]
    assert load_dataset(tmp_path / "all.h5", pixels=IMAGES).spec.steps == 24


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"environment": "door-v1"}, f"its environment: door-v1, there: {NAME}"),
        ({"environment": None}, f"its environment: None, there: {NAME}"),
        ({"pixels": PixelSpec(("top_cam",), 4, 4, "fast")}, "its images: .*fast.*, there: .*full"),
        ({"dry_run": True}, "two.h5: is of a dry run"),
        (
            {"without": ("rewards",)},
            r"two.h5: Trial0: has 6 observations and 3 actions per step, no rewards, rgb:.*, the first .*one.h5 has",
        ),
        ({"without": ("done",)}, "two.h5: Trial0: has no done"),
    ],
)
def test_what_cannot_be_joined(tmp_path, other, message):
    one, two = write_deployment(tmp_path / "one.h5", 1), write_deployment(tmp_path / "two.h5", 2, **other)
    with pytest.raises(LoadError, match=message):
        join([one, two], tmp_path / "both.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "two.h5"]


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (
            PixelSpec(("left_cam",), 4, 4),
            r"rgb:left_cam:4x4:2d \[4, 4, 3\], the first .* rgb:top_cam:4x4:2d \[4",
        ),
        (PixelSpec(("top_cam",), 6, 4), r"rgb:top_cam:6x4:2d \[6, 4, 3\], the first"),
        (PixelSpec(("top_cam", "left_cam"), 4, 4), "rgb:left_cam.*, rgb:top_cam.*, the first"),
    ],
)
def test_files_that_do_not_describe_their_images_are_compared_by_them(tmp_path, seen, message):
    nameless = {"environment": None, "pixels": None}
    one, same, other = (
        write_deployment(tmp_path / f"{name}.h5", 1, **nameless, seen=own)
        for name, own in (("one", IMAGES), ("same", IMAGES), ("other", seen))
    )
    assert join([one, same], tmp_path / "both.h5") == 2
    with pytest.raises(LoadError, match=message):
        join([one, other], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_parts_never_written_other_formats_and_too_few_files_are_refused(tmp_path):
    one, two = (write_deployment(tmp_path / f"{name}.h5", 1) for name in ("one", "two"))
    with h5py.File(two, "r+") as file:
        file["Trial0"].create_dataset("hole", (4, 4), "f8", chunks=(2, 4))
    with pytest.raises(LoadError, match=r"two\.h5: Trial0/hole: 2 of its parts were never written"):
        join([one, two], tmp_path / "both.h5")
    with pytest.raises(LoadError, match=r"set\.h5: is a roboset data set; only Traces can be joined"):
        join([one, write_roboset(tmp_path / "set.h5")], tmp_path / "both.h5")
    with pytest.raises(ValueError, match="expected at least two files to join, got 1"):
        join([one], tmp_path / "both.h5")
    with pytest.raises(ValueError, match=r"two\.h5: is there already"):
        join([one, one], two)
    assert not (tmp_path / "both.h5").exists()
