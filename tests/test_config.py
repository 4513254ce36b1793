"""Configurations that load, and the one line each wrong one gets."""

import functools
import logging
import re

import attrs
import pytest
import torch
from tensordict import TensorDict

import gin
from rlhive.algorithms import ALGORITHMS
from rlhive.config import (
    ConfigError,
    config_text,
    configured_seeds,
    load_config,
    operative_config_text,
)
from rlhive.config_errors import finite
from rlhive.core.env_spec import EnvSpec
from rlhive.core.optim import adam
from rlhive.losses_fn import make_sac_loss
from rlhive.policy_fn import exploration
from rlhive.train import share_cores

SPEC = EnvSpec("", ("x",), ((0, 1),), 1, 1, (-1.0,), (1.0,), ("a",), 1.0)


def load(*bindings):
    return load_config(["sac_gaussian.gin"], bindings)


def first_step(opt) -> float:
    """How far an optimizer's first update moves a parameter."""
    params = TensorDict({"x": torch.zeros(1)})
    return -opt.update(params + 1.0, opt.init(params), params)[0]["x"].item()


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
        ("NUM_SEEDS=1000000000", "'num_seeds' must be <= 4096: 1000000000"),
        (
            "NUM_ENVS=65537",
            "1 seed(s) of 65537 environments each are more than 65536 in all: lower NUM_SEEDS",
        ),
        ("train.batch_size=100000000000", "'batch_size' must be <= 1048576: 100000000000"),
        ("NUM_ENVS=0", "'num_envs' must be >= 1"),
        ("train.tau=2.0", "'tau' must be <= 1"),
        ("train.tau=0.0", "'tau' must be > 0"),
        ("train.updates_per_step=-0.5", "'updates_per_step' must be >= 0"),
        ("train.evaluation_episodes=0", "'evaluation_episodes' must be >= 1"),
        ("sac_network.hidden_sizes=(0,)", "'hidden_sizes' must be >= 1"),
        ("GAMMA=1.5", "gamma must be in [0, 1], got 1.5"),
        ("sac_loss.reward_scale=0", "reward_scale must be positive, got 0"),
        ("adam.learning_rate=-1", "learning_rate must be positive and finite, got -1"),
        ("adam.b1=2", "b1 and b2 in [0, 1)"),
        ("gaussian.sigma_init=-1", "sigma_init=-1"),
        ("gaussian.annealing_steps=0", "annealing_steps must be at least 1, got 0"),
        ("replay.capacity=0", "capacity=0"),
        ("replay.n_step=0", "n_step must be at least 1, got n_step=0"),
        ("replay.scratch_dir=''", "replay.scratch_dir must be a directory, or None for memory, got ''"),
        ("replay.scratch_dir=5", "replay.scratch_dir must be str | os.PathLike[str] | None, got 5"),
        ("train.updates_per_step=1e308", "'updates_per_step' must be <= 1048576: 1e+308"),
        ("train.evaluation_episodes=10000000000", "'evaluation_episodes' must be <= 1048576"),
        ("adam.eps=10000000000000000000", "adam.eps must be a number of at most 64 bits"),
        ("train.optimizer=@gaussian", "train.optimizer must be @adam, got @gaussian"),
        ("train.exploration=@adam", "@epsilon_random or @none, got @adam"),
        ("train.exploration=@foo/adam", "@epsilon_random or @none, got @adam"),
        ("train.encoder=@adam", "train.encoder must be @r3m, @rrl, @cnn or @flat, got @adam"),
        (
            "train.exploration=@gaussian()",
            "gaussian has no value for 'action_low' and 'action_high': the run gives them, write @gaussian without ()",
        ),
        ("train.encoder=@cnn()", "write @cnn without ()"),
        ("train.optimizer=@adam()", "got GradientTransformation(init=adam.<locals>.init, update="),
        ("replay.capacity=255", "replay.capacity=255 never holds the 256 transitions of train.batch_size"),
        ("DEVICE='cudda'", "train.device='cudda' cannot be used here; expected 'cpu'"),
        ("DEVICE='meta'", "train.device='meta' cannot be used here; expected 'cpu'"),
    ],
)
def test_a_value_out_of_range_names_the_range(binding, words):
    assert words in refusal(binding)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("0", "'height' must be >= 1: 0"),
        ("2147483648", "'height' must be <= 8192: 2147483648"),
        ("(64,)", "image_size must be one number or a height and a width, got (64,)"),
    ],
)
def test_a_size_that_no_image_has_is_refused(size, words):
    images = ("images.from_pixels=True", "images.cameras=('top_cam',)")
    assert words in refusal(*images, f"images.image_size={size}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "TOTAL_STEPS = 5",
            "train has no value for 'env_name': include base.gin or a shipped file that does",
        ),
        ("include 'own.gin'", "own.gin: includes itself"),
        ("import no_such_module", "own.gin: No module named 'no_such_module'"),
    ],
)
def test_a_file_of_ones_own_that_does_not_do_is_refused_in_one_line(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.gin").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(["own.gin"])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_seeds_of_a_run_are_known_though_its_data_are_gone(tmp_path):
    own = tmp_path / "config.gin"
    own.write_text("include 'bc_gaussian.gin'\nDATASET = 'no longer there.h5'\nSEEDS = (4, 2)\n")
    assert configured_seeds(own) == (4, 2)
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config([own])


def test_a_replay_smaller_than_an_episode_is_refused():
    small = ("train.batch_size=8", "NUM_ENVS=2")
    words = "replay.capacity=99 must be at least 100, an episode of each environment of a seed"
    assert words in refusal("replay.capacity=99", *small)
    load("replay.capacity=100", *small)
    assert "at least 400" in refusal("replay.capacity=399", *small, "ENV_NAME='door-v1'")
    images = ("ENV_NAME='FrankaReachRandom_v2d-v0'", "train.encoder=@flat")
    assert "at least 100" in refusal("replay.capacity=99", *small, *images)


@pytest.mark.parametrize(
    ("binding", "parameter"),
    [
        ("train.updates_per_step=1e400", "train.updates_per_step"),
        ("train.tau=-1e400", "train.tau"),
        ("train.wandb={'x': 1e400}", "train.wandb"),
        ("adam.learning_rate=1e400", "adam.learning_rate"),
        ("adam.learning_rate=1" + 400 * "0", "adam.learning_rate"),
        ("sac_loss.reward_scale=1e400", "sac_loss.reward_scale"),
        ("GAMMA=1e400", "sac_loss.gamma"),
        ("gaussian.sigma_end=1e400", "gaussian.sigma_end"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(binding, parameter):
    assert f"{parameter} must be finite, got " in refusal(binding)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (1.0, float("nan")), [(1, float("-inf"))]])
def test_not_a_number_is_not_finite(value):
    assert not finite(value)


def test_a_schedule_without_its_settings_is_refused_before_the_run():
    assert "'decay_updates'" in refusal("adam.learning_rate=@cosine_schedule")
    without = "cosine_schedule has no value for 'learning_rate' and 'decay_updates': bind them"
    assert without in refusal("adam.learning_rate=@cosine_schedule()")
    wrong = ("cosine_schedule.learning_rate='x'", "cosine_schedule.decay_updates=10")
    assert "cosine_schedule.learning_rate must be float, got 'x'" in refusal(
        "adam.learning_rate=@cosine_schedule()", *wrong
    )
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


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        (("TOTAL_STEPS=%TOTAL_STEPS",), "the macro %TOTAL_STEPS is defined by itself: give it a value"),
        (("A=%B", "B=%A", "SEED=%A"), "the macro %A is defined by itself, through %B: give it a value"),
        (("A=%B", "B=%C", "C=(1, %A)", "SEEDS=%C"), "is defined by itself, through %"),
    ],
)
def test_a_macro_that_is_defined_by_itself_is_named(bindings, words):
    assert words in refusal(*bindings)


