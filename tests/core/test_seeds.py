"""vmap over seeds equals the loop, purity of the train step, and gradient isolation of its parts."""

import pytest
import torch
from tensordict import TensorDict
from torch.func import vmap

from rlhive.core.keys import make_generators
from rlhive.core.optim import adam
from rlhive.core.train_step import init_state, make_train_step
from rlhive.losses_fn import make_sac_loss
from tests.helpers import make_batch, make_network, make_sac_inputs


def make_inputs(num_seeds: int):
    """The train step of one seed; states, minibatches and noises `[S]`, with another normaliser for each seed."""
    network, opt = make_network(), adam(1e-3, max_grad_norm=10.0)
    states, batches, noises = make_sac_inputs(network, opt, range(num_seeds))
    states["env_state", "observation", "loc"] = 0.1 * torch.arange(num_seeds)[:, None].repeat(1, 5)
    return make_train_step(make_sac_loss(network), opt), states, batches, noises


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_vmap_over_seeds_equals_the_loop(num_seeds):
    train_step, states, batches, noises = make_inputs(num_seeds)
    alone = list(states.unbind(0))
    for _ in range(5):
        states, metrics = vmap(train_step)(states, batches, noises)
        stepped = [train_step(state, batches[k], noises[k]) for k, state in enumerate(alone)]
        alone = [state for state, _ in stepped]
    for seed in range(num_seeds):
        for key, leaf in alone[seed].flatten_keys().items():
            torch.testing.assert_close(states[seed].flatten_keys()[key], leaf, rtol=1e-4, atol=1e-6, msg=key)
        torch.testing.assert_close(metrics[seed]["loss"], stepped[seed][1]["loss"], rtol=1e-5, atol=1e-6)


def test_permuting_the_seeds_permutes_the_results_bit_for_bit():
    train_step, *inputs = make_inputs(3)
    order = [2, 0, 1]
    straight, _ = vmap(train_step)(*inputs)
    permuted, _ = vmap(train_step)(*(tree[order] for tree in inputs))
    assert (straight[order] == permuted).all()


def test_the_train_step_writes_none_of_its_inputs_and_draws_no_numbers():
    train_step, *inputs = make_inputs(1)
    state, batch, noise = (tree[0] for tree in inputs)
    before = [tree.clone() for tree in (state, batch, noise)]
    rng_state = torch.get_rng_state()
    new_state, metrics = train_step(state.lock_(), batch.lock_(), noise.lock_())
    for tree, copy in zip((state, batch, noise), before, strict=True):
        assert (tree == copy).all()
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert new_state["step"].item() == 1
    assert not any(
        leaf.requires_grad for leaf in (*new_state.values(True, True), *metrics.values(True, True))
    )


def test_an_optimizer_whose_second_moment_overflows_is_not_finite():
    def loss_fn(params, target_params, batch, noise):
        return 1e25 * params["x"].sum(), {}

    params = TensorDict({"x": torch.ones(3)})
    opt = adam(1e-3)
    state = init_state(params, opt, observation_dim=5, target_keys=())
    batch = make_batch(torch.Generator().manual_seed(0), 4)
    state, metrics = make_train_step(loss_fn, opt)(state, batch, TensorDict({}))
    assert state["params", "x"].isfinite().all() and not metrics["finite"]


def test_streams_are_independent_of_each_other_and_of_the_seed_next_door():
    first, again, other = make_generators(3), make_generators(3), make_generators(4)
    draws = {name: torch.rand(4, generator=generator) for name, generator in first.items()}
    for name, draw in draws.items():
        assert torch.equal(torch.rand(4, generator=again[name]), draw)
        assert not torch.equal(torch.rand(4, generator=other[name]), draw)
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(draws)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_without_streams_of_its_own_is_refused(seed):
    with pytest.raises(ValueError, match=rf"must be from 0 to 2\*\*32 - 1, got {seed}"):
        make_generators(seed)
