"""What the process set for torch, numpy and its own logging changes neither trees nor actions."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.algorithms import ALGORITHMS
from rlhive.core.normalizer import init_normalizer
from rlhive.core.optim import adam, cosine_schedule
from rlhive.core.pixel_spec import PixelSpec
from rlhive.core.tree import leaves
from rlhive.policy_fn import LoadError, load
from rlhive.policy_fn.encoders import cnn
from rlhive.policy_fn.exploration import epsilon_random, gaussian, ornstein_uhlenbeck
from rlhive.policy_fn.resnet import ResNet
from rlhive.runs.run_spec import new_run_spec
from tests.helpers import make_spec


def make_policy(chunk_size=1, **settings):
    algorithm = ALGORITHMS["bc"]
    network = algorithm.make_network(make_spec(), hidden_sizes=(16,), chunk_size=chunk_size)
    constants = init_normalizer(5).update({"count": torch.tensor(10.0, dtype=torch.float32)})
    spec = new_run_spec("bc", make_spec(), network)
    params = network.init(torch.Generator().manual_seed(0))
    return load(params, TensorDict({"observation": constants}), spec=spec, **settings)


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", ["one", "many", "noise", "plan", "act"])
def test_autocast_around_a_policy_changes_no_bit(way):
    policy = make_policy(chunk_size=2)
    x = torch.linspace(-1.0, 1.0, 5)
    ways = {
        "one": lambda: policy(x),
        "many": lambda: policy(x.expand(3, 5)),
        "noise": lambda: policy.plan(x, torch.ones(2, 2)),
        "plan": lambda: policy.plan(x),
        "act": lambda: policy.act(x)[0],
    }
    expected = ways[way]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ways[way](), expected)
        assert torch.is_autocast_enabled("cpu")


def test_trees_are_float32_whatever_the_default(float64_by_default):
    generator = torch.Generator().manual_seed(0)
    pixels, low, high = PixelSpec(("a",), 16, 16), (-1.0, -1.0), (1.0, 1.0)
    trees = [
        init_normalizer(5),
        cnn(pixels, layers=((4, 4, 2),), dim=3).init(generator),
        ResNet(18).init(generator),
    ]
    for algorithm in ALGORITHMS.values():
        network = algorithm.make_network(make_spec(), hidden_sizes=(16,), actor_layer_norm=True)
        trees += [network.init(generator), algorithm.draw_noise(generator, network, 4)]
    trees += [make(low, high).draw(generator, 3) for make in (gaussian, epsilon_random, ornstein_uhlenbeck)]
    trees.append(ornstein_uhlenbeck(low, high).init((3,)))
    opt = adam(cosine_schedule(1e-3, 10))
    trees.append(opt.update(network.init(generator), opt.init(network.init(generator)), None)[0])
    assert {leaf.dtype for tree in trees for leaf in leaves(tree)} == {torch.float32}


def test_a_policy_loads_and_acts_alike_whatever_the_default(float64_by_default):
    policy = make_policy()
    action = policy(np.ones(5, np.float32))
    torch.set_default_dtype(torch.float32)
    assert action.dtype == np.float32 and np.array_equal(action, make_policy()(np.ones(5, np.float32)))


def test_large_observations_are_looked_at_without_warnings_of_numpy():
    with np.errstate(all="raise"):
        assert np.isfinite(make_policy()(np.full(5, 3e38, np.float32))).all()


def test_a_device_without_values_is_refused():
    with pytest.raises(LoadError, match="device meta: "):
        make_policy(device="meta")