def test_a_reference_that_leads_back_to_itself_is_refused():
    loop = "cosine_schedule.learning_rate=@cosine_schedule()"
    assert "@cosine_schedule(), leads back to itself" in refusal(
        "adam.learning_rate=@cosine_schedule()", loop
    )


def test_a_macro_may_read_another_and_a_text_may_look_like_one(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text(
        "include 'sac_gaussian.gin'\n"
        "A = 3\nSEED = %A\n"
        "train.wandb = {'project': '%SEED and @foo/adam', 'name': \"it's %B\"}\n"
    )
    assert load_config([file]).seed == 3


@pytest.mark.parametrize(
    ("bindings", "text"),
    [
        (
            ("gaussian.sigma_end=0.3", "train.exploration=@none"),
            "gaussian.sigma_end: no part of this run is gaussian",
        ),
        (("iql_loss.expectile=0.9",), "iql_loss.expectile: no part of this run is iql_loss"),
        (("cosine_schedule.final_fraction=0.5",), "no part of this run is cosine_schedule"),
        (("rlhive.policy_fn.encoders.r3m.weights='x'",), "no part of this run is r3m"),
        (("replay.alpha=0.3",), "replay.alpha without replay.prioritized=True: add that"),
        (("replay.beta=0.3",), "replay.beta without replay.prioritized=True: add that"),
        (("replay.gamma=0.5",), "replay.gamma without replay.n_step above 1: add that"),
        (("train.video_cameras=('top_cam',)",), "train.video_cameras without train.video_every"),
        (("train.wandb={'project': 'x'}",), "train.wandb without 'wandb' in train.loggers"),
        (("train.skip_damaged=True",), "train.skip_damaged without train.dataset"),
    ],
)
def test_a_binding_of_what_the_run_does_not_use_is_refused(bindings, text):
    refused = refusal(*bindings)
    assert refused.startswith("nothing reads ")
    assert text in refused


@pytest.mark.parametrize(
    "bindings",
    [
        ("images.from_pixels=True", "images.cameras=('top_cam', 'front')", "images.image_size=64"),
        ("train.video_every=5", "train.video_cameras=('front',)"),
    ],
)
def test_cameras_that_the_model_has_not_are_refused(bindings):
    assert "FrankaReachRandom-v0 has no camera 'front'; it has left_cam, right_cam, top_cam" in refusal(
        *bindings
    )


def test_a_backend_that_draws_nothing_is_refused_where_images_are_drawn(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "off")
    load()
    for drawn in ("train.video_every=5", "ENV_NAME='FrankaReachRandom_v2d-v0'"):
        assert "MUJOCO_GL must be egl, osmesa or glfw, or not set, got 'off'" in refusal(drawn)


def test_a_video_shows_each_camera_once():
    twice = refusal("train.video_every=5", "train.video_cameras=('top_cam', 'top_cam')")
    assert "each named once; got top_cam, top_cam" in twice


def test_parts_of_the_users_own_are_taken_whatever_they_are_called():
    def flat(action_low, action_high):
        return exploration.none(action_low, action_high)

    def late(k=1.0):
        return k

    gin.external_configurable(flat, "my_noise")
    gin.external_configurable(late, "late_noise")
    load("train.exploration=@my_noise", "late_noise.k=2.0")


OWN_PARTS = """
import gin
from rlhive.core.optim import adam
from rlhive.algorithms import ALGORITHMS

def decayed(rate, decay=0.5):
    return adam(rate * decay)

def make_loss(network, *, gamma=0.95):
    return ALGORITHMS["sac"].make_loss(network, gamma=gamma)

gin.external_configurable(decayed, "decayed")
configurable = gin.external_configurable(make_loss, "imported_loss")
ALGORITHMS["imported"] = ALGORITHMS["sac"]._replace(make_loss=configurable)
"""


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory):
    """A gin file that imports an optimizer and an algorithm of one's own and names them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts_of_a_test.py").write_text(OWN_PARTS)
    text = ["import own_parts_of_a_test", "include 'sac.gin'", "ALGORITHM = 'imported'"]
    text += ["train.optimizer = @decayed", "decayed.rate = 1e-3"]
    (folder / "own.gin").write_text("\n".join(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "own.gin"
        ALGORITHMS.pop("imported", None)


def test_an_algorithm_that_a_file_imports_is_taken_and_its_parts_are_set(own_parts):
    config = load_config(own_parts, "imported_loss.gamma=0.5")
    assert config.algorithm == "imported" and config.make_loss.settings == {"gamma": 0.5}


def test_parts_of_the_users_own_stay_as_they_are_whatever_is_loaded_after(own_parts):
    config = load_config(own_parts, "decayed.decay=0.25")
    load_config(own_parts)
    assert config.optimizer.settings == {"rate": 1e-3, "decay": 0.25}


def test_a_decorator_of_the_users_own_acts_in_training_too():
    @functools.wraps(adam)
    def halved(learning_rate=1e-3):
        return adam(0.5 * learning_rate)

    gin.external_configurable(halved, "halved_adam")
    config = load("train.optimizer=@halved_adam", "halved_adam.learning_rate=1.0")
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_wrong_parameter_of_the_users_own_part_gets_the_nearest_one(own_parts):
    with pytest.raises(ConfigError, match=r"decayed has no parameter 'decai': did you mean decay\?"):
        load_config(own_parts, "decayed.decai=0.25")


def test_a_binding_of_what_the_run_uses_is_taken_in_a_scope_too():
    load("replay.alpha=0.3", "replay.prioritized=True")
    load("replay.gamma=0.95", "replay.n_step=2")
    load(
        "cosine_schedule.final_fraction=0.5",
        "adam.learning_rate=@cosine_schedule()",
        "cosine_schedule.learning_rate=1e-3",
        "cosine_schedule.decay_updates=100",
    )
    load("train.optimizer=@slow/adam", "slow/adam.b1=0.5")


@pytest.mark.parametrize(
    ("bindings", "name"),
    [
        (("foo/adam.learning_rate=1e-4",), "foo/adam.learning_rate"),
        (("foo/train.tau=0.5",), "foo/train.tau"),
        (("a/b/adam.b1=0.5", "train.optimizer=@a/adam"), "a/b/adam.b1"),
    ],
)
def test_a_binding_in_a_scope_that_nothing_refers_to_is_refused(bindings, name):
    scope = name.rpartition("/")[0]
    assert f"nothing reads {name}: no reference is @{scope}/" in refusal(*bindings)


def test_a_macro_in_a_scope_is_another_macro():
    assert "nothing reads the macro 'foo/TOTAL_STEPS': did you mean" in refusal("foo/TOTAL_STEPS=5")
    assert load("foo/TOTAL_STEPS=5", "SEED=%foo/TOTAL_STEPS").seed == 5


def test_bindings_in_a_scope_count_where_a_reference_names_it(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("train.optimizer = @a/b/adam\na/adam.learning_rate = 0.5\na/b/adam.b1 = 0.0\n")
    opt, params = load_config(["sac.gin", path]).optimizer(), TensorDict({"x": torch.zeros(1)})
    assert opt.update(params + 1.0, opt.init(params), params)[0]["x"].item() == pytest.approx(-0.5)
    with pytest.raises(ConfigError, match=r"a/b/adam\.b1 must be float"):
        load_config(["sac.gin", path], ["a/b/adam.b1='x'"])
    path.write_text("foo/adam.learning_rate = 0.5\n")
    with pytest.raises(ConfigError, match=r"nothing reads foo/adam\.learning_rate"):
        load_config(["sac.gin", path])


def given_by(base=adam):
    """An optimizer of one's own that another part makes."""
    return base()


