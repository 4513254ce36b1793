"""What learning from mixed data must reach: some ten minutes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import offline
from benchmarks.intervals import hierarchical_interval

ROOT = Path(__file__).parent.parent


def python(*arguments):
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_iql_beats_behaviour_cloning_on_mixed_data(tmp_path):
    steps = ("--gin.TOTAL_STEPS=8000", "--gin.train.checkpoint_every=8000")
    python("-m", "rlhive.train", "--gin_file=gin/sac_gaussian.gin", f"--run_dir={tmp_path / 'reach'}", *steps)
    expert = f"--expert={tmp_path / 'reach'}"
    python(
        offline.__file__, "--task=mixed", expert, "--seeds=21,22,23", "--updates=2000", f"--out={tmp_path}"
    )
    scores = {
        name: np.load(tmp_path / "mixed" / name / "episodes.npy") for name in offline.TASKS["mixed"].trials
    }
    intervals = {  # of the return: all succeed as often
        name: hierarchical_interval(returns, np.random.default_rng(0), resamples=offline.RESAMPLES)
        for name, (_, returns) in scores.items()
    }
    for name in ("bc_gaussian", "bc_tanh_gaussian"):
        assert intervals["iql"][0] > intervals[name][1], name
    assert scores["iql"][1].mean() > 178.0
