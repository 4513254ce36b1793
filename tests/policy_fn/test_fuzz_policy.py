"""Observations of every kind of wrong: an action that comes out is finite and within its limits."""

import math

import attrs
import numpy as np
import pytest

from rlhive.policy_fn import load

LOW, HIGH = (-0.3, *[-2.0] * 8), (0.1, *[5.0] * 8)
DTYPES = (np.float32, np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_)
WRONG = (np.complex128, np.str_, np.object_, np.datetime64)
SPECIAL = np.array(
    [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        5e-324,
        1e-45,
        1e-38,
        3.4e38,
        -3.4e38,
        1e39,
        1.7e308,
        -1.7e308,
        1e19,
        1.0,
    ]
)


def fuzzed(rng, count, dim):
    """Arrays of one dtype with a few of the special values strewn in; some of another shape."""
    scale = 10.0 ** rng.uniform(-45, 38, size=count)
    values = rng.normal(size=(count, dim)) * scale[:, None]
    strewn = rng.integers(dim, size=(count, 2)), SPECIAL[rng.integers(len(SPECIAL), size=(count, 2))]
    kinds = rng.integers(4, size=count)
    dtypes = rng.integers(len(DTYPES), size=count)
    for index in range(count):
        observation = values[index]
        if kinds[index] != 0:
            observation[strewn[0][index, : kinds[index] - 1]] = strewn[1][index, : kinds[index] - 1]
        with np.errstate(all="ignore"):
            yield observation.astype(DTYPES[dtypes[index]] if index % 3 else np.float64)


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_action_is_not_finite_or_outside_of_its_limits(make_run, franka_spec, count):
    policy = load(make_run(env=attrs.evolve(franka_spec, action_low=LOW, action_high=HIGH)).run_dir)
    low, high = np.float32(LOW), np.float32(HIGH)
    acted = 0
    for observation in fuzzed(np.random.default_rng(0), count, 21):
        with np.errstate(over="ignore"):
            fits = bool(np.isfinite(observation.astype(np.float32)).all())
        try:
            action = policy(observation)
        except ValueError as error:
            assert not fits, observation
            assert "not finite at" in str(error)
            continue
        assert fits, observation
        assert math.isfinite(action.sum()) and (action >= low).all() and (action <= high).all(), observation
        acted += 1
    assert count / 5 < acted < 0.9 * count


@pytest.mark.parametrize("dtype", WRONG)
@pytest.mark.parametrize("by_key", [False, True])
def test_what_holds_no_numbers_is_refused(make_run, dtype, by_key):
    policy = load(make_run().run_dir)
    wrong = np.zeros(21, dtype=object).astype(dtype) if dtype is not np.datetime64 else np.zeros(21, "M8[s]")
    if by_key:
        wrong = {"qp_robot": np.zeros(9), "qv_robot": np.zeros(9), "reach_err": wrong[:3]}
    with pytest.raises(ValueError, match=r"must hold numbers, got an array of"):
        policy(wrong)
    with pytest.raises(ValueError, match="must be a tensor or an array, got NoneType"):
        policy(None)


@pytest.mark.parametrize("by_key", [False, True])
def test_what_is_masked_is_refused(make_run, by_key):
    policy = load(make_run().run_dir)
    masked = np.ma.masked_array(np.zeros(21, np.float32), mask=np.arange(21) == 20)
    name = "reach_err" if by_key else "observation"
    if by_key:
        masked = {"qp_robot": np.zeros(9), "qv_robot": np.zeros(9), "reach_err": masked[18:]}
    with pytest.raises(ValueError, match=f"{name} is a masked array: fill what is masked, or give no"):
        policy(masked)


def test_whole_vector_by_its_name_in_torchrl(make_run):
    policy = load(make_run().run_dir)
    observation = np.random.default_rng(0).normal(size=(3, 21))
    assert np.array_equal(policy({"observation": observation}), policy(observation))


def test_observations_are_not_written_and_actions_not_shared(make_run):
    policy = load(make_run().run_dir)
    observation = np.random.default_rng(0).normal(size=21).astype(np.float32)
    before = observation.copy()
    first = policy(observation)
    kept = first.copy()
    second = policy(observation + 1.0)
    assert np.array_equal(observation, before)
    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)
    first[:] = 7.0
    assert np.array_equal(policy(observation), kept)


@pytest.mark.parametrize(
    "settings", [{}, {"actor_layer_norm": True, "activation": "silu"}, {"activation": "tanh"}]
)
def test_one_observation_gives_the_bits_of_the_general_function(make_run, franka_spec, settings):
    import torch

    from rlhive.policy_fn.actor import actor_critic
    from rlhive.runs.run_spec import new_run_spec

    run = make_run()
    network = actor_critic(franka_spec, hidden_sizes=(48, 40), **settings)
    params = network.init(torch.Generator().manual_seed(3))
    policy = load(params, run.state["env_state"][0], spec=new_run_spec("sac", franka_spec, network))
    for observation in 4.0 * torch.randn(200, 1, 21, generator=torch.Generator().manual_seed(0)):
        general = policy.apply(policy.params, policy.env_state, observation)
        assert torch.equal(policy(observation[0]), general[0])
        assert torch.equal(policy(observation), general)


@pytest.mark.parametrize("head", ["deterministic", "gaussian", "tanh_gaussian", "mixture"])
@pytest.mark.parametrize("num_actions", [1, 9])
def test_every_head_gives_one_observation_the_bits_of_the_general_function(
    make_run, franka_spec, head, num_actions
):
    import attrs
    import torch

    from rlhive.policy_fn.offline_network import bc_network
    from rlhive.runs.run_spec import new_run_spec

    limits = {"action_low": (-1.0,) * num_actions, "action_high": (1.0,) * num_actions}
    names = tuple(map(str, range(num_actions)))
    env = attrs.evolve(franka_spec, action_dim=num_actions, action_names=names, **limits)
    network = bc_network(env, head=head, hidden_sizes=(48, 40))
    params = network.init(torch.Generator().manual_seed(3))
    env_state = make_run().state["env_state"][0]
    policy = load(params, env_state, spec=new_run_spec("bc", env, network))
    for observation in 4.0 * torch.randn(50, 1, 21, generator=torch.Generator().manual_seed(0)):
        general = policy.apply(policy.params, policy.env_state, observation)
        assert torch.equal(policy(observation[0]), general[0])
