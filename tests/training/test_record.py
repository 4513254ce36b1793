"""What a run leaves of its configuration: that very one, whatever was loaded since."""

import attrs
import pytest

from rlhive.config import ConfigError, load_config
from rlhive.config.record import record_of, with_seeds
from rlhive.runs.gin_text import settings
from rlhive.training.session import train
from tests.envs.toy import ReachPoint
from tests.training.loop_runs import configure

BRIEF = ("TOTAL_STEPS=2", "train.updates_per_step=0", "train.checkpoint_every=2")


def test_each_run_leaves_the_configuration_that_it_trains_with(tmp_path):
    configs = {
        seed: configure(ReachPoint, f"SEED={seed}", f"adam.learning_rate={seed}e-4", *BRIEF)
        for seed in (3, 4)
    }
    for seed, config in configs.items():
        (tmp_path / str(seed)).mkdir()
        with attrs.validators.disabled():
            assert train(config, tmp_path / str(seed), resume=False)
    for seed in configs:
        own = settings((tmp_path / str(seed) / "config.gin").read_text())
        used = settings((tmp_path / str(seed) / "operative_config.gin").read_text())
        assert own["SEED"] == str(seed) and float(own["adam.learning_rate"]) == float(f"{seed}e-4")
        assert float(used["adam.learning_rate"]) == float(f"{seed}e-4")


def test_a_configuration_that_was_changed_since_it_was_loaded_leaves_no_record_of_another(tmp_path):
    config = load_config("sac.gin", "SEED=3")
    assert record_of(attrs.evolve(config, seed=3)) is config.record
    with pytest.raises(ConfigError, match="seed, tau of the configuration were changed"):
        train(attrs.evolve(config, tau=0.5, seed=4), tmp_path, resume=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"^seed, seeds of the configuration were changed"):
        record_of(attrs.evolve(config, seeds=(4, 9), seed=1))
    with pytest.raises(ConfigError, match="use one from load_config"):
        record_of(attrs.evolve(config, record=None))


def test_some_seeds_of_a_configuration_are_recorded_as_the_whole():
    whole = load_config("sac.gin", "NUM_SEEDS=3")
    part = with_seeds(whole, (3,))
    assert part.seeds == (3,) and record_of(part).text == record_of(whole).text
