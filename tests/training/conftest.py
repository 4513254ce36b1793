"""What the tests of the training loop share."""

import pytest

from rlhive.runs.gin_text import settings
from rlhive.training import loop, run
from tests.envs.toy import ReachPoint
from tests.training.loop_runs import train

# What no function of a learner depends on: which seeds run, how long, and what becomes of their results.
OF_THE_LOOP = (
    "evaluate_every",
    "checkpoint",
    "init_random",
    "log",
    "num_workers",
    "target",
    "updates_per_step",
)
IGNORED = ("NUM_SEEDS", "SEED", "TOTAL_STEPS", *(f"train.{name}" for name in OF_THE_LOOP))


@pytest.fixture(scope="session")
def learners():
    """Those of the runs of these tests, by their settings."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def one_learner_for_the_same_settings(learners):
    """Shares learners among runs: they are pure, and to trace one takes longer than most of these runs.

    Elsewhere each run traces its own: `tests/test_many_seeds.py` compares such ones, alone, among others and resumed.
    """
    make_learner = run.make_learner

    def shared(config, spec, encoder=None):
        bindings = settings(config.record.text).items()
        own = tuple(binding for binding in bindings if not binding[0].startswith(IGNORED))
        key = own, repr(config.optimizer), spec, encoder, config.compiles
        if key not in learners:
            learners[key] = make_learner(config, spec, encoder)
        return learners[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_learner", shared)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    """Spares these runs their pictures, a third of their time; tests/test_train.py and tests/test_curves.py draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_curves", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A finished run of seed 1 on `ReachPoint`, to be read only."""
    return train(ReachPoint, tmp_path_factory.mktemp("plain"))
