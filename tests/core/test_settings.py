"""What a caller of the library gives by mistake is refused in one line that says what was expected."""

import functools
import multiprocessing
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from rlhive.config import load_config
from rlhive.config.train_config import TrainConfig
from rlhive.core.keys import as_generator
from rlhive.core.optim import adam
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.replay import ReplayBuffer
from rlhive.core.train_step import init_state, make_train_step
from rlhive.data import load_dataset
from rlhive.envs import VectorEnv
from rlhive.envs.names import check_name
from rlhive.losses_fn import make_sac_loss
from rlhive.losses_fn.bc import make_bc_loss
from rlhive.losses_fn.common import distance, td_target
from rlhive.losses_fn.iql import make_iql_loss
from rlhive.losses_fn.td3_bc import make_td3_bc_loss
from rlhive.policy_fn.actor import ActorCritic, actor_critic
from rlhive.policy_fn.encoders import cnn
from rlhive.policy_fn.mlp import init_mlp
from rlhive.policy_fn.offline_network import bc_network, iql_network, td3_bc_network
from rlhive.policy_fn.r3m import from_module, load_r3m
from tests.data.demo_files import write_demo
from tests.envs.toy import ReachPoint
from tests.helpers import make_batch, make_network, make_spec

SPEC = make_spec()
FLOAT_IMAGE = torch.zeros(1, 1, 64, 64, 3)


def make_toy_cnn():
    return cnn(PixelSpec(cameras=("a",), height=64, width=64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: td_target(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool), torch.zeros(4), 0.9),
            "reward, terminated and next_value must be of one shape, got [4, 1], [4, 1], [4]",
        ),
        (
            lambda: distance(torch.zeros(4, 1), torch.zeros(4), "l2"),
            "prediction and target must be of one shape, got [4, 1] and [4]",
        ),
        (
            lambda: distance(torch.zeros(4), torch.zeros(4), "l1"),
            "the kind of a distance must be one of ('l2', 'smooth_l1'), got 'l1'",
        ),
        (
            lambda: make_sac_loss(SPEC),
            "make_sac_loss needs a network of class ActorCritic, got one of EnvSpec",
        ),
        (
            lambda: make_sac_loss(iql_network(SPEC)),
            "make_sac_loss needs a network with log_alpha, this one has actor, critic, value alone",
        ),
        (
            lambda: make_iql_loss(td3_bc_network(SPEC)),
            "make_iql_loss needs a network with value, this one has actor, critic alone",
        ),
        (
            lambda: make_td3_bc_loss(iql_network(SPEC)),
            "make_td3_bc_loss needs the head 'deterministic', got 'tanh_gaussian'",
        ),
        (
            lambda: make_bc_loss(make_network()),
            "make_bc_loss needs a network of class OfflineNetwork, got one of ActorCritic",
        ),
        (
            lambda: make_train_step(adam(1e-3), make_sac_loss(make_network())),
            "make_train_step takes a loss function and a GradientTransformation such as adam(1e-3), "
            "got GradientTransformation and function",
        ),
        (
            lambda: actor_critic(SPEC, activation="gelu"),
            "'activation' must be in ('relu', 'elu', 'silu', 'tanh') (got 'gelu')",
        ),
        (
            lambda: bc_network(SPEC, head="gauss"),
            "'head' must be in ('deterministic', 'gaussian', 'tanh_gaussian', 'mixture') (got 'gauss')",
        ),
        (
            lambda: TrainConfig(env_name="", algorithm="ppo"),
            "'algorithm' must be in ('sac', 'bc', 'iql', 'td3_bc') (got 'ppo')",
        ),
        (
            lambda: attrs.evolve(TrainConfig(env_name=""), env_name=ReachPoint),
            "env_name must be an id of RoboHive, got <class 'tests.envs.toy.ReachPoint'>; "
            "environments of one's own are stepped by VectorEnv(factory)",
        ),
        (
            lambda: load_r3m("r3m18", weights="random", precision="f16"),
            "'precision' must be in ('float32', 'bfloat16') (got 'f16')",
        ),
        (lambda: make_network().init(None), "the key must be a whole number or a torch.Generator, got None"),
        (lambda: make_network().init("1"), "the key must be a whole number or a torch.Generator, got '1'"),
        (lambda: make_toy_cnn().init(None), "the key must be a whole number or a torch.Generator, got None"),
        (lambda: init_mlp(None, (2, 3)), "the key must be a whole number or a torch.Generator, got None"),
        (
            lambda: ActorCritic(3, (1.0,), (-1.0,)),
            "each of action_low must be below its own of action_high, got [1.0] and [-1.0]",
        ),
        (
            lambda: ActorCritic(3, (-1.0, -1.0), (1.0,)),
            "each of action_low must be below its own of action_high, got [-1.0, -1.0] and [1.0]",
        ),
        (lambda: ReplayBuffer(1e6), "capacity must be a whole number, got 1000000.0"),
        (lambda: ReplayBuffer(9, n_step=2.5), "n_step must be a whole number, got 2.5"),
        (
            lambda: ReplayBuffer(9, gamma=2.0),
            "gamma must be in [0, 1], got 2.0",
        ),
        (lambda: ReplayBuffer(9, alpha=2.0), "alpha and beta must be in [0, 1], got alpha=2.0, beta=0.5"),
        (
            lambda: ReplayBuffer(9, scratch_dir=__file__),
            f"replay.scratch_dir must be a directory, got the file {__file__!r}",
        ),
        (
            lambda: PixelSpec("top_cam", 64, 64),
            "expected several names, as in ('top_cam',), got the text 'top_cam'",
        ),
        (
            lambda: make_toy_cnn().apply(make_toy_cnn().init(0), FLOAT_IMAGE),
            "images must be uint8 [..., 64, 64, 3], got torch.float32 [1, 1, 64, 64, 3]",
        ),
        (
            lambda: VectorEnv(ReachPoint, seeds=1),
            "VectorEnv needs a list of one seed or more, num_envs >= 1, num_workers >= 0 and timeout > 0; "
            "got seeds=1, num_envs=1, num_workers=None, timeout=120.0",
        ),
        (
            lambda: check_name("MyReach-v0"),
            "'MyReach-v0' is not an environment of RoboHive: did you mean myoHandReachFixed-v0, myoHandReachRandom-v0, "
            "myoFingerReachFixed-v0? Only those of RoboHive 0.7.0 are known; "
            "for a variant or an environment of your own use VectorEnv(factory)",
        ),
    ],
)
def test_one_line_says_what_was_expected(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


def test_what_no_factory_may_be():
    with pytest.raises(
        RuntimeError, match="the factory must return a NumpyEnv whose spec is an EnvSpec, got None"
    ):
        VectorEnv(lambda: None, seeds=[1], num_workers=0)
    with pytest.raises(
        ValueError, match="cannot be sent to worker processes: give a function or class at the top"
    ):
        VectorEnv(lambda: ReachPoint(), seeds=[1], num_workers=1)
    counted = functools.partial(_count, multiprocessing.get_context("spawn").Value("i"))
    with VectorEnv(counted, seeds=[1], num_workers=1):
        assert counted.args[0].value >= 1  # what is sent while a process starts, and only then, arrives


def _count(counter):
    counter.value += 1
    return ReachPoint()


def test_another_module_than_a_resnet_is_refused_in_few_words():
    with pytest.raises(ValueError, match=r"Linear: keys do not fit: missing .* more; unexpected") as caught:
        from_module(nn.Linear(1, 1), "r3m18")
    assert len(str(caught.value)) < 400


def test_whole_numbers_of_numpy_are_keys_too():
    assert as_generator(np.int64(3)).initial_seed() == 3


def test_what_no_minibatch_is_drawn_with(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path))
    dataset = load_dataset(write_demo(tmp_path / "demo.h5"))
    replay, generator = ReplayBuffer(9), torch.Generator()
    replay.extend(make_batch(generator, 1).auto_batch_size_(1).unsqueeze(0))
    for part in (dataset, replay):
        for generators, size in (([1], 4), ([generator], 8.0), (generator, 4), ([generator], 0)):
            with pytest.raises(ValueError, match=r"expected a list of torch\.Generator, one per seed"):
                part.sample(generators, size)
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"chunk_size must be at least 1, got {size}"):
            dataset.sample([generator], 4, chunk_size=size)


