"""What `inspect` tells of files of episodes, damaged ones included, and the pictures of their frames."""

import json
import weakref

import h5py
import numpy as np
import pytest
from matplotlib.image import imread

from rlhive.core.errors import LoadError
from rlhive.data import load_dataset, minari, trace
from rlhive.data.convert import convert
from rlhive.data.inspection import draw_frames, format_trials, inspect, write_picture
from tests.data.demo_files import write_demo, write_roboset


def test_long_keys_leave_the_columns_in_line(tmp_path):
    path, key = write_demo(tmp_path / "demo.h5", trials=1), "env_infos/visual_dict/rgb:left_cam:240x424:2d"
    with h5py.File(path, "r+") as file:
        file["Trial0"].copy("rewards", key)
    lines = format_trials(path, *inspect(path)).splitlines()
    [head], [row] = ([line for line in lines if line.split()[:1] == [name]] for name in ("key", key))
    assert len(head) == len(row) and row.index("1 ", len(key)) == head.index("row")


def test_the_tables_of_a_trace_with_a_damaged_trial(tmp_path):
    path = write_demo(tmp_path / "demo.h5", trials=8)
    with h5py.File(path, "r+") as file:
        del file["Trial2/rewards"]
        file["Trial3/env_infos/state/qpos"][4, :2] = np.nan
        file["Trial4/time"][5:] += 1.0
    text = format_trials(path, *inspect(path))
    lines = text.splitlines()
    assert lines[0].endswith("trace, 7 trials of 70 steps, success 28.6%; 1 damaged")
    assert lines[3].split() == ["Trial0", "10", lines[3].split()[2], "no", "0", "0", "0"]
    assert "Trial2        damaged: " in text and "Trial2: has no rewards" in text
    assert lines[6].split()[3:] == ["no", "2", "0", "0"] and lines[7].split()[3:] == ["no", "0", "0", "1"]
    keys = {line.split()[0]: line.split()[1:] for line in lines[13:]}
    assert keys["observations"] == ["6", "float64", "8", "0", "0"] and keys["rewards"][2] == "7"
    assert keys["actions"][3] == "0" and keys["env_infos/state/qpos"][3] == "2"


def test_inspect_has_one_episode_in_memory_at_a_time(tmp_path, monkeypatch):
    path, alive = write_demo(tmp_path / "demo.h5", trials=5), weakref.WeakSet()
    read_episode = trace.read_episode

    def noted(*args, **settings):
        assert len(alive) < 2
        episode = read_episode(*args, **settings)
        alive.add(episode)
        return episode

    monkeypatch.setattr(trace, "read_episode", noted)
    _, trials = inspect(path)
    assert [trial.summary.steps for trial in trials] == [10] * 5 and not alive


@pytest.mark.parametrize(("steps", "period"), [(900, 0.0125), (2000, 0.04), (4000, 0.05), (10_000, 0.04)])
def test_a_clock_in_half_precision_has_no_gaps_of_its_rounding(tmp_path, steps, period):
    path = write_clock(tmp_path / "half.h5", (period * np.arange(steps + 1)).astype(np.float16))
    _, [trial] = inspect(path)
    assert trial.summary.steps == steps and trial.summary.gaps == 0
    convert(path, tmp_path / "half-v0", "minari")
    _, [trial] = inspect(tmp_path / "half-v0")
    assert trial.summary.gaps == 0


def write_clock(path, times):
    """A Trace of one trial with these times."""
    rows = len(times)
    values = {"observations": np.zeros((rows, 1)), "actions": np.zeros((rows, 1)), "rewards": np.zeros(rows)}
    values["actions"][-1] = np.nan
    with trace.trace_file(path, None) as file:
        trace.write_trial(file, "Trial0", values | {"done": np.zeros(rows, bool), "time": times})
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gaps_of_a_clock_are_found_in_every_precision(tmp_path, dtype):
    times = np.arange(41, dtype=np.float64)
    times[10:] -= 1  # stands still
    times[20:] -= 2  # runs back
    times[30:] += 2  # jumps
    for clock, gaps in ((times, 3), (np.zeros(41), 40)):
        _, [trial] = inspect(write_clock(tmp_path / "demo.h5", clock.astype(dtype)))
        assert trial.summary.gaps == gaps


