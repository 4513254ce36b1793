"""Training from images, rendered for real, for a few hundred steps: train, checkpoint, evaluate, load, resume."""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rlhive.config import ConfigError
from rlhive.core.normalizer import normalize
from rlhive.data import load_dataset
from rlhive.data.record import record
from rlhive.deploy import Settings, run, simulate
from rlhive.envs.robohive import RoboHive
from rlhive.evaluate import evaluate
from rlhive.export import export
from rlhive.metrics import read_metrics
from rlhive.policy_fn import load
from rlhive.policy_fn.r3m import R3M
from rlhive.runs.run_files import EVALUATION_SEED
from rlhive.runs.run_spec import RunSpec
from rlhive.train import run as train_here
from rlhive.training.evaluation import evaluation_seeds

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = [
    "train.init_random_steps=60",
    "train.batch_size=4",
    "train.evaluation_episodes=1",
    "train.log_every=40",
    "sac_network.hidden_sizes=(32,)",
    "images.cameras=('top_cam',)",
    "images.image_size=64",
    "images.quality='fast'",
]
R3M_RUN = (
    "sac_gaussian.gin",
    "ENV_NAME='FrankaReachRandom_v2d-v0'",
    "r3m.weights='random'",
    "TOTAL_STEPS=100",
)
CNN_RUN = (
    "sac_cnn.gin",
    "NUM_SEEDS=2",
    "TOTAL_STEPS=100",
    "cnn.layers=((8, 8, 4), (8, 4, 2))",
    "train.evaluate_every=100",
    "train.video_every=1",
    "train.video_cameras=('left_cam', 'top_cam')",
)
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


def train(run_dir, gin_file, *bindings, resume=False) -> str:
    flags = [f"--gin_bindings={binding}" for binding in (*SMALL, *bindings)] + ["--resume"] * resume
    return command(("-m", "rlhive.train"), f"--gin_file={gin_file}", f"--run_dir={run_dir}", *flags)


@pytest.fixture(scope="module")
def r3m_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("pixels") / "r3m"
    return run_dir, train(run_dir, *R3M_RUN)


@pytest.mark.timeout(600)
def test_random_weights_are_named_wherever_one_looks(r3m_run):
    run_dir, log = r3m_run
    assert "encoder r3m18, weights random, frozen" in log
    assert "replay of 100 steps" in log
    spec = json.loads((run_dir / "spec.json").read_text())
    assert spec["encoder"] == R3M("r3m18", "random").to_dict()
    assert spec["env"]["pixels"]["quality"] == "fast" and spec["env"]["pixels"]["cameras"] == ["top_cam"]
    report = (run_dir / "report.html").read_text()
    assert report.count("encoder r3m18, weights: RANDOM, untrained") >= 3  # title, environment, images


def test_the_replay_holds_features_and_no_images(r3m_run):
    stored = load_file(r3m_run[0] / "replay/100.safetensors")
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
def test_recorded_images_are_cloned_through_the_encoder(r3m_run, tmp_path, monkeypatch):
    policy = load(r3m_run[0])
    record(policy.spec.env.name, str(r3m_run[0]), 1, tmp_path / "seen.h5")
    monkeypatch.setattr("rlhive.data.cache.cache_dir", lambda: tmp_path / "cache")
    dataset = load_dataset(tmp_path / "seen.h5", pixels=policy.spec.env.pixels, encoder=policy.spec.encoder)
    assert dataset.spec.observation_dim == policy.spec.normalized_dim
    seen = dataset.transitions["observation"][:4]
    with torch.no_grad():  # what the loaded policy does from these vectors is what it did when it saw
        normalized = normalize(policy.env_state["observation"], seen)
        action = policy.spec.network.mode(policy.params["actor"], normalized)
    torch.testing.assert_close(action, dataset.transitions["action"][:4], rtol=0, atol=1e-5)

    images = [binding for binding in SMALL if binding.startswith(("images", "train.evaluation"))]
    bindings = [f"DATASET='{tmp_path / 'seen.h5'}'", "r3m.weights='random'", "TOTAL_STEPS=20", *images]
    assert train_here(["bc_gaussian.gin"], bindings, str(tmp_path / "clone"), resume=False) == 0
    clone = load(tmp_path / "clone")
    assert clone.spec.encoder == policy.spec.encoder and clone.spec.dataset.steps == len(dataset)
    assert torch.equal(clone.env_state["observation", "loc"], dataset.normalizer()["loc"])
    observation = {"observation": np.zeros(18, np.float32), "pixels": np.zeros((1, 64, 64, 3), np.uint8)}
    assert clone(observation).shape == (9,)
    with pytest.raises(ConfigError, match="has fast images 64x64 of top_cam; full images 64x64"):
        wrong = [*bindings, "images.quality='full'"]
        train_here(["bc_gaussian.gin"], wrong, str(tmp_path / "wrong"), resume=False)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.timeout(600)
