"""Settings are tensors as well as numbers: `torch.func.vmap` over one is a population, each as if it were alone."""

import pytest
import torch
from torch.func import vmap

from rlhive.algorithms import ALGORITHMS
from rlhive.core.optim import adam, cosine_schedule
from rlhive.core.train_step import init_state, make_train_step
from rlhive.core.tree import leaves, map_tree
from tests.helpers import make_batch, make_spec


def make_parts(name):
    algorithm, generator = ALGORITHMS[name], torch.Generator().manual_seed(0)
    network = algorithm.make_network(make_spec(), hidden_sizes=(8,))
    params, batch = network.init(generator), make_batch(generator, 8)
    if name == "sac":
        params["log_alpha"] = torch.tensor(-0.5)  # at 0 the aim of the entropy does not matter to the loss
    return algorithm, network, params, batch, algorithm.draw_noise(generator, network, 8)


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("sac", "gamma", [0.9, 0.99]),
        ("sac", "reward_scale", [0.5, 2.0]),
        ("sac", "target_entropy", [-1.0, -3.0]),
        ("iql", "gamma", [0.9, 0.99]),
        ("iql", "expectile", [0.6, 0.9]),
        ("iql", "temperature", [1.0, 3.0]),
        ("td3_bc", "gamma", [0.9, 0.99]),
        ("td3_bc", "alpha", [1.0, 4.0]),
        ("td3_bc", "policy_noise", [0.1, 0.3]),
        ("td3_bc", "noise_clip", [0.1, 0.3]),
    ],
)
def test_a_population_of_losses_is_a_loop_over_them(name, setting, values):
    algorithm, network, params, batch, noise = make_parts(name)

    def loss_of(value):
        return algorithm.make_loss(network, **{setting: value})(params, params, batch, noise)[0]

    population = vmap(loss_of)(torch.tensor(values))
    torch.testing.assert_close(population, torch.stack([loss_of(value) for value in values]))
    assert population[0] != population[1]


@pytest.mark.parametrize(
    "make_step",
    [
        lambda loss_fn, value: make_train_step(loss_fn, adam(1e-3), tau=value),
        lambda loss_fn, value: make_train_step(loss_fn, adam(value)),
        lambda loss_fn, value: make_train_step(loss_fn, adam(lambda count: value)),
        lambda loss_fn, value: make_train_step(loss_fn, adam(cosine_schedule(value, 10))),
    ],
    ids=["tau", "adam", "constant", "cosine"],
)
def test_a_population_of_updates_is_a_loop_over_them(make_step):
    algorithm, network, params, batch, noise = make_parts("sac")
    loss_fn = algorithm.make_loss(network)
    state = init_state(params, adam(1e-3), observation_dim=5, target_keys=("critic",))

    def updated(value):
        return make_step(loss_fn, value)(state, batch, noise)[0].select("params", "target_params")

    population = vmap(updated)(torch.tensor([0.01, 0.1]))
    for index, value in enumerate((0.01, 0.1)):
        for together, alone in zip(leaves(population), leaves(updated(value)), strict=True):
            torch.testing.assert_close(together[index], alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["sac", "iql", "td3_bc"])
def test_updates_keep_the_dtype_of_every_leaf(name, dtype):
    def cast(tree):
        return map_tree(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)

    algorithm, network, params, batch, noise = make_parts(name)
    state = cast(init_state(params, adam(1e-3), observation_dim=5, target_keys=algorithm.target_keys))
    step = make_train_step(algorithm.make_loss(network), adam(1e-3))
    for _ in range(3):
        following, metrics = step(state, cast(batch), cast(noise))
        assert {key: leaf.dtype for key, leaf in following.items(True, True)} == {
            key: leaf.dtype for key, leaf in state.items(True, True)
        }
        assert metrics["loss"].dtype == dtype
        state = following
