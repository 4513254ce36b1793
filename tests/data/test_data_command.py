"""`python -m rlhive.data` with real environments, in real processes where that is what is tested."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import attrs
import h5py
import numpy as np
import pytest
from matplotlib.image import imread

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import __main__ as data_command
from rlhive.data import load_dataset
from rlhive.data.convert import convert
from rlhive.data.playback import format_drifts, replay
from rlhive.data.record import record
from rlhive.data.trace import read_pixels, write_trial
from rlhive.envs.robohive import RoboHive
from rlhive.policy_fn import load
from rlhive.training.evaluation import evaluation_seeds
from tests.data.demo_files import write_demo, write_roboset

FRANKA = "FrankaReachRandom-v0"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rlhive.data", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three episodes of random actions."""
    path = tmp_path_factory.mktemp("recorded") / "demo.h5"
    record(FRANKA, "random", 3, path, seed=5)
    return path


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


def test_recorded_episodes_are_those_of_the_environment(recorded):
    dataset = load_dataset(recorded)
    assert dataset.spec.environment == FRANKA and dataset.spec.lengths == (50, 50, 50)
    with h5py.File(recorded) as file:
        seed = int(np.random.SeedSequence(5, spawn_key=(0x64617461,)).generate_state(3, np.uint64)[1])
        trial = file["Trial1"]
        env = RoboHive(FRANKA)
        assert np.array_equal(env.reset(seed), trial["observations"][0])
        for row, action in enumerate(trial["actions"][:-1]):
            step = env.step(action)
            assert np.array_equal(step.observation, trial["observations"][row + 1])
            assert (
                step.reward == trial["rewards"][row + 1] and step.solved == trial["env_infos/solved"][row + 1]
            )
        assert trial["time"][:] == pytest.approx(0.08 * np.arange(51), abs=1e-9)
        assert np.array_equal(trial["env_infos/state/qpos"][-1], env.env.sim.data.qpos)
        env.close()
    assert seed not in evaluation_seeds(5, 3)


def test_a_trace_has_what_robohives_own_recorder_writes(recorded, tmp_path):
    """By RoboHive's `examine_policy_new`, which also names, shapes and stacks the rows."""
    import contextlib
    import io

    class Zero:
        def get_action(self, observation):
            return np.zeros(9), {"evaluation": np.zeros(9)}

    env = RoboHive(FRANKA)
    del env.env.get_env_infos  # the whole of it, as RoboHive itself would log
    with contextlib.redirect_stdout(io.StringIO()):
        trace = env.env.examine_policy_new(Zero(), horizon=4, num_episodes=1)
        trace.save(str(tmp_path / "theirs.h5"), verify_length=True, f_res=np.float64)
    env.close()
    with h5py.File(tmp_path / "theirs.h5") as theirs, h5py.File(recorded) as ours:
        assert shapes(theirs["Trial0"]) == shapes(ours["Trial0"])
    assert len(load_dataset(tmp_path / "theirs.h5")) == 4


def shapes(trial):
    found = {}
    trial.visititems(lambda name, item: found.update({name: getattr(item, "shape", (0,))[1:]}))
    return found


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


def test_a_policy_without_images_acts_on_its_observation_while_images_are_recorded(
    make_run, franka_spec, tmp_path, monkeypatch
):
    run_dir, images = make_run().run_dir, PixelSpec(("top_cam",), 16, 16)
    observation = np.linspace(-1, 1, 21, dtype=np.float32)
    env = SimpleNamespace(
        spec=attrs.evolve(franka_spec, pixels=images), reset=lambda seed: observation, close=lambda: None
    )

    def play(env, first, act, limit):
        action, _ = act({"observation": first, "pixels": np.zeros(images.shape, np.uint8)}, None)
        return {"actions": action}

    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", lambda name, pixels: env)
    monkeypatch.setattr("rlhive.data.record.play", play)
    record(FRANKA, str(run_dir), 1, tmp_path / "seen.h5", pixels=images)
    assert read_pixels(tmp_path / "seen.h5") == images
    with h5py.File(tmp_path / "seen.h5") as file:
        assert np.array_equal(file["Trial0/actions"], load(run_dir)(observation))


