"""A seed of a real run is the same alone, among others, and resumed: parameters, optimizer, normaliser, metrics."""

import pytest

from rlhive.config import load_config
from rlhive.training import loop
from rlhive.training.run import open_run
from tests.training.loop_runs import rows

BINDINGS = [
    "TOTAL_STEPS=2000",
    "train.init_random_steps=1500",
    "train.log_every=100",
    "train.loggers=()",
    "train.evaluate_every=2000",
    "train.evaluation_episodes=4",
    "train.num_workers=0",
    "adam.max_grad_norm=10.0",
]


def train(run_dir, *bindings, resume=False):
    run_dir.mkdir(exist_ok=True)
    config = load_config(["sac_gaussian.gin"], [*BINDINGS, *bindings])
    with open_run(config, run_dir, resume=resume) as run:
        assert loop.train(run)
    return run


@pytest.mark.timeout(900)
def test_2000_steps_of_franka_reach(tmp_path):
    alone = train(tmp_path / "alone", "SEED=3")
    assert alone.state["step"].tolist() == [500]
    train(tmp_path / "both", "SEEDS=(11, 3)", "TOTAL_STEPS=1720")  # 20 steps into an episode
    both = train(tmp_path / "both", "SEEDS=(11, 3)", resume=True)
    assert bool((both.state[1:] == alone.state).all())
    own, other = (
        # Where a run ends it is evaluated.
        [row for row in rows(tmp_path / "both", seed) if row["step"] != "1720"]
        for seed in (3, 11)
    )
    assert own == rows(tmp_path / "alone", 3)
    assert other != rows(tmp_path / "alone", 3)
