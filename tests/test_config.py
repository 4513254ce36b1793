"""Configurations that load, and the one line each wrong one gets."""

import re

import attrs
import pytest
import torch
from tensordict import TensorDict

import gin
from rlhive.config import ConfigError, config_text, load_config, operative_config_text
from rlhive.core.env_spec import EnvSpec

SPEC = EnvSpec("", ("x",), ((0, 1),), 1, 1, (-1.0,), (1.0,), ("a",), 1.0)


@pytest.fixture(autouse=True)
def clear_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def load(*bindings):
    return load_config(["sac_gaussian.gin"], bindings)


def refusal(*bindings) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*bindings)
    text = str(caught.value)
    assert "\n" not in text
    assert not re.search("not supported between|Attribute\\(|object at 0x|In call to", text)
    return text


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("TOTAL_STEPZ=10", ["'TOTAL_STEPZ'", "did you mean TOTAL_STEPS?"]),
        ("train.total_steps=%TOTAL_STEPZ", ["%TOTAL_STEPZ has no value", "did you mean TOTAL_STEPS"]),
        ("sac_los.gamma=0.9", ["'sac_los'", "did you mean sac_loss"]),
        ("train.exploration=@gausian", ["'gausian'", "did you mean gaussian"]),
        ("sac_loss.gama=0.9", ["sac_loss has no parameter 'gama'", "did you mean gamma?"]),
        ("train.batchsize=3", ["train has no parameter 'batchsize'", "did you mean batch_size"]),
        ("train.make_loss=@sac_loss", ["make_loss"]),
        ("ENV_NAME='FrankaReachRandm-v0'", ["'FrankaReachRandm-v0'", "did you mean FrankaReachRandom-v0"]),
        ("ENV_NAME='zzz'", ["'zzz'", "python -m rlhive.envs --list"]),
        ("ALGORITHM='sacc'", ["'algorithm'", "'sac'", "'sacc'"]),
        ("train.loggers=('tensorbord',)", ["'tensorbord'", "did you mean tensorboard?"]),
        ("sac_network.activation='rulu'", ["'activation'", "'relu'", "'rulu'"]),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(binding, words):
    text = refusal(binding)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "binding",
    [
        "ENV_NAME=FrankaReachRandom-v0",
        "ENV_NAME",
        "TOTAL_STEPS=",
        "=3",
        "train.tau=float('nan')",
        "DEVICE=cpu",
    ],
)
def test_what_is_no_binding_is_told_how_to_write_one(binding):
    assert refusal(binding) == (
        f"--gin_bindings={binding}: expected NAME=VALUE with a Python literal as value; "
        "strings need quotes, as in NAME='text'"
    )


