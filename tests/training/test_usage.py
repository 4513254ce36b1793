"""usage.json: what a run took, over all the processes that trained it."""

import json
import time
from types import SimpleNamespace

import pytest

from rlhive import train
from rlhive.algorithms import ALGORITHMS
from rlhive.runs.run_files import read_usage
from rlhive.training import loop
from rlhive.training.run import open_run
from rlhive.training.usage import record_usage
from tests.envs.toy import ReachPoint
from tests.training.loop_runs import SMALL, configure
from tests.training.loop_runs import train as train_toy


def test_a_run_that_is_killed_keeps_the_time_up_to_its_last_checkpoint(tmp_path):
    bindings = ("TOTAL_STEPS=100", "train.checkpoint_every=20")
    started = time.monotonic()
    with pytest.raises(MemoryError), open_run(configure(ReachPoint, *bindings), tmp_path) as run:
        send = run.envs.send

        def killed(action):
            if run.step == 50:
                raise MemoryError
            time.sleep(0.01)
            send(action)

        run.envs.send = killed
        loop.train(run)
    killed_after = read_usage(tmp_path)
    assert killed_after["environment_steps"] == 40
    assert 0.4 < killed_after["seconds"] < time.monotonic() - started
    train_toy(ReachPoint, tmp_path, *bindings, resume=True)
    usage = read_usage(tmp_path)
    assert usage["environment_steps"] == 100 and usage["seconds"] > killed_after["seconds"]


def test_the_steps_of_an_algorithm_of_ones_own_are_counted_as_its_entry_says(tmp_path, monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["bc"])
    config = SimpleNamespace(algorithm="mine", on_gpu=False, compiles=False)
    record_usage(SimpleNamespace(run_dir=tmp_path, config=config, step=7, started=time.monotonic()))
    usage = read_usage(tmp_path)
    assert usage["gradient_updates"] == 7 and "environment_steps" not in usage


def test_a_run_without_a_finite_seed_has_its_usage(tmp_path):
    with pytest.raises(FloatingPointError):
        train_toy(ReachPoint, tmp_path, "sac_loss.reward_scale=1e39")
    usage = read_usage(tmp_path)
    assert usage["environment_steps"] == 20 and usage["seconds"] > 0


def test_the_largest_memory_of_all_processes_is_kept(tmp_path):
    train_toy(ReachPoint, tmp_path, "TOTAL_STEPS=40")
    large = {"peak_memory_bytes": 2**50, "worker_peak_memory_bytes": 2**49, "gpu_peak_memory_bytes": 2**48}
    (tmp_path / "usage.json").write_text(json.dumps(read_usage(tmp_path) | large))
    train_toy(ReachPoint, tmp_path, resume=True)
    usage = read_usage(tmp_path)
    assert usage["environment_steps"] == 60
    assert {name: usage[name] for name in large} == large


def test_resuming_a_finished_run_adds_no_time(tmp_path):
    settings = [*SMALL, "ENV_NAME='FrankaReachRandom-v0'", "TOTAL_STEPS=40"]
    assert train.run(["sac_gaussian.gin"], settings, str(tmp_path), resume=False) == 0
    before = (tmp_path / "usage.json").read_text()
    assert train.run([], [], str(tmp_path), resume=True) == 0
    assert (tmp_path / "usage.json").read_text() == before


def test_the_memory_of_workers_is_their_own(tmp_path):
    train_toy(ReachPoint, tmp_path, "train.num_workers=1", "TOTAL_STEPS=30")
    usage = read_usage(tmp_path)
    assert 10e6 < usage["worker_peak_memory_bytes"] < usage["peak_memory_bytes"] / 2  # which has torch
