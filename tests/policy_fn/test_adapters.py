"""A loaded policy inside RoboHive's own tool and TorchRL's own collectors and rollouts."""

import os
import subprocess
import sys

import attrs
import gymnasium
import numpy as np
import pytest
import torch
from torchrl.collectors import Collector

from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs import make
from rlhive.envs.importing import quiet
from rlhive.envs.robohive import RoboHive, env_spec
from rlhive.export import export
from rlhive.policy_fn import load
from rlhive.policy_fn.adapters import RoboHivePolicy, as_module
from tests.helpers import make_pixel_policy

NAME = "FrankaReachRandom-v0"
PIXELS = PixelSpec(("top_cam",), 24, 24, "fast", frames=2)


@pytest.fixture(scope="module")
def installed():
    return env_spec(NAME)


@pytest.fixture
def run(make_run, installed):
    return make_run(env=installed)


def test_robohive_examines_a_bundle(run, tmp_path):
    export(run.run_dir, tmp_path / "bundle")
    # RoboHive is there first, and with a GL backend before torch `import rlhive` refuses.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    arguments = ["-e", NAME, "-p", "rlhive.policy_fn.adapters.RoboHivePolicy", "-n", "2", "-r", "none"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "robohive.utils.examine_env",
            *arguments,
            "-on",
            "examined",
            "-o",
            tmp_path / "out",
            "-sp",
            "True",
        ],
        capture_output=True,
        text=True,
        env=environment | {"RLHIVE_POLICY": str(tmp_path / "bundle")},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "Average success over rollouts: 0.0%" in result.stdout

    import h5py

    [trace] = (tmp_path / "out").glob("*_trace.h5")
    policy = load(tmp_path / "bundle")
    with h5py.File(trace) as file:
        assert sorted(file) == ["Trial0", "Trial1"]
        trial = file["Trial0"]
        actions, observations = trial["actions"][:-1], trial["observations"][:-1]
    assert actions.shape == (50, 9)
    for action, observation in zip(actions, observations, strict=True):
        np.testing.assert_array_equal(action, policy(observation).astype(actions.dtype))


def test_robohives_protocol(run):
    policy = load(run.run_dir)
    env = RoboHive(NAME)
    adapter, again = RoboHivePolicy(env, 3, policy), RoboHivePolicy(env, 3, policy)
    observation = env.reset()
    action, info = adapter.get_action(observation)
    assert np.array_equal(info["evaluation"], policy(observation))
    assert np.array_equal(action, again.get_action((observation, {}))[0])
    assert not np.array_equal(action, info["evaluation"])
    env.env.obs_keys = env.env.obs_keys[::-1]
    with pytest.raises(ValueError, match="does not fit the environment: observations are in the order"):
        RoboHivePolicy(env.env, 3, policy)
    env.close()


def test_policy_must_be_named(monkeypatch):
    monkeypatch.delenv("RLHIVE_POLICY", raising=False)
    with pytest.raises(ValueError, match="set RLHIVE_POLICY"):
        RoboHivePolicy(None, 0)


def test_torchrl_rolls_out_and_collects(run):
    policy = load(run.run_dir)
    env = make(NAME, seed=1)
    rollout = env.rollout(8, as_module(policy))
    assert torch.equal(rollout["action"], torch.stack([policy(one) for one in rollout["observation"]]))
    collector = Collector(env, as_module(policy), frames_per_batch=10, total_frames=20)
    batches = list(collector)
    assert len(batches) == 2
    for batch in batches:
        assert torch.equal(batch["action"], torch.stack([policy(one) for one in batch["observation"]]))
    collector.shutdown()


def test_policies_go_to_worker_processes(run):
    import pickle

    policy = load(run.run_dir)
    observation = np.ones(21)
    assert np.array_equal(pickle.loads(pickle.dumps(policy))(observation), policy(observation))


@pytest.mark.parametrize("pixels", [PIXELS, attrs.evolve(PIXELS, cameras=())], ids=["seeing", "blind"])
def test_robohives_protocol_draws_what_the_policy_sees(installed, pixels):
    policy = make_pixel_policy(attrs.evolve(installed, pixels=pixels))
    own = RoboHive(NAME, seed=2, pixels=pixels)
    with quiet():
        env = gymnasium.make(NAME, disable_env_checker=True).unwrapped
    env.np_random.bit_generator.state = own.env.np_random.bit_generator.state
    adapter = RoboHivePolicy(env, 0, policy)
    for _ in range(2):  # the frames of one episode are not in the next
        vector, expected = env.reset(), own.reset()
        for _ in range(3):
            action = adapter.get_action(vector)[1]["evaluation"]
            assert np.array_equal(action, policy({"observation": expected, "pixels": own.render()}))
            vector, expected = env.step(action)[0], own.step(action).observation
    own.close()


def test_torchrl_collects_with_images(installed):
    policy = make_pixel_policy(attrs.evolve(installed, pixels=PIXELS))
    env = make(NAME, seed=1, from_pixels=True, cameras=["top_cam"], image_size=24, quality="fast", frames=2)
    assert policy.check(env) == []
    collector = Collector(env, as_module(policy), frames_per_batch=4, total_frames=4)
    [batch] = collector
    collector.shutdown()
    seen = [{"observation": step["observation"], "pixels": step["pixels"]} for step in batch]
    assert torch.equal(batch["action"], torch.stack([policy(one) for one in seen]))
