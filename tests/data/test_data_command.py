"""`python -m rlhive.data` with real environments, in real processes where that is what is tested."""

import re
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from matplotlib.image import imread

from rlhive.core.errors import LoadError
from rlhive.data import __main__ as data_command
from rlhive.data import load_dataset
from rlhive.data.convert import convert
from rlhive.data.playback import format_drifts, replay
from tests.data.demo_files import write_demo, write_roboset

FRANKA = "FrankaReachRandom-v0"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.data", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to do, one of record, inspect, convert, replay, join"),
        (("inspekt", "x"), "there is no task 'inspekt': did you mean inspect?"),
        (("inspect",), "inspect takes FILE, got nothing"),
        (("inspect", "nowhere.h5"), "nowhere.h5: there is no such file"),
        (("record", "out.h5", "--policy=zero"), "--env must be given; see --help"),
        (
            ("record", "out.h5", "--env=FrankaReach", "--policy=zero"),
            "is not an environment of RoboHive: did you mean",
        ),
        (
            ("record", "out.h5", f"--env={FRANKA}", "--policy=nowhere"),
            "--policy=nowhere: must be random, zero, or",
        ),
        (("record", "out", f"--env={FRANKA}", "--policy=zero"), "out: must be a new name ending in .h5"),
        (
            ("record", "out.h5", f"--env={FRANKA}", "--policy=zero", "--quality=fast"),
            f"{FRANKA} has no images of its own: give both --cameras and --image_size",
        ),
        (
            ("record", "out.h5", f"--env={FRANKA}", "--policy=zero", "--cameras=top_cam"),
            f"{FRANKA} has no images of its own: give both --cameras and --image_size",
        ),
        (("join", "a.h5", "b.h5"), "join takes FILE FILE... OUT.h5, got a.h5 b.h5; see --help"),
        (("convert", "a", "b"), "--to must be given; see --help"),
        (("convert", "a", "b", "--to=csv"), "flag --to=csv: value should be one of"),
        (("replay", "x.h5", "--out=no/such/place.h5"), "no/such/place.h5: must be a new name ending in .h5"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.startswith("rlhive.data: ")
    assert result.stderr.count("\n") == 1 and not result.stdout


def test_help_and_inspect_need_no_torch(tmp_path):
    path = write_demo(tmp_path / "demo.h5")
    for arguments in (("--help",), ("record", "--help"), ("inspect", str(path))):
        start = [sys.executable, "-X", "importtime", "-m", "rlhive.data", *arguments]
        result = subprocess.run(start, capture_output=True, text=True)
        assert "record" in result.stdout or "3 trials" in result.stdout
        assert " torch\n" not in result.stderr and " robohive" not in result.stderr


def test_actions_played_again_lead_to_the_same_observations(recorded, tmp_path):
    again = tmp_path / "again.h5"
    drifts = replay(recorded, out=again)
    assert [drift.steps for drift in drifts] == [50] * 3
    assert all(drift.largest.max() == 0.0 for drift in drifts)
    assert [drift.logged_return for drift in drifts] == pytest.approx(
        [drift.played_return for drift in drifts]
    )
    with h5py.File(recorded) as one, h5py.File(again) as other:
        assert np.array_equal(one["Trial2/observations"], other["Trial2/observations"])
        assert np.array_equal(one["Trial2/env_infos/state/qpos"], other["Trial2/env_infos/state/qpos"])


def test_only_a_trace_can_be_played_again(recorded, tmp_path):
    convert(recorded, tmp_path / "demo-v0", "minari")
    for path in (tmp_path / "demo-v0", write_roboset(tmp_path / "set.h5")):
        for env_name in (None, FRANKA):
            with pytest.raises(
                LoadError, match="only a Trace with states, as record writes it, can be replayed"
            ):
                replay(path, env_name)
    with pytest.raises(LoadError, match=r"nowhere.h5: there is no such file"):
        replay(tmp_path / "nowhere.h5", FRANKA)


def test_drift_of_a_file_of_half_precision_and_of_other_actions(recorded, tmp_path):
    path = tmp_path / "half.h5"
    path.write_bytes(recorded.read_bytes())
    with h5py.File(path, "r+") as file:
        for key in ("qpos", "qvel"):
            values = file[f"Trial0/env_infos/state/{key}"][:].astype(np.float16)
            del file[f"Trial0/env_infos/state/{key}"]
            file[f"Trial0/env_infos/state/{key}"] = values
        file["Trial1/actions"][20:22] = 1.0
    half, other, same = replay(path)
    assert half.half_precision and 1e-5 < half.largest[0] < 2e-2
    assert not other.largest[:21].any() and other.largest[-1] > 1e-3
    assert not same.largest.any() and not same.half_precision
    assert "logged as float16" in format_drifts([half, other, same])


def test_what_cannot_be_played_again(recorded, tmp_path):
    with pytest.raises(
        ValueError, match="does not say which environment it was recorded in: name it with --env"
    ):
        replay(write_demo(tmp_path / "demo.h5"))
    with pytest.raises(ValueError, match="Trial0 has 3 actions per step, FrankaReachRandom-v0 has 9"):
        replay(tmp_path / "demo.h5", FRANKA)
    with pytest.raises(
        ValueError, match=r"the logged state's 'qpos' is \[9\], that of FrankaPush.* is \[\d+\]"
    ):
        replay(recorded, "FrankaPushRandom-v0", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_the_command_joins(tmp_path, capsys):
    one, two = (write_demo(tmp_path / f"{name}.h5", trials=2) for name in ("one", "two"))
    assert data_command.main(["rlhive.data", "join", *map(str, (one, two, one, tmp_path / "all.h5"))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'all.h5'}: 6 trials of 3 files\n"
    assert len(load_dataset(tmp_path / "all.h5").spec.lengths) == 6


def test_a_picture_that_cannot_be_drawn_is_told_before_all_is_read(tmp_path, monkeypatch):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    monkeypatch.setattr(data_command, "FLAGS", SimpleNamespace(picture=str(tmp_path / "frames.png")))
    monkeypatch.setattr("rlhive.data.inspection.inspect", None)
    with pytest.raises(ValueError, match="has no frames to draw"):
        data_command.main(["rlhive.data", "inspect", str(path)])


def test_a_picture_is_written_after_the_tables_are_made(tmp_path, monkeypatch):
    path, picture = write_roboset(tmp_path / "set.h5"), tmp_path / "frames.png"

    def fail(path):
        raise LoadError("the tables cannot be made")

    monkeypatch.setattr(data_command, "FLAGS", SimpleNamespace(picture=str(picture)))
    with monkeypatch.context() as patch, pytest.raises(LoadError, match="the tables cannot be made"):
        patch.setattr("rlhive.data.inspection.inspect", fail)
        data_command.main(["rlhive.data", "inspect", str(path)])
    assert not picture.exists()
    assert data_command.main(["rlhive.data", "inspect", str(path)]) == 0 and picture.exists()


def test_a_damaged_trial_is_found_before_any_is_played(recorded, tmp_path, monkeypatch):
    path = tmp_path / "damaged.h5"
    path.write_bytes(recorded.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["Trial2/actions"]
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", None)
    with pytest.raises(LoadError, match="Trial2: has no actions"):
        replay(path)


@pytest.mark.parametrize("value", [np.float64(0.5), np.zeros((0, 6)), np.zeros((7, 6))])
def test_states_must_have_a_row_for_each_observation(franka_spec, tmp_path, monkeypatch, value):
    path = write_demo(tmp_path / "demo.h5", trials=1)
    with h5py.File(path, "r+") as file:
        del file["Trial0/env_infos/state/qpos"]
        file["Trial0/env_infos/state/qpos"] = value
    robot = SimpleNamespace(spec=franka_spec, close=lambda: None)
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", lambda name, pixels: robot)
    shape = re.escape(str(list(np.shape(value))))
    with pytest.raises(LoadError, match=rf"Trial0/env_infos/state/qpos: must have 11 rows, .* is {shape}"):
        replay(path, FRANKA)


def test_convert_says_what_it_left_out_of_which_file(tmp_path):
    path, out = write_demo(tmp_path / "demo.h5"), tmp_path / "demo-v0"
    with h5py.File(path, "r+") as file:
        del file["Trial1/actions"]
    result = command("convert", "--to=minari", "--skip_damaged", path, out)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == f"{out}: 2 trials of 3, 1 damaged ones left out"
    assert second.startswith(f"  left out: {path}: Trial1: has no actions")


def test_the_command_from_record_to_minari(tmp_path):
    demo, converted = tmp_path / "demo.h5", tmp_path / "zero-v0"
    images = ("--cameras=top_cam", "--image_size=32", "--quality=fast")
    result = command("record", f"--env={FRANKA}", "--policy=zero", "--episodes=1", *images, demo)
    assert (result.returncode, result.stdout) == (0, f"{demo}: 1 episodes of {FRANKA}\n"), result.stderr
    result = command("convert", "--to=minari", demo, converted)
    assert (result.returncode, result.stdout) == (0, f"{converted}: 1 trials\n"), result.stderr
    result = command("inspect", converted)
    assert result.returncode == 0 and f"minari, 1 trials of 50 steps, {FRANKA}, success 0.0%" in result.stdout
    result = command("inspect", demo, f"--picture={tmp_path / 'frames.png'}")
    assert result.stdout.endswith("Trial0 env_infos/visual_dict/rgb:top_cam:32x32:2d\n"), result.stderr
    picture = imread(tmp_path / "frames.png")
    assert picture.shape[:2] == (32, 8 * 32) and picture[..., :3].std() > 0.1
    result = command("replay", demo)
    assert result.returncode == 0 and result.stdout.splitlines()[1].split()[:4] == [
        "Trial0",
        "50",
        "0.0e+00",
        "0.0e+00",
    ]