@pytest.mark.parametrize(
    ("binding", "parameter", "expected"),
    [
        ("train.tau='x'", "train.tau", "float"),
        ("TOTAL_STEPS=2.5", "train.total_steps", "int"),
        ("NUM_SEEDS=True", "train.num_seeds", "int"),
        ("DEVICE=3", "train.device", "str"),
        ("train.loggers='tensorboard'", "train.loggers", r"tuple\[str, ...\]"),
        ("train.num_workers='x'", "train.num_workers", r"int \| None"),
        ("train.exploration=None", "train.exploration", "Callable"),
        ("adam.learning_rate='x'", "adam.learning_rate", r"float \| Callable"),
        ("adam.max_grad_norm='x'", "adam.max_grad_norm", r"float \| None"),
        ("sac_network.hidden_sizes=64", "sac_network.hidden_sizes", r"Sequence\[int\]"),
        ("sac_network.hidden_sizes=('a',)", "sac_network.hidden_sizes", r"Sequence\[int\]"),
        ("sac_network.critic_layer_norm=1", "sac_network.critic_layer_norm", "bool"),
        ("GAMMA=None", "sac_loss.gamma", "float"),
        ("gaussian.annealing_steps='x'", "gaussian.annealing_steps", "int"),
        ("replay.capacity=2.5", "replay.capacity", "int"),
        ("replay.alpha='x'", "replay.alpha", "float"),
    ],
)
def test_a_wrong_type_names_the_parameter_and_the_type(binding, parameter, expected):
    text = refusal(binding)
    assert re.search(f"{parameter} must be {expected}.*, got ", text), text


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("TOTAL_STEPS=0", "'total_steps' must be >= 1"),
        ("SEED=-1", "'seed' must be >= 0"),
        ("SEED=4294967296", "from 0 to 2**32 - 1, each once"),
        ("NUM_ENVS=0", "'num_envs' must be >= 1"),
        ("train.tau=2.0", "'tau' must be <= 1"),
        ("train.tau=0.0", "'tau' must be > 0"),
        ("train.updates_per_step=-0.5", "'updates_per_step' must be >= 0"),
        ("train.evaluation_episodes=0", "'evaluation_episodes' must be >= 1"),
        ("sac_network.hidden_sizes=(0,)", "'hidden_sizes' must be >= 1"),
        ("GAMMA=1.5", "gamma must be in [0, 1], got 1.5"),
        ("sac_loss.reward_scale=0", "reward_scale must be positive, got 0"),
        ("adam.learning_rate=-1", "learning_rate must be positive, got -1"),
        ("adam.b1=2", "b1 and b2 in [0, 1)"),
        ("gaussian.sigma_init=-1", "sigma_init=-1"),
        ("gaussian.annealing_steps=0", "annealing_steps must be at least 1, got 0"),
        ("replay.capacity=0", "capacity=0"),
        ("replay.n_step=0", "n_step=0"),
        ("replay.capacity=255", "replay.capacity=255 never holds the 256 transitions of train.batch_size"),
        ("DEVICE='cudda'", "train.device='cudda' cannot be used here; expected 'cpu'"),
    ],
)
def test_a_value_out_of_range_names_the_range(binding, words):
    assert words in refusal(binding)


def test_a_schedule_without_its_settings_is_refused_before_the_run():
    assert "'decay_updates'" in refusal("adam.learning_rate=@cosine_schedule")
    assert "'decay_updates'" in refusal("adam.learning_rate=@cosine_schedule()")
    load(
        "adam.learning_rate=@cosine_schedule()",
        "cosine_schedule.learning_rate=1e-3",
        "cosine_schedule.decay_updates=1000",
    )


def test_wandb_needs_its_project():
    assert "needs its project" in refusal("train.loggers=('wandb',)")


def test_an_unknown_file_gets_the_nearest_shipped_one():
    with pytest.raises(ValueError, match=r"no gin file 'sac_gausian.gin': did you mean sac_gaussian.gin"):
        load_config(["sac_gausian.gin"])


