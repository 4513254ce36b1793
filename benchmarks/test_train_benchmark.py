"""Wall clock of the default run per environment step against Stable-Baselines3's SAC, start-up and compiling counted.

    uv run --group bench pytest benchmarks/test_train_benchmark.py -s

The two take turns, as processes of their own, and each is counted whole, imports and all; RLHive evaluates once and
writes its report and checkpoints, which SB3 does not.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhive.runs.checkpoint_files import read_part

pytest.importorskip("stable_baselines3", reason="uv run --group bench pytest benchmarks")

ENV_NAME = "FrankaReachRandom-v0"
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEPS = 20_000  # of both: a shorter run has a larger part without updates


def run(*command: str, **environment: str) -> str:
    arguments = [sys.executable, *command]
    finished = subprocess.run(
        arguments, check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return finished.stdout


def default_run(run_dir: Path) -> float:
    """Seconds per environment step of the whole command, which finds nothing compiled."""
    compiled = Path(f"{run_dir}-compiled")
    compiled.mkdir()
    started = time.perf_counter()
    run(
        *("-m", "rlhive.train", "--gin_file=sac_gaussian.gin", f"--run_dir={run_dir}"),
        *(f"--gin.TOTAL_STEPS={STEPS}", f"--gin.train.evaluate_every={STEPS}"),
        TORCHINDUCTOR_CACHE_DIR=str(compiled),
        TMPDIR=str(compiled),  # Inductor keeps a precompiled header there, whatever its own directory
    )
    return (time.perf_counter() - started) / STEPS


def sb3_run() -> tuple[float, dict[str, int]]:
    """Seconds per environment step of the same with SB3, and the sizes of its networks."""
    started = time.perf_counter()
    said = run(str(Path(__file__).with_name("sb3_sac.py")), ENV_NAME, str(STEPS))
    seconds = time.perf_counter() - started
    return seconds / STEPS, json.loads(said.splitlines()[-1])["num_parameters"]


@pytest.mark.timeout(3600)
def test_default_run_takes_two_thirds_of_the_time_of_sb3(tmp_path, benchmark):
    ours, theirs = [], []
    for index in range(ROUNDS):
        ours.append(default_run(tmp_path / str(index)))
        seconds, num_parameters = sb3_run()
        theirs.append(seconds)
    params, _ = read_part(tmp_path / "0" / "checkpoints" / "latest", "params")
    for name, count in num_parameters.items():
        assert sum(leaf.numel() for leaf in params[name].values(True, True)) == count, name

    ratio = statistics.median(theirs) / statistics.median(ours)
    benchmark.extra_info.update(ours=ours, sb3=theirs, ratio=ratio)
    benchmark.pedantic(lambda: None, rounds=1)
    for name, seconds in (("RLHive", ours), ("SB3", theirs)):
        print(f"{name}: {[round(1e3 * second, 2) for second in seconds]} ms per environment step")
    print(f"SB3 / RLHive: {ratio:.2f}")
    assert ratio >= 1.5
