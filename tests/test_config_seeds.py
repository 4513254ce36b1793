"""The seeds of a configuration: named or counted up, few or too many."""

import attrs
import pytest

from rlhive.config import ConfigError, configured_seeds, load_config
from rlhive.config.record import recorded, with_seeds
from tests.config_loads import load, refusal


def test_the_seeds_of_a_run_are_known_though_its_data_are_gone(tmp_path):
    own = tmp_path / "config.gin"
    own.write_text("include 'bc_gaussian.gin'\nDATASET = 'no longer there.h5'\nSEEDS = (4, 2)\n")
    assert configured_seeds(own) == (4, 2)
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config([own])


def test_seeds_count_up_from_the_first():
    assert load("SEED=3", "NUM_SEEDS=3").seeds == (3, 4, 5)


def test_seeds_can_be_named():
    config = load("SEEDS=[3, 11, 7]")
    assert config.seeds == (3, 11, 7) and (config.seed, config.num_seeds) == (1, 1)


@pytest.mark.parametrize("binding", ["SEED=4", "NUM_SEEDS=5", "train.num_seeds=2"])
def test_seeds_are_named_or_counted_up(binding):
    assert refusal("SEEDS=(3, 7)", binding).startswith(f"nothing reads {binding.split('=')[0]}: SEEDS=(3, 7)")


def test_seeds_may_be_named_that_are_to_be_added_to_a_run_of_others(tmp_path):
    (tmp_path / "config.gin").write_text("include 'sac.gin'\nSEED=4\nNUM_SEEDS=2")
    assert load_config(tmp_path / "config.gin", "SEEDS=(4, 5, 9)").seeds == (4, 5, 9)


def test_the_seeds_of_a_copy_are_those_that_it_is_given():
    config = load("SEED=3", "NUM_SEEDS=2")
    assert attrs.evolve(config, seed=5).seeds == (5, 6)
    assert attrs.evolve(config, num_seeds=3).seeds == (3, 4, 5)
    assert attrs.evolve(config, seeds=(9, 2), seed=1, num_seeds=1).seeds == (9, 2)
    for given in ({"seeds": (9, 2)}, {"seeds": (3, 4), "seed": 1}):
        with pytest.raises(ValueError, match="give only one of the two"):
            attrs.evolve(config, **given)


def test_seeds_that_are_added_are_not_filmed():
    config = load("SEEDS=(1, 2)")
    filmed = recorded(attrs.evolve(config, video_every=2), config.record.text, "")
    added = with_seeds(filmed, (2,))
    assert (added.seeds, added.video_every, added.record.text) == ((2,), None, config.record.text)


@pytest.mark.parametrize("wrong", ["[1, 1]", "[-1]", "[1.5]", "3"])
def test_wrong_seeds_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"train.seeds must be|whole numbers"):
        load(f"SEEDS={wrong}")


def test_the_last_seed_is_below_2_to_the_32():
    assert load("SEED=4294967294", "NUM_SEEDS=2").seeds[-1] == 2**32 - 1
    text = refusal("SEED=4294967294", "NUM_SEEDS=4096")
    assert "from 0 to 2**32 - 1, each once, got [4294967294, " in text and len(text) < 200
    with pytest.raises(ValueError, match="from 0 to 2"):
        attrs.evolve(load(), seed=2**32)


def test_the_most_seeds_and_environments():
    assert load("NUM_SEEDS=4096", "NUM_ENVS=16", "replay.prioritized=True").num_seeds == 4096
    assert "2 seed(s) of 32769 environments each" in refusal("SEEDS=(3, 5)", "NUM_ENVS=32769")
    assert "Length of 'seeds' must be <= 4096" in refusal(f"SEEDS={tuple(range(4097))}")
