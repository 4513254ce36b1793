"""A loaded policy inside RoboHive's own tool and TorchRL's own collectors and rollouts."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchrl.collectors import Collector

from rlhive.envs import make
from rlhive.envs.robohive import RoboHive, env_spec
from rlhive.export import export
from rlhive.policy_fn import load
from rlhive.policy_fn.adapters import RoboHivePolicy, as_module

NAME = "FrankaReachRandom-v0"


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