def test_policies_of_other_environments_and_images_are_refused_before_anything_is_built(
    franka_spec, tmp_path, monkeypatch
):
    images = PixelSpec(("top_cam",), 64, 64, frames=3)
    policy = SimpleNamespace(spec=SimpleNamespace(env=attrs.evolve(franka_spec, pixels=images)))
    monkeypatch.setattr("rlhive.policy_fn.load", lambda path: policy)
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", None)
    with pytest.raises(
        ValueError, match=r"is FrankaPushRandom-v0, but the policy was trained on FrankaReachRandom-v0"
    ):
        record("FrankaPushRandom-v0", "run", 1, tmp_path / "out.h5")
    other = attrs.evolve(images, cameras=("left_cam",))
    with pytest.raises(
        ValueError, match=r"the policy sees .*top_cam.* only those can be recorded; requested are .*left_cam"
    ):
        record(FRANKA, "run", 1, tmp_path / "out.h5", pixels=other)


@pytest.fixture
def quick_episodes(franka_spec, monkeypatch):
    """Episodes of one step for `record`, in no real environment; returns what is called before each."""
    called = []
    rows = {"observations": np.zeros((2, 21)), "actions": np.array([[0.0] * 9, [np.nan] * 9])}
    rows |= {"rewards": np.zeros(2), "done": np.zeros(2, bool)}
    env = SimpleNamespace(spec=franka_spec, reset=lambda seed: np.zeros(21), close=lambda: None)

    def play(env, first, act, limit):
        called.pop(0)()
        return rows

    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", lambda name, pixels: env)
    monkeypatch.setattr("rlhive.data.record.play", play)
    return called


def interrupt():
    raise KeyboardInterrupt(signal.SIGTERM)


def test_an_interrupted_recording_keeps_the_episodes_that_are_whole(quick_episodes, tmp_path, caplog):
    quick_episodes += [int, int, interrupt]
    with pytest.raises(KeyboardInterrupt) as raised:
        record(FRANKA, "zero", 5, tmp_path / "demo.h5")
    assert raised.value.args == (signal.SIGTERM,)
    assert load_dataset(tmp_path / "demo.h5").spec.lengths == (1, 1)
    assert caplog.messages == [f"stopped: {tmp_path / 'demo.h5'} has 2 of 5 episodes"]


def test_a_recording_interrupted_as_it_writes_has_that_episode_whole(quick_episodes, tmp_path, monkeypatch):
    quick_episodes += [int]

    def write(file, name, values, seed):
        signal.raise_signal(signal.SIGINT)
        write_trial(file, name, values, seed)

    monkeypatch.setattr("rlhive.data.record.write_trial", write)
    with pytest.raises(KeyboardInterrupt):
        record(FRANKA, "zero", 5, tmp_path / "demo.h5")
    assert load_dataset(tmp_path / "demo.h5").spec.lengths == (1,)


@pytest.mark.parametrize("last", [interrupt, int])
def test_an_interrupt_while_the_file_of_a_recording_is_put_in_its_place_waits(
    quick_episodes, tmp_path, monkeypatch, last
):
    quick_episodes += [int, int, last]
    fsync = os.fsync

    def interrupted(descriptor):
        signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupted)
        record(FRANKA, "zero", 3, tmp_path / "demo.h5")
    assert load_dataset(tmp_path / "demo.h5").spec.lengths[:2] == (1, 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_recording_interrupted_in_its_first_episode_leaves_nothing(quick_episodes, tmp_path):
    quick_episodes += [interrupt]
    with pytest.raises(KeyboardInterrupt):
        record(FRANKA, "zero", 5, tmp_path / "demo.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        ("zero", {"episodes": 0}, "episodes must be at least 1, got 0"),
        (
            "random",
            {"stochastic": True},
            "only a trained policy can be sampled from, not 'random'",
        ),
        ("zero", {"stochastic": True}, "only a trained policy can be sampled from, not 'zero'"),
    ],
)
def test_recordings_that_make_no_sense_are_refused_before_anything_is_built(
    tmp_path, monkeypatch, policy, settings, message
):
    monkeypatch.setattr("rlhive.envs.robohive.RoboHive", None)
    with pytest.raises(ValueError, match=message):
        record(FRANKA, policy, out=tmp_path / "demo.h5", **{"episodes": 1, **settings})
    assert not list(tmp_path.iterdir())


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