def test_a_clock_in_double_precision_is_not_rounded_whatever_its_numbers(tmp_path):
    times = 32.0 + np.array([0, 1, 2, 3, 5, 6]) / 32  # all fit half precision
    _, [trial] = inspect(write_clock(tmp_path / "demo.h5", times))
    assert trial.summary.gaps == 1


def test_inspect_calls_a_trial_of_other_widths_damaged_as_training_does(tmp_path):
    path = write_demo(tmp_path / "demo.h5")
    with h5py.File(path, "r+") as file:
        values = file["Trial1/observations"][:, :4]
        del file["Trial1/observations"]
        file["Trial1/observations"] = values
    text = format_trials(path, *inspect(path))
    assert text.splitlines()[0].endswith("trace, 2 trials of 20 steps, success 0.0%; 1 damaged")
    with pytest.raises(LoadError) as refused:
        load_dataset(path)
    reason = f"{path}: Trial1: has 4 observations and 3 actions per step, Trial0 has 6 and 3"
    assert f"Trial1        damaged: {reason}\n" in text and str(refused.value).startswith(reason)


def test_the_keys_of_a_minari_that_training_refuses_as_a_whole_are_shown_with_the_reason(tmp_path):
    path = tmp_path / "demo-v0"
    convert(write_demo(tmp_path / "demo.h5", trials=2), path, "minari")
    metadata = json.loads((path / minari.METADATA).read_text()) | {"action_space": '{"type": "Discrete"}'}
    (path / minari.METADATA).write_text(json.dumps(metadata))
    with pytest.raises(LoadError) as refused:
        load_dataset(path)
    lines = format_trials(path, *inspect(path)).splitlines()
    assert lines[0] == f"{path}: minari, 0 trials of 0 steps; 2 damaged"
    assert lines[3:5] == [f"episode_{number:<6}damaged: {refused.value}" for number in range(2)]
    assert ["actions", "3", "float32", "2", "0", "0"] in [line.split() for line in lines]


def test_the_picture_of_a_roboset(tmp_path):
    path = write_roboset(tmp_path / "set.h5", trials=2, steps=8, size=6)
    assert "roboset, 2 trials of 16 steps" in format_trials(path, *inspect(path))
    labels, drawn = draw_frames(path)
    assert labels == ["Trial0 data/rgb_left", "Trial1 data/rgb_left"]
    write_picture(tmp_path / "frames.png", drawn)
    picture = (imread(tmp_path / "frames.png")[..., :3] * 255).round().astype(np.uint8)
    assert picture.shape == (12, 48, 3)
    with h5py.File(path) as file:
        assert np.array_equal(picture[:6, :6], file["Trial0/data/rgb_left"][0])
        assert np.array_equal(picture[6:, -6:], file["Trial1/data/rgb_left"][-1])
    with pytest.raises(ValueError, match="has no frames to draw"):
        draw_frames(write_demo(tmp_path / "demo.h5"))


def test_inspect_reads_no_other_file(tmp_path):
    path, other = write_roboset(tmp_path / "set.h5", trials=2), tmp_path / "other.bin"
    other.write_bytes(np.zeros(9 * 7 * 7 * 3).tobytes())
    with h5py.File(path, "r+") as file:
        for key, shape, dtype in (("qp_arm", (9, 7), "f8"), ("rgb_left", (9, 6, 6, 3), "u1")):
            del file[f"Trial0/data/{key}"]
            file["Trial0/data"].create_dataset(key, shape, dtype, external=[(str(other), 0, 1 << 12)])
    text = format_trials(path, *inspect(path))
    assert "Trial0        damaged: " in text and "qp_arm: keeps its data in other files" in text
    assert "unreadable in 1" in next(line for line in text.splitlines() if line.startswith("data/qp_arm"))
    assert draw_frames(path)[0] == ["Trial1 data/rgb_left"]
    with h5py.File(path, "r+") as file:
        del file["Trial1"]
    with pytest.raises(LoadError, match="Trial0/data/rgb_left: keeps its data in other files"):
        draw_frames(path)


def test_the_picture_is_of_the_first_intact_trials(tmp_path):
    path = write_roboset(tmp_path / "set.h5", trials=10, steps=2)
    with h5py.File(path, "r+") as file:
        for name in ("Trial0", "Trial9"):
            del file[name]
            file[name] = np.zeros(3)
    labels, picture = draw_frames(path)
    assert labels == [f"Trial{number} data/rgb_left" for number in range(1, 9)]
    assert picture.shape == (8 * 6, 3 * 6, 3)
