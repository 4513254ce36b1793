"""The benchmark of seeing against blind policies: its arithmetic, and, slow, the claim itself."""

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import seeing
from rlhive.config import load_config


def score(means, spread, episodes=100):
    """Returns of seeds with these means, and as many successes as failures."""
    rng = np.random.default_rng(0)
    returns = np.array([mean + spread * rng.standard_normal(episodes) for mean in means])
    return seeing.Score(returns, np.resize([0.0, 1.0], returns.shape))


@pytest.mark.parametrize(
    ("cnn", "blind", "helps"),
    [
        ([80.0, 90.0], [0.0, 5.0], True),
        ([20.0, 25.0], [0.0, 5.0], False),  # apart, by less than the margin
        ([-10.0, 200.0], [0.0, 5.0], False),  # the seeds differ too much
    ],
)
def test_seeing_helps_by_a_margin_with_intervals_apart(cnn, blind, helps):
    scores = {"cnn": score(cnn, 1.0), "blind": score(blind, 1.0)}
    assert seeing.seeing_helps(scores) is helps
    table = seeing.format_table(scores, [1, 2], 6000)
    assert table.splitlines()[-1].endswith("yes." if helps else "no.")
    assert f"| blind | {scores['blind'].returns.mean():.1f} (" in table and "| 50% (" in table


def test_the_policies_differ_in_what_they_see_alone():
    encoders, pixels = {}, {}
    for name, bindings in seeing.POLICIES.items():
        config = load_config(["sac_cnn.gin"], [*seeing.SETTINGS, *bindings])
        encoders[name], pixels[name] = config.make_encoder(), config.pixels
    assert [of.cameras for of in pixels.values()] == [("top_cam",), (), ("top_cam",)]
    assert {of.quality for of in pixels.values()} == {"fast"}
    assert encoders["blind"].feature_dim(pixels["blind"]) == 0
    assert encoders["r3m18-random"].weights == "random"


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_policy_that_sees_learns_more_than_a_blind_one(tmp_path):
    jobs = len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "benchmarks.seeing", f"--out={tmp_path}", f"--jobs={jobs}"]
    done = subprocess.run([*command, "--policies=cnn,blind"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("yes.")