def test_evaluation_draws_and_encodes(r3m_run):
    report = evaluate(r3m_run[0], 1, 1)
    assert report["environment"] == "FrankaReachRandom_v2d-v0" and report["step"] == 100
    assert np.isfinite(report["return_mean"])


@pytest.mark.timeout(600)
def test_a_bundle_brings_its_encoder(r3m_run, tmp_path):
    export(r3m_run[0], tmp_path / "bundle")
    ours, theirs = load(r3m_run[0]), load(tmp_path / "bundle")
    seen = {
        "observation": np.ones(ours.spec.env.observation_dim, np.float32),
        "pixels": np.full(ours.spec.env.pixels.shape, 7, np.uint8),
    }
    assert np.array_equal(ours(seen), theirs(seen))
    weights = load_file(tmp_path / "bundle/params.safetensors")
    assert any(name.startswith("encoder/") for name in weights)
    report = run(
        theirs, simulate(ours.spec.env.name, 0, ours.spec.env.pixels), tmp_path / "out", Settings(max_steps=3)
    )
    assert (report.reason, report.steps) == ("finished", 3)


@pytest.fixture(scope="module")
def cnn_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("pixels") / "cnn"
    gin_file, *bindings = [*CNN_RUN, *SMALL, "train.num_workers=0"]
    with contextlib.redirect_stderr(io.StringIO()) as log:
        assert train_here([gin_file], bindings, str(run_dir), resume=False) == 0
    return run_dir, log.getvalue()


@pytest.mark.timeout(600)
def test_a_cnn_learns_with_the_critics_and_is_part_of_the_policy(cnn_run):
    run_dir, _ = cnn_run
    policies = [load(run_dir, seed=seed) for seed in (1, 2)]
    for policy in policies:
        assert set(policy.params.keys()) == {"actor", "encoder"}
    weights = [policy.params["encoder", "conv_0", "weight"] for policy in policies]
    assert not torch.equal(*weights)
    with safe_open(run_dir / "replay/100.safetensors", framework="pt") as file:
        assert file.get_slice("pixels").get_shape() == [100, 2, 1, 1, 64, 64, 3]
        assert file.get_slice("pixels").get_dtype() == "U8"


def test_a_video_is_filmed_every_so_many_evaluations(cnn_run):
    run_dir, log = cnn_run
    [film] = (run_dir / "videos").iterdir()
    assert film.name == "100.mp4" and f"filmed {film}" in log
    pictures, env = imageio.imread(film), load(run_dir, seed=1).spec.env
    assert pictures.shape == (env.max_episode_steps, 480, 1280, 3)  # two cameras side by side
    assert imageio.immeta(film)["fps"] == pytest.approx(1.0 / env.dt)
    assert np.abs(pictures[0].astype(float) - pictures[-1]).max() > 50.0


@pytest.mark.parametrize("made", ["r3m_run", "cnn_run"])
def test_the_report_shows_what_the_policy_saw(made, request):
    run_dir, _ = request.getfixturevalue(made)
    seen = imageio.imread(run_dir / "seen.png")[..., :3]
    spec = RunSpec.from_json((run_dir / "spec.json").read_text()).env
    metrics = read_metrics(run_dir)
    lengths = metrics["eval/length"][metrics["seed"] == 1]
    length = lengths[~np.isnan(lengths)][-1]  # of its only evaluation episode, which may end early
    moments = np.linspace(0, spec.max_episode_steps - 1, 8).astype(int)
    assert seen.shape == (64, 64 * np.sum(moments < length), 3)
    assert (
        base64.b64encode((run_dir / "seen.png").read_bytes()).decode()
        in (run_dir / "report.html").read_text()
    )
    env = RoboHive(spec.name, pixels=spec.pixels)
    env.reset(evaluation_seeds(EVALUATION_SEED, 1)[0])
    assert np.array_equal(seen[:, :64], env.render()[0])
    assert np.abs(seen[:, :64].astype(int) - seen[:, -64:]).max() > 50  # the robot moves


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("made", [R3M_RUN, (*CNN_RUN, "images.frames=2")], ids=["r3m", "cnn"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(made, tmp_path):
    train(tmp_path / "whole", *made, "TOTAL_STEPS=100")
    for steps in (70, 100):  # in the middle of an episode, and without a video
        train(tmp_path / "resumed", *made, f"TOTAL_STEPS={steps}", "train.video_every=0", resume=steps > 70)
    names = sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("*/**/*.safetensors")
    )
    assert any(name.match("replay/100.safetensors") for name in names)
    assert any(name.match("params.safetensors") for name in names)
    for name in {name for name in names if "100" in name.parts or name.match("replay/*")}:
        whole, resumed = load_file(tmp_path / "whole" / name), load_file(tmp_path / "resumed" / name)
        assert whole.keys() == resumed.keys()
        for key, value in whole.items():
            torch.testing.assert_close(
                resumed[key], value, rtol=0, atol=0, equal_nan=True, msg=f"{name} {key}"
            )
