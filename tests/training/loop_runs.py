"""Runs of the training loop in this process, on tiny environments, and what they leave."""

import csv

import attrs
import torch
from safetensors.torch import load_file

from rlhive.config import load_config
from rlhive.config.record import record_of, recorded
from rlhive.training import loop
from rlhive.training.run import open_run

SMALL = [
    "train.num_workers=0",
    "train.loggers=()",
    "sac_network.hidden_sizes=(16,)",
    "train.batch_size=8",
    "train.init_random_steps=20",
    "TOTAL_STEPS=60",
    "train.evaluate_every=1000",
    "train.evaluation_episodes=1",
    "train.log_every=10",
    "replay.capacity=1000",
]


def no_images(env_name):
    """Those of a toy."""


def configure(env, *bindings):
    """The configuration of a run of a RoboHive id, or of a toy, which no file can name."""
    config = load_config(["sac_gaussian.gin"], [*SMALL, *bindings])
    return config if isinstance(env, str) else of_toy(config, env)


def of_toy(config, env):
    """The configuration with a toy, recorded as if it had been loaded with it."""
    record = record_of(config)
    with attrs.validators.disabled():
        changed = attrs.evolve(config, env_name=env, choose_images=no_images)
        return recorded(changed, record.text, record.operative_text)


def train(env, run_dir, *bindings, resume=False):
    """Trains, and returns the run as the loop leaves it."""
    run_dir.mkdir(exist_ok=True)
    with open_run(configure(env, *bindings), run_dir, resume=resume) as run:
        assert loop.train(run)
    return run


def stored(run) -> dict[str, torch.Tensor]:
    """The transitions on disk, `[T, S, E, ...]`."""
    return load_file(run.run_dir / "replay" / f"{run.step}.safetensors")


def rows(run_dir, seed=None) -> list[dict[str, str]]:
    """Those of metrics.csv, of all seeds or of one, without their times."""
    with (run_dir / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "wall_time"}
            for row in csv.DictReader(file)
            if seed is None or row["seed"] == str(seed)
        ]
