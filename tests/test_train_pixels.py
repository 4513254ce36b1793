"""Training from images, rendered for real, for a few hundred steps: train, checkpoint, evaluate, load, resume."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rlhive.deploy import run, simulate
from rlhive.policy_fn import load
from rlhive.policy_fn.r3m import R3M

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = [
    "train.init_random_steps=60",
    "train.batch_size=4",
    "train.evaluation_episodes=1",
    "train.log_every=40",
    "sac_network.hidden_sizes=(32, 32)",
    "images.cameras=('top_cam',)",
    "images.image_size=64",
    "images.quality='fast'",
]
R3M_RUN = (
    "sac_gaussian.gin",
    "ENV_NAME='FrankaReachRandom_v2d-v0'",
    "r3m.weights='random'",
    "TOTAL_STEPS=140",
)
CNN_RUN = ("sac_cnn.gin", "NUM_SEEDS=2", "TOTAL_STEPS=100", "cnn.layers=((8, 8, 4), (8, 4, 2))")
ACT = """
import sys, numpy as np
from rlhive.policy_fn import load
seen = dict(np.load(sys.argv[2]))
np.save(sys.argv[3], load(sys.argv[1])(seen))
"""


def command(module, *args) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, (*module, *args))],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def train(run_dir, gin_file, *bindings) -> str:
    flags = [f"--gin_bindings={binding}" for binding in (*SMALL, *bindings)]
    return command(("-m", "rlhive.train"), f"--gin_file={gin_file}", f"--run_dir={run_dir}", *flags)


@pytest.fixture(scope="module")
def r3m_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("pixels") / "r3m"
    return run_dir, train(run_dir, *R3M_RUN)


@pytest.mark.timeout(600)
def test_random_weights_are_named_wherever_one_looks(r3m_run):
    run_dir, log = r3m_run
    assert "encoder r3m18, weights random, frozen" in log
    assert "replay of 140 steps" in log
    spec = json.loads((run_dir / "spec.json").read_text())
    assert spec["encoder"] == R3M("r3m18", "random").to_dict()
    assert spec["env"]["pixels"]["quality"] == "fast" and spec["env"]["pixels"]["cameras"] == ["top_cam"]
    assert "through the encoder r3m18, weights: random" in (run_dir / "report.html").read_text()


def test_the_replay_holds_features_and_no_images(r3m_run):
    stored = load_file(r3m_run[0] / "replay/140.safetensors")
    assert stored["observation"].shape[-1] == 512 + load(r3m_run[0]).spec.env.observation_dim
    assert not any("pixels" in name for name in stored)


def test_the_policy_acts_alike_in_another_process(r3m_run, tmp_path):
    policy = load(r3m_run[0])
    env = policy.spec.env
    rng = np.random.default_rng(0)
    seen = {
        "observation": rng.normal(size=(3, env.observation_dim)).astype(np.float32),
        "pixels": rng.integers(256, size=(3, *env.pixels.shape), dtype=np.uint8),
    }
    np.savez(tmp_path / "seen.npz", **seen)
    command(("-c", ACT), r3m_run[0], tmp_path / "seen.npz", tmp_path / "action.npy")
    assert np.array_equal(np.load(tmp_path / "action.npy"), policy(seen))
    features = policy.spec.encoder.apply(policy.params["encoder"], torch.from_numpy(seen["pixels"]))
    assert features.shape == (3, 512)
    for broken in (seen["observation"], {**seen, "pixels": seen["pixels"].astype(np.float32)}):
        with pytest.raises(ValueError, match="pixels"):
            policy(broken)


@pytest.mark.timeout(600)
def test_evaluation_draws_and_encodes(r3m_run):
    out = command(("-m", "rlhive.evaluate"), f"--run_dir={r3m_run[0]}", "--episodes=1", "--json")
    report = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert report["environment"] == "FrankaReachRandom_v2d-v0" and report["step"] == 140
    assert np.isfinite(report["return_mean"])


@pytest.mark.timeout(600)
def test_a_bundle_brings_its_encoder(r3m_run, tmp_path):
    command(("-m", "rlhive.export"), f"--run_dir={r3m_run[0]}", tmp_path / "bundle")
    ours, theirs = load(r3m_run[0]), load(tmp_path / "bundle")
    seen = {
        "observation": np.ones(ours.spec.env.observation_dim, np.float32),
        "pixels": np.full(ours.spec.env.pixels.shape, 7, np.uint8),
    }
    assert np.array_equal(ours(seen), theirs(seen))
    weights = load_file(tmp_path / "bundle/params.safetensors")
    assert any(name.startswith("encoder/") for name in weights)
    report = run(theirs, simulate(ours.spec.env.name, 0, ours.spec.env.pixels), tmp_path / "out", max_steps=3)
    assert (report.reason, report.steps) == ("finished", 3)


@pytest.mark.timeout(600)
def test_a_cnn_learns_with_the_critics_and_is_part_of_the_policy(tmp_path):
    train(tmp_path / "cnn", *CNN_RUN)
    policies = [load(tmp_path / "cnn", seed=seed) for seed in (1, 2)]
    for policy in policies:
        assert set(policy.params.keys()) == {"actor", "encoder"}
    weights = [policy.params["encoder", "conv_0", "weight"] for policy in policies]
    assert not torch.equal(*weights)
    with safe_open(tmp_path / "cnn/replay/100.safetensors", framework="pt") as file:
        assert file.get_slice("pixels").get_shape() == [100, 2, 1, 1, 64, 64, 3]
        assert file.get_slice("pixels").get_dtype() == "U8"
