"""Recording: what a Trace of it holds, what is refused, and what an interrupted one keeps."""

import contextlib
import io
import os
import signal
from types import SimpleNamespace

import attrs
import h5py
import numpy as np
import pytest

from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import load_dataset
from rlhive.data.record import record
from rlhive.data.trace import read_pixels, write_trial
from rlhive.envs.robohive import RoboHive
from rlhive.policy_fn import load
from rlhive.training.evaluation import evaluation_seeds

FRANKA = "FrankaReachRandom-v0"


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