def test_one_file_and_one_binding_need_no_list():
    listed = load_config(["sac.gin"], ["TOTAL_STEPS=100"])
    assert attrs.evolve(listed) == listed
    for file in ("sac.gin", Path("sac.gin")):
        assert load_config(file, "TOTAL_STEPS=100").total_steps == 100


@pytest.mark.parametrize(
    ("make", "keys", "got"),
    [
        (dict, ("actor",), "keys [], got dict and ('actor',)"),
        (list, (), "keys [], got list and ()"),
        (TensorDict, "actor", "keys ['actor', 'log_alpha'], got TensorDict and 'actor'"),
        (TensorDict, ("critics",), "keys ['actor', 'log_alpha'], got TensorDict and ('critics',)"),
    ],
)
def test_a_state_is_of_a_tree_and_names_of_its_subtrees(make, keys, got):
    params = make({"actor": TensorDict({"weight": torch.zeros(2)}), "log_alpha": torch.zeros(())})
    with pytest.raises(ValueError) as caught:
        init_state(params, adam(1e-3), observation_dim=5, target_keys=keys)
    assert str(caught.value).endswith(got) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [dict, TensorDict])
def test_metrics_are_a_dict_or_a_tree(wrap):
    state, step, batch, noise = make_step(lambda metrics: wrap({"one": metrics["loss_actor"]}))
    _, metrics = step(state, batch, noise)
    assert set(metrics.keys()) == {"one", "loss", "finite"}


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda metrics: {"a": {"b": metrics["alpha"]}}, r"got {'a': 'dict'}"),
        (lambda metrics: {"a": 1.0}, r"got {'a': 'float'}"),
        (lambda metrics: None, "got NoneType"),
    ],
)
def test_other_metrics_are_refused(change, got):
    state, step, batch, noise = make_step(change)
    with pytest.raises(ValueError, match="of tensors by name, none of them nested; " + got):
        step(state, batch, noise)


def make_step(change):
    """A state, the step of SAC with other metrics, and what it takes."""
    from rlhive.losses_fn import draw_sac_noise

    network, generator = make_network(), torch.Generator().manual_seed(0)
    sac = make_sac_loss(network)

    def loss_fn(*arguments):
        loss, metrics = sac(*arguments)
        return loss, change(metrics)

    state = init_state(network.init(generator), adam(1e-3), observation_dim=5, target_keys=("critic",))
    step = make_train_step(loss_fn, adam(1e-3))
    return state, step, make_batch(generator, 8), draw_sac_noise(generator, network, 8)