def given_inside():
    return gin.get_configurable("given_by")()


gin.external_configurable(given_by, "given_by")
gin.external_configurable(given_inside, "given_inside")


@pytest.mark.parametrize(
    "bindings",
    [
        ("train.optimizer=@foo/adam", "foo/adam.learning_rate=0.5"),
        ("OPT=@foo/adam", "train.optimizer=%OPT", "foo/adam.learning_rate=0.5"),
        ("train.optimizer=@given_by", "given_by.base=@adam", "adam.learning_rate=0.5"),
        ("train.optimizer=@foo/given_by", "given_by.base=@adam", "foo/adam.learning_rate=0.5"),
        ("train.optimizer=@foo/given_by", "given_by.base=@foo/adam", "foo/adam.learning_rate=0.5"),
    ],
)
def test_parts_in_scopes_and_in_parts_stay_as_they_are_whatever_is_loaded_after(bindings):
    config = load(*bindings)
    load()
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_part_in_a_scope_is_called_in_it():
    config = load(
        "train.optimizer=@foo/given_inside", "foo/adam.learning_rate=0.5", "foo/given_by.base=@adam"
    )
    assert first_step(config.optimizer()) == pytest.approx(0.5)


def test_a_part_that_is_made_of_itself_is_refused():
    assert "leads back to itself" in refusal("train.optimizer=@given_by", "given_by.base=@given_by")


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
    assert explore.apply(explore.init((1,)), zero, noise, 0, zero.bool())[0].item() == 0.25
    opt, params = config.optimizer(), TensorDict({"x": zero})
    assert opt.update(params + 1.0, opt.init(params), params)[0]["x"].item() == pytest.approx(-1e-2)


