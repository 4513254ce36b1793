"""Seeds added to a finished run: afterwards it is the run that had them from the start."""

import csv
import json

import attrs
import pytest
import torch
from safetensors.torch import load_file

import gin
from rlhive.config import load_config
from rlhive.core import loop
from rlhive.core.checkpoint import load_checkpoint
from rlhive.core.merge import ADDED, seeds_to_add
from rlhive.core.run import open_run
from rlhive.core.tree_file import LoadError
from rlhive.envs.toy import ReachPoint
from rlhive.train import add_seeds

SMALL = [
    *("train.num_workers=0", "train.loggers=()", "sac_network.hidden_sizes=(16, 16)", "train.batch_size=8"),
    *(
        "train.init_random_steps=20",
        "TOTAL_STEPS=60",
        "train.evaluate_every=20",
        "train.evaluation_episodes=2",
    ),
    *("train.log_every=10", "train.checkpoint_every=20", "replay.capacity=1000"),
]


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


def configure(seeds, *bindings):
    config = load_config(["sac_gaussian.gin"], [*SMALL, f"SEEDS={seeds}", *bindings])
    with attrs.validators.disabled():
        return attrs.evolve(config, env_name=ReachPoint)


def train(run_dir, seeds, *bindings, resume=False):
    run_dir.mkdir(exist_ok=True)
    with attrs.validators.disabled(), open_run(configure(seeds, *bindings), run_dir, resume=resume) as run:
        assert loop.train(run)
    return run_dir


def add(run_dir, seeds, before, *bindings):
    with attrs.validators.disabled():
        return add_seeds(configure(seeds, *bindings), run_dir, before)


def table(run_dir, name) -> list[dict[str, str]]:
    with (run_dir / name).open() as file:
        rows = [{**row, "wall_time": ""} for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: (int(row["step"]), row.get("seed", ""), str(row)))


def assert_same_run(one, other, seeds):
    for step in (20, 40, 60):
        ours, theirs = (load_checkpoint(run_dir, seeds, step=step) for run_dir in (one, other))
        assert bool((ours.state == theirs.state).all())
    for name in ("metrics.csv", "metrics_over_seeds.csv"):
        assert table(one, name) == table(other, name)
    ours, theirs = (load_file(run_dir / "replay" / "60.safetensors") for run_dir in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("bindings", [(), ("replay.prioritized=True",)])
def test_added_seeds_are_as_if_they_had_been_there(tmp_path, bindings):
    whole = train(tmp_path / "whole", (6, 5, 9), *bindings)
    grown = train(tmp_path / "grown", (5,), *bindings)
    assert add(grown, (6, 5, 9), (5,), *bindings)
    assert_same_run(grown, whole, (6, 5, 9))
    assert not (grown / ADDED).exists()
    assert json.loads((grown / "usage.json").read_text())["seconds"] > 0
    for run_dir in (whole, grown):
        train(run_dir, (6, 5, 9), *bindings, "TOTAL_STEPS=80", resume=True)
    ours, theirs = (load_checkpoint(run_dir, (6, 5, 9)) for run_dir in (whole, grown))
    assert ours.step == theirs.step == 80 and bool((ours.state == theirs.state).all())


def test_a_plain_resume_adds_nothing(tmp_path):
    run_dir = train(tmp_path / "run", (5,))
    assert seeds_to_add(run_dir, configure((5,))) == ()


def test_a_merge_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    whole, grown = train(tmp_path / "whole", (5, 6)), train(tmp_path / "grown", (5,))
    with monkeypatch.context() as patch:
        patch.setattr("rlhive.core.merge.merge_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(grown, (5, 6), (5,))
    assert (grown / ADDED).exists()
    assert add(grown, (5, 6), (5,))
    assert_same_run(grown, whole, (5, 6))


@pytest.mark.parametrize(
    ("seeds", "bindings", "words"),
    [
        ((6,), (), r"has the seeds \[5\] too"),
        ((5, 6), ("TOTAL_STEPS=100",), r"is at step 60, not at the end of 100 steps"),
    ],
)
def test_what_cannot_be_added_is_refused(tmp_path, seeds, bindings, words):
    run_dir = train(tmp_path / "run", (5,))
    with pytest.raises(LoadError, match=words):
        seeds_to_add(run_dir, configure(seeds, *bindings))
