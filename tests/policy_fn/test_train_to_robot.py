"""Train, export, load in a fresh process, evaluate: what acts on the robot is what acted in training, bit for bit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rlhive.metrics import read_metrics
from rlhive.runs.run_files import EVALUATION_SEED

# The training command's own process writes down what it saw and did in its last evaluation.
TRAIN = """
import sys
import numpy as np
from rlhive.training import loop, start
from rlhive.train import run
start.EVALUATION_ENVS = 1  # one observation at a time, as on a robot: a batch differs in the last bits
play = loop.run_episodes
def noting(envs, act, seeds):
    steps = []
    def act_and_note(seen, rest):
        action, rest = act(seen, rest)
        steps.append({**seen.select("observation", "pixels", strict=False), "action": action})
        return action, rest
    outcome = play(envs, act_and_note, seeds)
    np.savez(sys.argv[1], **{key: np.stack([step[key][0, 0].numpy() for step in steps]) for key in steps[0]})
    return outcome
loop.run_episodes = noting
sys.exit(run([sys.argv[2]], sys.argv[4:], sys.argv[3], resume=False))
"""
ACT = """
import sys
import numpy as np
from rlhive.policy_fn import load
policy, stored = load(sys.argv[1]), dict(np.load(sys.argv[2]))
actions = stored.pop("action")
for index, action in enumerate(actions):
    seen = {key: value[index] for key, value in stored.items()}
    assert np.array_equal(policy(seen), action), index
print(len(actions))
"""
SMALL = (
    "TOTAL_STEPS=300",
    "train.init_random_steps=60",
    "train.evaluation_episodes=2",
    "train.num_workers=0",
    "sac_network.hidden_sizes=(32, 32)",
)
IMAGES = (
    "TOTAL_STEPS=100",
    "train.batch_size=4",
    "images.cameras=('top_cam',)",
    "images.image_size=64",
    "images.quality='fast'",
    "images.frames=2",
    "cnn.layers=((8, 8, 4), (8, 4, 2))",
)


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("gin_file, bindings", [("sac_gaussian.gin", ()), ("sac_cnn.gin", IMAGES)])
def test_a_fresh_process_acts_as_the_training_process_did(tmp_path, gin_file, bindings):
    run_dir, bundle, stored = tmp_path / "run", tmp_path / "bundle", tmp_path / "stored.npz"
    python("-c", TRAIN, stored, gin_file, run_dir, *SMALL, *bindings)
    python("-m", "rlhive.export", f"--run_dir={run_dir}", bundle)
    assert python("-c", ACT, bundle, stored) == "100\n"
    flags = ("--episodes=2", f"--seed={EVALUATION_SEED}", "--json")
    report = json.loads(python("-m", "rlhive.evaluate", f"--run_dir={bundle}", *flags))
    metrics = read_metrics(run_dir)
    assert report["success"] == metrics["eval/success"][-1]
    assert report["return_mean"] == metrics["eval/return"][-1]
    assert np.isfinite(report["return_mean"])