def test_discounts_of_loss_and_replay_are_one():
    words = refusal("replay.n_step=3", "sac_loss.gamma=0.5")
    assert "sac_loss.gamma is 0.5 but replay.gamma" in words and "set GAMMA alone" in words
    load("replay.n_step=3", "GAMMA=0.5")
    load("sac_loss.gamma=0.5")  # one step has no sum


def test_an_algorithm_of_ones_own_is_taken_though_gin_knows_none_of_its_parts(monkeypatch):
    mine = ALGORITHMS["sac"]._replace()
    monkeypatch.setitem(ALGORITHMS, "mine", mine)
    config = load("ALGORITHM='mine'", "replay.n_step=3")
    assert (config.make_network, config.make_loss) == (mine.make_network, mine.make_loss)


def test_a_loss_of_ones_own_may_be_made_of_that_of_another_algorithm(monkeypatch):
    @functools.wraps(make_sac_loss)
    def dressed(network, **settings):
        return make_sac_loss(network, **settings)

    monkeypatch.setitem(ALGORITHMS, "dressed", ALGORITHMS["sac"]._replace(make_loss=dressed))
    assert load("ALGORITHM='dressed'").make_loss is dressed
    named = gin.external_configurable(make_sac_loss, "named_loss", module="a_test")
    monkeypatch.setitem(ALGORITHMS, "named", ALGORITHMS["sac"]._replace(make_loss=named))
    assert load("ALGORITHM='named'", "named_loss.gamma=0.5").make_loss.settings == {"gamma": 0.5}


