"""Several seeds in one process: against one process per core, against SB3's runs, and what memory they take.

uv run --group bench pytest benchmarks/test_seeds_benchmark.py -s
STEPS=20000 uv run --group bench pytest benchmarks/test_seeds_benchmark.py -s -k sb3
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhive.core.replay import ReplayBuffer

ENV_NAME = "FrankaReachRandom-v0"
STEPS = int(os.environ.get("STEPS", "20000"))
CORES = len(os.sched_getaffinity(0))
ROUNDS, UPDATES = 3, 200
UPDATE_LOOP = """
import sys, time
from benchmarks import peers
from rlhive.command import keep_freed_memory
keep_freed_memory()
update = peers.rlhive_update(int(sys.argv[1]))
for _ in range(10): update()
print("ready", flush=True); sys.stdin.readline()
started = time.perf_counter()
for _ in range(int(sys.argv[2])): update()
print(time.perf_counter() - started, flush=True)
"""


def start(num_seeds, threads):
    """A process that is ready to update `num_seeds` seeds side by side."""
    process = subprocess.Popen(
        [sys.executable, "-c", UPDATE_LOOP, str(num_seeds), str(UPDATES)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    return process


def seed_updates_per_second(processes, num_seeds):
    """All processes at the same time; `num_seeds` in all."""
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return num_seeds * UPDATES / max(float(process.stdout.readline()) for process in processes)


@pytest.mark.timeout(1800)
def test_one_process_against_one_per_core(benchmark):
    rates = {"one process": [], "one per core": []}
    for _ in range(ROUNDS):
        rates["one process"].append(seed_updates_per_second([start(4, CORES)], 4))
        alone = [start(4 // CORES, 1) for _ in range(CORES)]
        rates["one per core"].append(seed_updates_per_second(alone, 4))
    medians = {name: statistics.median(of_side) for name, of_side in rates.items()}
    benchmark.extra_info.update(medians)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n4 seeds, {CORES} cores, seed-updates/s: {rates}")
    ratio = medians["one process"] / medians["one per core"]
    print(f"one process: {ratio:.2f} of one per core")
    assert ratio >= 0.95


def train(run_dir, num_seeds, steps):
    """A default run, compiled however short, without evaluations on the way; its seconds and its usage.json."""
    settings = [f"NUM_SEEDS={num_seeds}", f"TOTAL_STEPS={steps}", f"train.evaluate_every={steps}"]
    settings += ["train.compile=True"]
    command = ["-m", "rlhive.train", "--gin_file=sac_gaussian.gin", f"--run_dir={run_dir}"]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *command, *(f"--gin.{setting}" for setting in settings)],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started, json.loads((Path(run_dir) / "usage.json").read_text())


@pytest.mark.timeout(7200)
def test_four_seeds_against_four_runs_of_sb3_two_at_a_time(tmp_path, benchmark):
    pytest.importorskip("stable_baselines3", reason="uv run --group bench pytest benchmarks")
    ours, _ = train(tmp_path / "run", 4, STEPS)
    peer = [sys.executable, str(Path(__file__).with_name("sb3_sac.py")), ENV_NAME, str(STEPS)]
    started = time.perf_counter()
    for _ in range(2):
        pair = [
            subprocess.Popen(peer, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        assert [process.wait() for process in pair] == [0, 0]
    theirs = time.perf_counter() - started
    benchmark.extra_info.update(ours=ours, sb3=theirs, ratio=theirs / ours)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n4 seeds to {STEPS} steps: {ours:.0f} s, SB3 {theirs:.0f} s: {theirs / ours:.2f} times")
    assert theirs / ours >= 1.7


@pytest.mark.timeout(3600)
def test_memory_of_seeds(tmp_path, benchmark):
    """At most 1.2 times the seeds' trees and replays, and one process."""
    steps, rows = 2000, []
    for num_seeds in (1, 4, 8):
        run_dir = tmp_path / str(num_seeds)
        _, usage = train(run_dir, num_seeds, steps)
        trees = sum(
            path.stat().st_size for path in (run_dir / "checkpoints" / str(steps)).rglob("*.safetensors")
        )
        replay = ReplayBuffer(steps, num_seeds=num_seeds).nbytes(21, 9)
        rows.append((num_seeds, usage["peak_memory_bytes"], trees + replay))
        print(
            f"\n{num_seeds} seed(s): {rows[-1][1] / 1e6:.0f} MB, trees and replay {rows[-1][2] / 1e6:.1f} MB"
        )
    benchmark.extra_info["rows"] = rows
    benchmark.pedantic(lambda: None, rounds=1)
    process = rows[0][1] - rows[0][2]
    for num_seeds, peak, own in rows:
        assert peak <= 1.2 * own + process * 1.02, num_seeds
