"""vmap over seeds equals the loop, purity of the train step, and gradient isolation of its parts."""

import pytest
import torch
from torch.func import vmap

from rlhive.core.keys import make_generators
from rlhive.core.optim import adam
from rlhive.core.state import init_state, make_train_step
from rlhive.core.tree import stack_seeds
from rlhive.losses_fn import draw_sac_noise, make_sac_loss
from tests.helpers import make_batch, make_network


def make_inputs(seed: int):
    network, generators = make_network(), make_generators(seed)
    opt = adam(1e-3, max_grad_norm=10.0)
    state = init_state(network.init(generators["init"]), opt, observation_dim=5, target_keys=("critic",))
    state["env_state", "observation", "loc"] = torch.full((5,), 0.1 * seed)
    batch = make_batch(generators["replay"], batch_size=16)
    noise = draw_sac_noise(generators["loss"], network, 16)
    return make_train_step(make_sac_loss(network), opt), state, batch, noise


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_vmap_over_seeds_equals_the_loop(num_seeds):
    inputs = [make_inputs(seed) for seed in range(num_seeds)]
    train_step = inputs[0][0]
    states, batches, noises = (stack_seeds([one[part] for one in inputs]) for part in (1, 2, 3))
    alone = [one[1] for one in inputs]
    for _ in range(5):
        states, metrics = vmap(train_step)(states, batches, noises)
        stepped = [train_step(state, one[2], one[3]) for state, one in zip(alone, inputs, strict=True)]
        alone = [state for state, _ in stepped]
    for seed in range(num_seeds):
        for key, leaf in alone[seed].flatten_keys().items():
            torch.testing.assert_close(states[seed].flatten_keys()[key], leaf, rtol=1e-4, atol=1e-6, msg=key)
        torch.testing.assert_close(metrics[seed]["loss"], stepped[seed][1]["loss"], rtol=1e-5, atol=1e-6)


def test_permuting_the_seeds_permutes_the_results_bit_for_bit():
    inputs = [make_inputs(seed) for seed in range(3)]
    order = [2, 0, 1]
    step = vmap(inputs[0][0])
    straight, _ = step(*(stack_seeds([one[part] for one in inputs]) for part in (1, 2, 3)))
    permuted, _ = step(*(stack_seeds([inputs[k][part] for k in order]) for part in (1, 2, 3)))
    assert (straight[order] == permuted).all()


def test_the_train_step_writes_none_of_its_inputs_and_draws_no_numbers():
    train_step, state, batch, noise = make_inputs(0)
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
