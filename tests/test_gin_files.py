"""Every shipped gin file makes a run's parts."""

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict

import gin
from rlhive.config import ConfigError, load_config
from rlhive.core.keys import make_generators
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree_file import named_leaves
from rlhive.data.trace import trace_file, write_trial
from rlhive.paths import gin_directory
from rlhive.policy_fn.r3m import R3M
from rlhive.training.learner import make_learner

GIN_FILES = sorted(path.name for path in gin_directory().glob("*.gin"))
MACROS = ("ENV_NAME", "NUM_SEEDS", "SEED", "SEEDS", "NUM_ENVS", "TOTAL_STEPS", "DEVICE", "ALGORITHM", "GAMMA")
EXPLORATIONS = {
    "sac.gin": "none",
    "sac_gaussian.gin": "gaussian",
    "sac_ou.gin": "ornstein_uhlenbeck",
    "sac_egreedy.gin": "epsilon_random",
}
ENCODERS = {"sac_r3m.gin": "r3m18", "sac_rrl.gin": "rrl34", "sac_cnn.gin": "cnn"}
OFFLINE = {
    "bc.gin": ("bc", "gaussian"),
    "bc_deterministic.gin": ("bc", "deterministic"),
    "bc_gaussian.gin": ("bc", "gaussian"),
    "bc_tanh_gaussian.gin": ("bc", "tanh_gaussian"),
    "bc_mixture.gin": ("bc", "mixture"),
    "iql.gin": ("iql", "tanh_gaussian"),
    "td3_bc.gin": ("td3_bc", "deterministic"),
}
# The published weights are not here.
RANDOM = {"r3m18": ["r3m.weights='random'"], "rrl34": ["rrl.weights='random'"], "cnn": []}
FINE_TUNED = ("r3m.frozen=False",)
PIXELS = PixelSpec(cameras=("top_cam",), height=64, width=64, quality="fast")


def row(num_seeds: int, spec) -> TensorDict:
    """One step of one environment per seed."""
    observation = torch.zeros(num_seeds, 1, spec.observation_dim)
    flag = torch.zeros(num_seeds, 1, 1, dtype=torch.bool)
    following = {"observation": observation, "reward": flag.float(), "terminated": flag, "done": flag}
    action = torch.zeros(num_seeds, 1, spec.action_dim)
    return TensorDict({"observation": observation, "action": action, "next": following}, (num_seeds, 1))


def test_the_folder_holds_gin_files_only():
    # As a package it would hide the package gin.
    assert {path.suffix for path in gin_directory().iterdir()} == {".gin"}
    assert "rlhive" not in gin.__file__


def test_the_shipped_files():
    assert set(GIN_FILES) == {"base.gin", "offline.gin", "iql_to_sac.gin", *EXPLORATIONS, *ENCODERS, *OFFLINE}


