"""Steps per second from an h5 file to minibatches on the device: plain h5py loops, the first pass, later ones.

    uv run pytest benchmarks/test_data_benchmark.py -s

Every part makes torch minibatches of the same keys from the same Trace of RoboHive's writer, in turn, round after
round; the medians over the rounds count.
"""

import statistics
import time

import h5py
import numpy as np
import pytest
import torch

from rlhive.data import load_dataset
from tests.data.demo_files import write_demo

TRIALS, STEPS, BATCH, ROUNDS = 400, 50, 256, 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    return write_demo(tmp_path / "demo.h5", trials=TRIALS, steps=STEPS)


def transition(trial, rows, following):
    """Rows of one trial as the data set has them, float32."""
    numbers = {"observation": trial["observations"][rows], "action": trial["actions"][rows]}
    numbers |= {"next_observation": trial["observations"][following], "reward": trial["rewards"][following]}
    return {key: np.asarray(value, np.float32) for key, value in numbers.items()} | {
        "done": trial["done"][following]
    }


def to_batches(parts):
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.random.default_rng(0).permutation(len(whole["reward"]))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        index = order[start : start + BATCH]
        yield {key: torch.from_numpy(value[index]).to(DEVICE) for key, value in whole.items()}


def plain_epoch(path):
    """Every trial read with h5py into memory, then shuffled minibatches; returns the number of steps."""
    with h5py.File(path) as file:
        parts = [transition(file[name], slice(-1), slice(1, None)) for name in file]
    return sum(BATCH for _ in to_batches(parts))


def plain_random(path):
    """One minibatch whose steps are read where they lie in the file; returns the number of steps."""
    rng = np.random.default_rng(0)
    with h5py.File(path) as file:
        rows = [(f"Trial{rng.integers(TRIALS)}", int(rng.integers(STEPS))) for _ in range(BATCH)]
        parts = [transition(file[name], slice(row, row + 1), slice(row + 1, row + 2)) for name, row in rows]
        return sum(BATCH for _ in to_batches(parts))


def epoch(dataset):
    """As many minibatches as a pass has, on the device; returns the number of steps."""
    generator = torch.Generator().manual_seed(0)
    count = len(dataset) // BATCH
    for _ in range(count):
        dataset.sample([generator], BATCH).to(DEVICE)
    return count * BATCH


@pytest.mark.timeout(600)
def test_steps_per_second_from_h5_to_the_device(benchmark, demo, tmp_path, monkeypatch):
    built = load_dataset(demo)

    def first_pass(number):
        monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / f"cache{number}"))
        return epoch(load_dataset(demo))

    parts = {
        "h5py, one step at a time": lambda number: plain_random(demo),
        "h5py, all in memory": lambda number: plain_epoch(demo),
        "rlhive, building the data set": first_pass,
        "rlhive, opening and one pass": lambda number: opened_again(demo, tmp_path, monkeypatch),
        "rlhive, later passes": lambda number: epoch(built),
    }
    rates = {name: [] for name in parts}

    def one_round():
        for name, part in parts.items():
            start = time.perf_counter()
            steps = part(sum(map(len, rates.values())))
            rates[name].append(steps / (time.perf_counter() - start))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    medians = {name: round(statistics.median(values[1:])) for name, values in rates.items()}
    benchmark.extra_info["steps per second"] = medians
    print(
        f"\nsteps/s to {DEVICE}, {TRIALS} trials: "
        + ", ".join(f"{name} {rate}" for name, rate in medians.items())
    )
    assert medians["rlhive, opening and one pass"] >= 3 * medians["h5py, all in memory"]
    assert medians["rlhive, building the data set"] >= 3 * medians["h5py, one step at a time"]


def opened_again(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    return epoch(load_dataset(demo))
