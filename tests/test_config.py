"""Configurations that load, and the one line each wrong one gets."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

import gin
from rlhive.config import ConfigError, TrainConfig, config_text, load_config, operative_config_text
from rlhive.config import lock as locking
from rlhive.config.errors import finite
from rlhive.training.session import share_cores
from tests.config_loads import load, refusal


def test_a_load_does_not_wait_for_ever_for_another_thread(monkeypatch):
    monkeypatch.setattr(locking, "SECONDS_TO_WAIT", 0.01)
    words = "another thread has been loading a configuration for 0 s: import"
    with (
        ThreadPoolExecutor(1) as threads,
        locking._BINDINGS_LOCK,
        pytest.raises(ConfigError, match=words),
    ):
        threads.submit(load).result()


def test_a_module_that_a_file_imports_may_not_load_a_configuration_itself(tmp_path, monkeypatch):
    (tmp_path / "loads_one.py").write_text("from rlhive.config import load_config\nload_config('sac.gin')\n")
    (tmp_path / "mine.gin").write_text("include 'sac.gin'\ntrain.tau = 0.5\nimport loads_one\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = "a module that a gin file imports loads a configuration itself: load it inside a function"
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "mine.gin")
    assert load().tau == 0.005


def test_a_configuration_made_by_hand_is_checked_too():
    for field in ("loggers", "video_cameras"):
        with pytest.raises(ValueError, match="expected several names, as in"):
            TrainConfig(env_name="FrankaReachRandom-v0", **{field: "csv"})
    config = TrainConfig(env_name="FrankaReachRandom_v2d-v0")
    with pytest.raises(
        ValueError, match="has images and the configuration no encoder: load it by load_config"
    ):
        config.make_encoder()


def test_depth_images_are_no_part_of_training():
    assert "images.depth cannot be set: training reads no depth images" in refusal("images.depth=True")


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


def test_several_values_and_the_name_of_a_part_are_told_how_they_are_written():
    assert refusal("SEEDS=3,7, 11").endswith(": several values need brackets, as in SEEDS=(3,7, 11)")
    assert "brackets" not in refusal("ENV_NAME='a,b") + refusal("a=b=c,d")
    assert refusal("ENV_NAME='''a").endswith(": a bracket or a quote is opened and never closed")
    assert refusal("train.exploration=gaussian").endswith(": write @gaussian for the part of that name")
    assert refusal("train.exploration='gaussian'").endswith(", got 'gaussian'; write @gaussian")
    assert refusal("train.exploration='gaussen'").endswith(", got 'gaussen'")


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
        ("GAMMA=1.5", "wrong value for sac_loss: gamma must be in [0, 1], got 1.5"),
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
        (
            "import no_such_module",
            "own.gin, line 1, `import no_such_module`: No module named 'no_such_module'",
        ),
        (
            "include 'base.gin'\nENV_NAME = door-v1",
            "own.gin, line 2, `ENV_NAME = door-v1`: expected NAME=VALUE",
        ),
        ("\n\nadam.b1: 0.5\n", "own.gin, line 3, `adam.b1: 0.5`: expected NAME=VALUE"),
        ("train.optimizer = adam", "own.gin, line 1, `train.optimizer = adam`: write @adam for the part"),
        ("SEEDS = (1,", "own.gin: a bracket or a quote is opened and never closed"),
        ("MINE = 3", "nothing reads the macro 'MINE': include 'base.gin' or a shipped file that does"),
    ],
)
def test_a_file_of_ones_own_that_does_not_do_is_refused_in_one_line(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.gin").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(["own.gin"])
    assert words in str(caught.value) and "\n" not in str(caught.value)


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
    with pytest.raises(
        ConfigError,
        match=r"mine.gin, line 2, `adam.learning_rat = 1.0`: adam has no parameter 'learning_rat': did",
    ):
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


def test_the_operative_text_has_the_defaults_too():
    load()
    text = operative_config_text()
    assert "adam.b1 = 0.9" in text
    assert "gaussian.sigma_init = 1.0" in text


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


def test_whether_and_why_the_update_is_compiled_is_told(monkeypatch):
    long, short = load("TOTAL_STEPS=10000"), load("TOTAL_STEPS=9999")
    assert long.describe_compiling() == "updates are compiled: the run has at least 10000 updates"
    assert short.describe_compiling() == "updates are not compiled: the run has fewer than 10000 updates"
    told = attrs.evolve(long, compile=False).describe_compiling()
    assert told == "updates are not compiled: as train.compile says"
    monkeypatch.setattr("rlhive.config.train_config.has_compiler", lambda: False)
    assert long.describe_compiling() == "updates are not compiled: there is no C++ compiler"


@pytest.mark.parametrize(
    ("device", "is_one"), [("cpu", False), ("cpu:0", False), ("cuda", True), ("cuda:1", True)]
)
def test_a_gpu_is_one_by_whatever_number(device, is_one):
    config = attrs.evolve(load(), device=device)
    assert config.on_gpu == is_one
    assert ("thread(s)" in share_cores(config)) != is_one


def test_loads_in_several_threads_do_not_mix():
    def loads(thread):
        asked = [(f"TOTAL_STEPS={2000 * thread + number}", f"SEED={thread}") for number in range(1, 6)]
        return [load_config("sac.gin", bindings) for bindings in asked]

    with ThreadPoolExecutor(2) as threads:
        configs = list(threads.map(loads, (1, 2)))
    found = [[(config.total_steps, config.seed) for config in own] for own in configs]
    assert found == [[(2000 * seed + number, seed) for number in range(1, 6)] for seed in (1, 2)]
    assert "TOTAL_STEPS = 4005\n" in configs[1][-1].record.text