def test_the_macros_on_top_are_the_ones_users_set_first():
    lines = (gin_directory() / "base.gin").read_text().splitlines()
    names = [line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")]
    assert tuple(names[: len(MACROS)]) == MACROS
    assert not any(name.isupper() for name in names[len(MACROS) :])


@pytest.mark.parametrize("name", ["base.gin", *EXPLORATIONS])
def test_makes_a_learner_that_acts_and_updates(name, franka_spec):
    small = ["NUM_SEEDS=2", "sac_network.hidden_sizes=(8,)", "train.batch_size=4", "replay.capacity=50"]
    small += ["train.compile=False"]  # that is for tests/core/test_compile.py
    config = load_config([name], small)
    learner = make_learner(config, franka_spec)
    generators = [make_generators(seed) for seed in config.seeds]
    state = learner.init(generators)

    action = learner.act(
        state, TensorDict({"observation": torch.zeros(2, 1, 21)}, [2, 1]), torch.zeros(2, 1, 9)
    )
    explore = config.exploration(franka_spec.action_low, franka_spec.action_high)
    draws = explore.draw([of_seed["exploration"] for of_seed in generators], 1)
    is_init = torch.ones(2, 1, 1, dtype=torch.bool)
    action, _ = explore.apply(explore.init((2, 1)), action, draws, 0, is_init)
    assert action.shape == (2, 1, 9)
    assert bool((action.abs() <= 1).all())

    replay = config.make_replay(num_seeds=2, num_envs=1, device=config.device)
    replay.extend(row(2, franka_spec))
    batch = replay.sample([of_seed["replay"] for of_seed in generators], config.batch_size)
    state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
    assert state["step"].tolist() == [1, 1]
    assert bool(metrics["loss"].isfinite().all())


@pytest.mark.parametrize(("name", "expected"), OFFLINE.items())
def test_makes_a_learner_of_recorded_episodes(name, expected, franka_spec, tmp_path):
    values = {"observations": np.ones((3, 21)), "actions": np.zeros((3, 9)), "rewards": np.zeros(3)}
    with trace_file(tmp_path / "demo.h5", "FrankaReachRandom-v0") as file:
        write_trial(file, "Trial0", values)
    small = [f"DATASET='{tmp_path / 'demo.h5'}'", "NUM_SEEDS=2", "train.batch_size=4"]
    config = load_config([name], small)
    learner = make_learner(config, franka_spec)
    assert (config.algorithm, learner.network.head) == expected
    assert (config.env_name, config.total_steps) == ("FrankaReachRandom-v0", 5000)
    generators = [make_generators(seed) for seed in config.seeds]
    state = learner.init(generators)
    batch = torch.cat([row(2, franka_spec)] * 4, dim=1)
    state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
    assert state["step"].tolist() == [1, 1] and bool(metrics["finite"].all())
    seen = TensorDict({"observation": torch.zeros(2, 3, 21)}, [2, 3])
    assert learner.plan(state, seen).shape == (2, 3, 1, 9)


@pytest.mark.parametrize(
    ("name", "bindings", "encoder"),
    [
        *((name, (), encoder) for name, encoder in ENCODERS.items()),
        pytest.param("sac_r3m.gin", FINE_TUNED, "r3m18", marks=pytest.mark.slow),  # 20 s
        pytest.param("sac_cnn.gin", ("train.compile=True",), "cnn", marks=pytest.mark.slow),  # a minute
    ],
)
def test_makes_a_learner_of_images(name, bindings, encoder, franka_spec):
    small = [*RANDOM[encoder], "sac_network.hidden_sizes=(8,)", "train.batch_size=2", "train.compile=False"]
    config = load_config([name], [*small, *bindings])
    made = config.make_encoder()
    assert made.name == encoder and config.pixels.cameras == ("left_cam", "right_cam", "top_cam")
    learner = make_learner(config, attrs.evolve(franka_spec, pixels=PIXELS), made)
    width = made.feature_dim(PIXELS) + 21 if made.frozen else 21
    generators = [make_generators(seed) for seed in config.seeds]
    state = learner.init(generators)
    assert ("encoder" in state["params"].keys()) == (not made.frozen)  # noqa: SIM118
    seen = {"observation": torch.zeros(1, 2, width)}
    if not made.frozen:
        seen["pixels"] = torch.zeros(1, 2, *PIXELS.shape, dtype=torch.uint8)
    flags = torch.zeros(1, 2, 1, dtype=torch.bool)
    following = {**seen, "reward": flags.float(), "terminated": flags, "done": flags}
    batch = TensorDict({**seen, "action": torch.zeros(1, 2, 9), "next": following}, [1, 2])
    action = learner.plan(state, TensorDict(seen, [1, 2]))
    new_state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
    assert action.shape == (1, 2, 1, 9) and bool(metrics["finite"].all())
    if not made.frozen:
        before, after = (named_leaves(of["params", "encoder"]) for of in (state, new_state))
        stay = {leaf for leaf in before if torch.equal(before[leaf], after[leaf])}
        assert stay == {leaf for leaf in before if "running_" in leaf}


def test_the_name_of_the_environment_alone_takes_r3m():
    name = ["ENV_NAME='FrankaReachRandom_v2d-v0'"]
    assert load_config(["sac_gaussian.gin"], [*name, *RANDOM["r3m18"]]).make_encoder() == R3M(
        "r3m18", "random"
    )
    with pytest.raises(
        ConfigError, match=r"r3m18: no checksum .* run python -m rlhive\.policy_fn\.r3m convert FILE"
    ):
        load_config(["sac_gaussian.gin"], name)


def test_an_encoder_without_images_is_refused():
    with pytest.raises(
        ConfigError, match=r"train\.encoder needs images, and FrankaReachRandom-v0 has none of its own"
    ):
        load_config(["sac_gaussian.gin"], ["train.encoder=@cnn"])


@pytest.mark.parametrize(("name", "exploration"), EXPLORATIONS.items())
def test_files_differ_in_their_exploration_alone(name, exploration):
    config, default = load_config([name]), load_config(["sac_gaussian.gin"])
    assert config.exploration.factory.__name__ == exploration
    assert attrs.evolve(config, exploration=default.exploration) == default


def test_the_default_run_is_the_one_of_the_learning_table():
    config = load_config(["sac_gaussian.gin"])
    assert (config.env_name, config.algorithm, config.device) == ("FrankaReachRandom-v0", "sac", "cpu")
    assert (config.evaluate_every, config.evaluation_episodes, config.seeds) == (2000, 20, (1,))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gaussian", {"sigma_init": 1.0, "sigma_end": 0.1, "annealing_steps": 1000}),
        ("epsilon_random", {"eps_init": 1.0, "eps_end": 0.1, "annealing_steps": 1000}),
        ("ornstein_uhlenbeck", {"eps_init": 1.0, "eps_end": 0.1, "annealing_steps": 1000}),
    ],
)
def test_annealing_is_the_originals(name, settings):
    load_config([{kind: file for file, kind in EXPLORATIONS.items()}[name]])
    assert settings.items() <= gin.get_bindings(name).items()


def test_every_locale_can_read_the_gin_files():
    assert all((gin_directory() / name).read_bytes().isascii() for name in GIN_FILES)