@pytest.mark.parametrize(
    "binding",
    [
        "replay.num_seeds=7",
        "replay.total_steps=5",
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
        with pytest.raises(ValueError, match="stands instead of"):
            attrs.evolve(config, **given)


def test_a_copy_of_another_algorithm_takes_its_parts_too(monkeypatch):
    config, mine = load(), ALGORITHMS["sac"]._replace(make_loss=lambda network: make_sac_loss(network))
    monkeypatch.setitem(ALGORITHMS, "mine", mine)
    with pytest.raises(ValueError, match="algorithm is 'mine', but make_loss is that of sac: load"):
        attrs.evolve(config, algorithm="mine")
    assert attrs.evolve(config, algorithm="mine", make_loss=mine.make_loss).make_loss is mine.make_loss
    with pytest.raises(ValueError, match="algorithm is 'bc', but make_network is that of sac"):
        attrs.evolve(config, algorithm="bc")


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


def no_updates(caplog, *bindings) -> list[str]:
    caplog.clear()
    load(*bindings)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_run_without_updates_is_warned_of_once(caplog):
    (text,) = no_updates(caplog, "TOTAL_STEPS=1000")
    assert text.startswith("no update will be made in 1000 steps: ") and "\n" not in text
    assert "train.init_random_steps=1000" in text and "train.batch_size=256" in text
    assert caplog.records[0].name == "rlhive.config"


@pytest.mark.parametrize(
    ("bindings", "warned"),
    [
        (("TOTAL_STEPS=1001",), False),
        (("TOTAL_STEPS=256", "train.init_random_steps=0"), True),
        (("TOTAL_STEPS=257", "train.init_random_steps=0"), False),
        (("TOTAL_STEPS=1005", "NUM_ENVS=7"), False),  # whose steps are 994, 1001
        (("TOTAL_STEPS=1001", "NUM_ENVS=7"), True),
        (("TOTAL_STEPS=1002", "NUM_ENVS=7"), False),
        (("TOTAL_STEPS=1500", "train.updates_per_step=0.001"), True),
        (("TOTAL_STEPS=2000", "train.updates_per_step=0.001"), False),
        (("TOTAL_STEPS=10", "train.updates_per_step=0"), False),  # as asked for
    ],
)
def test_a_run_is_without_updates_where_none_is_due(bindings, warned, caplog):
    assert bool(no_updates(caplog, *bindings)) == warned


def test_a_run_to_begin_with_is_looked_for_before_the_run(tmp_path):
    words = refusal(f"train.init_from='{tmp_path}'")
    assert (
        f"train.init_from='{tmp_path}' must be the directory of a run with a checkpoint: " in words
        and "none" in words
    )
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest").symlink_to("5")
    assert load(f"train.init_from='{tmp_path}'").init_from == str(tmp_path)


def test_a_run_that_goes_on_needs_no_run_to_begin_with(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text('include "sac.gin"\ntrain.init_from = "/nonexistent"\n')
    with pytest.raises(ConfigError, match="must be the directory of a run with a checkpoint"):
        load_config([path])
    (tmp_path / "checkpoints").mkdir()
    assert load_config([path]).init_from == "/nonexistent"


@pytest.mark.parametrize(
    ("device", "least"), [("cpu", 10_000), ("cpu:0", 10_000), ("cuda", 2_000), ("cuda:1", 2_000)]
)
def test_the_update_is_compiled_where_that_pays(device, least):
    config = attrs.evolve(load(f"TOTAL_STEPS={least}"), device=device)
    assert config.compiles and not attrs.evolve(config, total_steps=least - 1).compiles
    assert not attrs.evolve(config, compile=False).compiles


@pytest.mark.parametrize(
    ("device", "is_one"), [("cpu", False), ("cpu:0", False), ("cuda", True), ("cuda:1", True)]
)
def test_a_gpu_is_one_by_whatever_number(device, is_one):
    config = attrs.evolve(load(), device=device)
    assert config.on_gpu == is_one
    assert ("thread(s)" in share_cores(config)) != is_one
