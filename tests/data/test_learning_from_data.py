"""From a file to a policy: behaviour cloning recovers the function that the recorded actions are of."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.func import vmap

from rlhive.core.normalizer import normalize
from rlhive.core.optim import adam
from rlhive.core.train_step import init_state, make_train_step
from rlhive.core.tree import stack_seeds
from rlhive.data import load_dataset
from rlhive.data.trace import trace_file, write_trial
from rlhive.losses_fn.bc import make_bc_loss
from rlhive.policy_fn.heads import HEADS
from rlhive.policy_fn.offline_network import bc_network
from tests.helpers import make_spec


def expert(observation):
    """Actions `[..., 2]`, well within the limits, of observations `[..., 5]` far from normalised."""
    scaled = (observation - 10.0) / 3.0
    return 0.8 * np.tanh(
        np.stack([scaled[..., 0] - scaled[..., 1], scaled[..., 2] * scaled[..., 3]], axis=-1)
    )


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    with trace_file(tmp_path / "demo.h5", None) as file:
        for number in range(20):
            observations = 10.0 + 3.0 * rng.normal(size=(101, 5))
            actions = expert(observations)
            actions[-1] = np.nan
            values = {"rewards": np.zeros(101), "done": np.zeros(101, bool)}
            write_trial(file, f"Trial{number}", {"observations": observations, "actions": actions, **values})
    return load_dataset(tmp_path / "demo.h5")


@pytest.mark.parametrize("head", HEADS)
def test_behaviour_cloning_recovers_the_expert_for_two_seeds(dataset, head):
    network = bc_network(make_spec(), head=head, hidden_sizes=(64, 64))
    opt, generators = adam(3e-3), [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    states = [
        init_state(network.init(generator), opt, observation_dim=5, target_keys=())
        for generator in generators
    ]
    state = stack_seeds(states)
    state["env_state", "observation"] = torch.stack([dataset.normalizer()] * 2)
    step = vmap(make_train_step(make_bc_loss(network), opt))
    nothing = TensorDict({}, batch_size=[2])
    for _ in range(400):
        state, metrics = step(state, dataset.sample(generators, 128), nothing)
    assert metrics["finite"].all()
    observation = torch.from_numpy(10.0 + 3.0 * np.random.default_rng(1).normal(size=(500, 5))).float()
    for seed in range(2):
        seen = normalize(state[seed]["env_state", "observation"], observation)
        action = network.mode(state[seed]["params", "actor"], seen)
        assert (action - torch.from_numpy(expert(observation.numpy()))).square().mean() < 0.02
