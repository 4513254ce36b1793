"""Heads against torch.distributions, and their samples against their own densities."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.func import vmap

from rlhive.core.tree import leaves
from rlhive.losses_fn.iql import make_iql_loss
from rlhive.policy_fn.actor import actor_critic
from rlhive.policy_fn.heads import HEADS, MODES, normal_log_prob
from rlhive.policy_fn.offline_network import bc_network, iql_network, td3_bc_network
from tests.helpers import make_spec

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0])


def outputs(head, count=64):
    return torch.randn(count, HEADS[head].width(2), generator=torch.Generator().manual_seed(0))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def theirs_mixture(out):
    loc, log_scale = out[..., MODES:].unflatten(-1, (MODES, 4)).chunk(2, -1)
    loc = 0.5 * (HIGH + LOW) + 0.5 * (HIGH - LOW) * loc.tanh()
    parts = Independent(Normal(loc, log_scale.clamp(-5, 2).exp()), 1)
    return MixtureSameFamily(Categorical(logits=out[..., :MODES]), parts)


def test_normal_log_prob_by_hand():
    value = normal_log_prob(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([0.0, math.log(2.0)]))
    assert value.item() == pytest.approx(-0.5 - 0.5 - math.log(2.0) - math.log(2.0 * math.pi))


def test_the_density_of_the_mixture_is_that_of_torch():
    out = outputs("mixture")
    action = LOW + (HIGH - LOW) * torch.rand(64, 2, generator=torch.Generator().manual_seed(2))
    ours = HEADS["mixture"].log_prob(out, action, LOW, HIGH)
    torch.testing.assert_close(ours, theirs_mixture(out).log_prob(action), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_modes_and_samples_are_within_the_limits(head):
    out = 10.0 * outputs(head)
    for action in (
        HEADS[head].mode(out, LOW, HIGH),
        HEADS[head].sample(out, 3.0 * noise(64, 2), LOW, HIGH)[0],
    ):
        assert action.shape == (64, 2) and (action >= LOW).all() and (action <= HIGH).all()
        assert action.isfinite().all()


@pytest.mark.parametrize("head", ["gaussian", "tanh_gaussian", "mixture"])
def test_the_log_probability_of_a_sample_is_its_density(head):
    out = 0.3 * outputs(head)
    low, high = -100.0 * torch.ones(2), 100.0 * torch.ones(2)  # where nothing is cut
    action, log_prob = HEADS[head].sample(out, noise(64, 2), low, high)
    torch.testing.assert_close(HEADS[head].log_prob(out, action, low, high), log_prob, rtol=1e-4, atol=1e-4)


def test_samples_of_the_mixture_are_distributed_as_it_says():
    """By the share of samples under each of several planes, within five standard errors, and the correlation too."""
    out = outputs("mixture", 1)
    count = 200_000
    many = out.expand(count, -1)
    low, high = -100.0 * torch.ones(2), 100.0 * torch.ones(2)
    ours = HEADS["mixture"].sample(many, noise(count, 2), low, high)[0]
    loc, log_scale = out[..., MODES:].unflatten(-1, (MODES, 4)).chunk(2, -1)
    parts = Independent(Normal(100.0 * loc.tanh(), log_scale.clamp(-5, 2).exp()), 1)
    torch.manual_seed(0)
    theirs = MixtureSameFamily(Categorical(logits=out[..., :MODES]), parts).sample((count,)).squeeze(1)
    for direction in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]):
        one, other = (values @ torch.tensor(direction) for values in (ours, theirs))
        for quantile in (0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95):
            share = (one < other.quantile(quantile)).float().mean().item()
            assert abs(share - quantile) < 5 * math.sqrt(2 * quantile * (1 - quantile) / count)


def test_extreme_noise_and_weights_stay_finite():
    out = torch.zeros(3, HEADS["mixture"].width(2))
    out[:, 0] = torch.tensor([0.0, 1e4, -1e4])
    for value in (-1e4, -6.0, 0.0, 6.0, 1e4):
        action, log_prob = HEADS["mixture"].sample(out, torch.full((3, 2), value), LOW, HIGH)
        assert action.isfinite().all() and log_prob.isfinite().all()


@pytest.mark.parametrize("head", HEADS)
def test_seeds_together_equal_one_after_another(head):
    network = bc_network(make_spec(), head=head, hidden_sizes=(8,))
    trees = [network.init(torch.Generator().manual_seed(seed))["actor"] for seed in range(3)]
    observation, draws = noise(3, 4, 5), noise(3, 4, 2)
    together = vmap(network.sample)(torch.stack(trees), observation, draws)
    modes = vmap(network.mode)(torch.stack(trees), observation)
    for seed, tree in enumerate(trees):
        alone = network.sample(tree, observation[seed], draws[seed])
        torch.testing.assert_close(together[0][seed], alone[0])
        torch.testing.assert_close(together[1][seed], alone[1])
        torch.testing.assert_close(modes[seed], network.mode(tree, observation[seed]))


def test_the_trees_of_the_algorithms():
    spec, key = make_spec(), torch.Generator
    assert set(bc_network(spec).init(key()).keys()) == {"actor"}
    assert set(td3_bc_network(spec).init(key()).keys()) == {"actor", "critic"}
    iql = iql_network(spec, head="tanh_gaussian").init(key())
    assert set(iql.keys()) == {"actor", "critic", "value"}
    sac = actor_critic(spec).init(key())
    started = sac.copy().update(iql.select("actor", "critic"))  # online from what was learned offline
    assert [leaf.shape for leaf in leaves(started)] == [leaf.shape for leaf in leaves(sac)]
    with pytest.raises(
        ValueError,
        match=r"make_iql_loss weighs log-probabilities, which the head 'deterministic' has none of; "
        r"set iql_network.head to one of gaussian, tanh_gaussian, mixture$",
    ):
        make_iql_loss(iql_network(spec, head="deterministic"))
    with pytest.raises(
        ValueError, match=r"'deterministic' has no density; take one of gaussian, tanh_gaussian, mixture$"
    ):
        td3_bc_network(spec).log_prob(None, None, None)