def test_a_wrong_line_in_a_file_is_told_with_the_file(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text('include "sac.gin"\nadam.learning_rat = 1.0\n')
    with pytest.raises(ConfigError, match=r"mine.gin: adam has no parameter 'learning_rat': did you mean"):
        load_config([path])
    path.write_text('include "nothing.gin"\n')
    with pytest.raises(ConfigError, match=r"nothing\.gin"):
        load_config([path])


def test_later_bindings_win_over_earlier_ones_and_files(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("TOTAL_STEPS = 7\nSEED = 8\nadam.learning_rate = 0.5\n")
    config = load_config(["sac_gaussian.gin", path], ["SEED=9", "SEED=10", "ENV_NAME='door-v1'"])
    assert (config.total_steps, config.seed, config.env_name) == (7, 10, "door-v1")
    assert gin.query_parameter("adam.learning_rate") == 0.5


def test_a_parameter_wins_over_its_macro_but_a_macro_given_must_be_read():
    assert load("train.total_steps=5").total_steps == 5
    assert "nothing reads the macro 'TOTAL_STEPS'" in refusal("train.total_steps=5", "TOTAL_STEPS=6")


def test_a_load_forgets_the_one_before():
    load("train.tau=0.5", "SEED=4", "sac_loss.reward_scale=3.0")
    config = load()
    assert (config.tau, config.seed) == (0.005, 1)
    assert gin.query_parameter("sac_loss.reward_scale") == 1.0


@pytest.mark.parametrize(
    "bindings",
    [
        (),
        ("NUM_SEEDS=3", "SEED=5", "train.loggers=('csv', 'tensorboard')", "sac_network.hidden_sizes=(8,)"),
        ("train.total_steps=5", "replay.prioritized=True", "GAMMA=0.5", "train.updates_per_step=0.5"),
        (
            "adam.learning_rate=@cosine_schedule()",
            "cosine_schedule.learning_rate=1e-3",
            "cosine_schedule.decay_updates=10",
        ),
    ],
)
def test_the_text_of_a_configuration_gives_it_again(bindings, tmp_path):
    config, text = load(*bindings), config_text()
    path = tmp_path / "config.gin"
    path.write_text(text)
    again = load_config([path])
    if "adam.learning_rate=@cosine_schedule()" in bindings:  # a schedule is a function, equal to itself alone
        again = attrs.evolve(again, optimizer=config.optimizer)
    assert again == config
    assert config_text() == text


def test_a_configuration_stays_as_it_is_whatever_is_loaded_or_cleared_after():
    small = ["sac_network.hidden_sizes=(8, 8)", "replay.capacity=5000", "sac_loss.gamma=0.5"]
    small += ["adam.learning_rate=@cosine_schedule()", "cosine_schedule.learning_rate=1e-2"]
    small += ["cosine_schedule.decay_updates=10", "gaussian.sigma_init=0.25", "gaussian.sigma_end=0.25"]
    images = ["ENV_NAME='FrankaReachRandom_v2d-v0'", "images.cameras=('top_cam',)", "r3m.weights='random'"]
    config = load(*small, *images)
    load()
    gin.clear_config()
    assert config.make_network(SPEC).hidden_sizes == (8, 8)
    assert config.make_replay(num_seeds=1, num_envs=1, device="cpu").capacity == 5000
    assert config.pixels.cameras == ("top_cam",)
    assert config.make_encoder().weights == "random"
    explore, zero = config.exploration((-1.0,), (1.0,)), torch.zeros(1, 1)
    noise = TensorDict({"normal": torch.ones(1, 1)}, [1])
    assert explore.apply(explore.init(1, 1), zero, noise, 0, zero.bool())[0].item() == 0.25
    opt, params = config.optimizer(), TensorDict({"x": zero})
    assert opt.update(params + 1.0, opt.init(params), params)[0]["x"].item() == pytest.approx(-1e-2)


def test_discounts_of_loss_and_replay_are_one():
    words = refusal("replay.n_step=3", "sac_loss.gamma=0.5")
    assert "sac_loss.gamma is 0.5 but replay.gamma" in words and "set GAMMA alone" in words
    load("replay.n_step=3", "GAMMA=0.5")
    load("sac_loss.gamma=0.5")  # one step has no sum


@pytest.mark.parametrize(
    "binding",
    [
        "replay.num_seeds=7",
        "replay.device='cuda'",
        "gaussian.action_low=(0.0,)",
        "sac_network.spec=None",
        "sac_loss.network=None",
        "r3m.pixels=None",
    ],
)
def test_what_a_run_gives_its_parts_itself_is_no_setting(binding):
    name = binding.split("=")[0]
    assert f"{name} cannot be set" in refusal(binding)


def test_the_operative_text_has_the_defaults_too():
    load()
    text = operative_config_text()
    assert "adam.b1 = 0.9" in text
    assert "gaussian.sigma_init = 1.0" in text


def test_seeds_count_up_from_the_first():
    assert load("SEED=3", "NUM_SEEDS=3").seeds == (3, 4, 5)


def test_seeds_can_be_named():
    config = load("SEEDS=[3, 11, 7]")
    assert config.seeds == (3, 11, 7) and config.num_seeds == 3


@pytest.mark.parametrize("wrong", ["[1, 1]", "[-1]", "[1.5]", "3"])
def test_wrong_seeds_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"train.seeds must be|whole numbers"):
        load(f"SEEDS={wrong}")
