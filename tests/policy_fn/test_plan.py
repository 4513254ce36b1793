"""Plans of several actions: what is left of one is checked as an observation is."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.policy_fn import load
from rlhive.policy_fn.offline_network import bc_network
from rlhive.runs.run_spec import new_run_spec


@pytest.fixture
def policy(franka_spec):
    network = bc_network(franka_spec, hidden_sizes=(8, 8), chunk_size=4)
    constants = {"loc": torch.zeros(21), "scale": torch.ones(21), "count": torch.tensor(10.0)}
    params, env_state = network.init(torch.Generator().manual_seed(0)), TensorDict({"observation": constants})
    return load(params, env_state, spec=new_run_spec("bc", franka_spec, network))


def test_a_plan_is_carried_out_for_one_and_for_a_batch(policy):
    for observation in (np.ones(21, np.float32), np.ones((5, 21), np.float32), torch.ones(2, 3, 21)):
        plan, rest = policy.plan(observation), None
        for step in range(4):
            action, rest = policy.act(observation, rest)
            assert (action == plan[..., step, :]).all()
        assert rest is None


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (np.zeros((2, 8)), r"rest must have shape \[1 to 3, 9\], got \[2, 8\]"),
        (np.zeros((4, 9)), r"rest must have shape \[1 to 3, 9\], got \[4, 9\]"),
        (np.zeros((0, 9)), r"got \[0, 9\]"),
        (np.zeros(9), r"got \[9\]"),
        (np.zeros((5, 2, 9)), r"got \[5, 2, 9\]"),
        (np.full((2, 9), np.nan), "rest is not finite or not within the action's limits"),
        (torch.full((2, 9), 1.5), "rest is not finite or not within the action's limits"),
        (np.zeros((2, 9), int), "rest must be a tensor or an array of floats, got ndarray"),
        ([[0.0] * 9] * 2, "rest must be a tensor or an array of floats, got list"),
    ],
)
def test_what_is_left_of_no_plan_is_refused(policy, rest, message):
    with pytest.raises(ValueError, match=message) as caught:
        policy.act(np.zeros(21, np.float32), rest)
    assert "\n" not in str(caught.value)


def test_a_policy_of_one_action_has_nothing_left(make_run):
    with pytest.raises(ValueError, match="rest must be None: the policy plans one action at a time"):
        load(make_run().run_dir).act(np.zeros(21), np.zeros((1, 9)))


def test_noise_of_a_single_action_is_of_one_action(make_run):
    policy, noise = load(make_run().run_dir), np.ones((1, 9), np.float32)
    action, rest = policy.act(np.zeros(21), noise=noise)
    assert rest is None and (action == policy(np.zeros(21), noise[0])).all()
    with pytest.raises(ValueError, match=r"noise must have shape \[1, 9\], got \[2, 9\]"):
        policy.act(np.zeros(21), noise=np.ones((2, 9), np.float32))


@pytest.mark.parametrize(
    "observation",
    [torch.zeros(21).to(torch.complex64), torch.zeros(21).to_sparse()],
    ids=["complex", "sparse"],
)
def test_tensors_are_dense_and_real(policy, observation):
    with pytest.raises(ValueError, match="tensors must be dense and hold real numbers, got torch"):
        policy(observation)
