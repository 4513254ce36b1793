"""The tanh-normal's maths against TorchRL and SciPy's integral, and the networks' shapes, init and ensembles."""

import math
import re

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap
from torchrl.modules import TanhNormal

from rlhive.policy_fn.actor import ActorCritic, tanh_normal_log_prob, tanh_normal_sample
from rlhive.policy_fn.mlp import apply_mlp, init_mlp
from rlhive.policy_fn.offline_network import iql_network
from tests.helpers import make_network, make_spec

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 4.0])


def test_sample_and_log_prob_equal_torchrl():
    generator = torch.Generator().manual_seed(0)
    loc, noise = torch.randn(64, 2, generator=generator), torch.randn(64, 2, generator=generator)
    scale = torch.rand(64, 2, generator=generator) + 0.1
    action, log_prob = tanh_normal_sample(loc, scale, noise, LOW, HIGH)
    reference = TanhNormal(loc, scale, low=LOW, high=HIGH, tanh_loc=False)
    torch.testing.assert_close(log_prob, reference.log_prob(action), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        tanh_normal_log_prob(action, loc, scale, LOW, HIGH), log_prob, rtol=1e-3, atol=1e-3
    )


def test_the_density_integrates_to_one():
    actions = torch.linspace(-2.0, 1.0, 200_001, dtype=torch.float64)[1:-1, None]
    one = torch.ones(1, dtype=torch.float64)
    log_prob = tanh_normal_log_prob(actions, 0.3 * one, 0.8 * one, -2.0 * one, one)
    assert torch.trapezoid(log_prob.exp(), actions.squeeze(-1)).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("loc", [0.0, 5.0, 20.0, 1000.0, -1000.0])
def test_log_prob_and_gradient_are_finite_where_the_action_reaches_its_limit(loc):
    mean = torch.full((1, 2), loc, requires_grad=True)
    scale = torch.full((1, 2), 0.5)
    action, log_prob = tanh_normal_sample(mean, scale, torch.ones(1, 2), LOW, HIGH)
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert torch.isfinite(log_prob).all() and torch.isfinite(gradient).all()
    assert (action >= LOW).all() and (action <= HIGH).all()
    given = tanh_normal_log_prob(torch.stack([LOW, HIGH]), torch.zeros(2, 2), torch.ones(2, 2), LOW, HIGH)
    assert torch.isfinite(given).all()


def test_the_exact_log_prob_far_out_worked_by_hand():
    # latent u = 20, scale 1, noise 0: log N = -0.5 log(2 pi); log(1 - tanh(u)^2) = log 4 - 2u up to e^-40
    one = torch.ones(1)
    _, log_prob = tanh_normal_sample(torch.tensor([20.0]), one, torch.zeros(1), -one, one)
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - (math.log(4.0) - 40.0), rel=1e-6)


def test_an_ensemble_equals_its_members_and_torch_nn():
    generator = torch.Generator().manual_seed(0)
    members = [init_mlp(generator, (4, 8, 8, 1), layer_norm=True) for _ in range(3)]
    x = torch.randn(6, 4, generator=generator)
    together = apply_mlp(torch.stack(members), x)
    for index, params in enumerate(members):
        torch.testing.assert_close(together[index], apply_mlp(params, x))
        layers = []
        for depth in range(3):
            linear = nn.Linear(*params[f"layer_{depth}", "weight"].shape[::-1])
            linear.weight.data, linear.bias.data = (
                params[f"layer_{depth}", "weight"],
                params[f"layer_{depth}", "bias"],
            )
            layers += [linear, nn.LayerNorm(linear.out_features), nn.ReLU()] if depth < 2 else [linear]
        torch.testing.assert_close(apply_mlp(params, x), nn.Sequential(*layers)(x))


def test_members_are_drawn_alone_with_the_spread_of_torch_nn():
    params = ActorCritic(64, (-1.0,), (1.0,), hidden_sizes=(512, 512)).init(torch.Generator().manual_seed(0))
    first, second = params["critic", "layer_1", "weight"]
    assert not torch.equal(first, second)
    for weight in (first, second):
        # Uniform in +-1/sqrt(fan_in).
        assert weight.std().item() == pytest.approx(1.0 / math.sqrt(3 * 512), rel=0.02)


def test_equal_keys_give_equal_params_and_leave_the_global_stream_alone():
    network, before = make_network(), torch.get_rng_state()
    first, second = (network.init(torch.Generator().manual_seed(7)) for _ in range(2))
    assert (first == second).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_is_as_good_a_key_as_its_generator():
    for network in (make_network(), iql_network(make_spec(), hidden_sizes=(8,))):
        seeded, drawn = network.init(3), network.init(torch.Generator().manual_seed(3))
        assert bool((seeded == drawn).all())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="activation"):
        make_network(activation="gelu2")
    with pytest.raises(ValueError, match="num_critics"):
        make_network(num_critics=0)


@pytest.mark.parametrize("width", [1, 2, 18])
@pytest.mark.parametrize("hidden", [16, 256])
def test_a_network_has_the_same_bits_alone_and_among_others(width, hidden):
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    params = torch.stack([init_mlp(g, (21, hidden, hidden, width), layer_norm=True) for g in generators])
    x = torch.stack([torch.randn(256, 21, generator=g) for g in generators])
    gradient = vmap(grad_and_value(lambda params, x: apply_mlp(params, x).square().mean()))
    for seed in range(3):
        grads, loss = gradient(params, x)
        own_grads, own_loss = gradient(params[[seed]], x[[seed]])
        assert torch.equal(own_loss[0], loss[seed])
        assert bool((own_grads[0] == grads[seed]).all())


@pytest.mark.parametrize("shape", [(), (4, 5)])
def test_samples_and_values_are_of_a_minibatch(shape):
    network = make_network()
    params, seen, action = network.init(1), torch.zeros(*shape, 5), torch.zeros(*shape, 2)
    message = re.escape(f"takes a minibatch of observations, [B, 5], got {[*shape, 5]}")
    with pytest.raises(ValueError, match=f"sample {message}"):
        network.sample(params["actor"], seen, action)
    with pytest.raises(ValueError, match=f"value {message}"):
        network.value(params["critic"], seen, action)
