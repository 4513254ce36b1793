"""Matrix products and what is made of them have the same bits for one seed as for several, whatever the threads."""

import os
import subprocess
import sys

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from rlhive.core.compile import trace
from rlhive.core.products import align_products

# In a process of its own, since MKL takes its number of threads when it starts.
COMPARE_PRODUCTS = """
import sys
import torch
from rlhive.core.compile import trace

torch.set_num_threads(int(sys.argv[1]))
draw = torch.Generator().manual_seed(0)
SIZES = (6, 256, 256), (10, 256, 256), (256, 256, 21), (256, 100, 18), (100, 64, 40), (2, 21, 256)
for rows, inner, columns in SIZES:
    a, b = torch.randn(5, rows, inner, generator=draw), torch.randn(5, inner, columns, generator=draw)
    bias = torch.randn(5, 1, columns, generator=draw)
    together = trace(torch.baddbmm, bias, a, b)(bias, a, b)
    one = trace(torch.baddbmm, *(value[:1].clone() for value in (bias, a, b)))
    for k in range(5):
        alone = one(*(value[k : k + 1].clone() for value in (bias, a, b)))
        assert torch.equal(alone[0], together[k]), (rows, inner, columns, k)
    torch.testing.assert_close(together, bias + a @ b, rtol=1e-5, atol=1e-4)
"""

COMPARE_UPDATES = """
from torch.func import vmap
from rlhive.core.optim import adam
from rlhive.core.train_step import make_train_step
from rlhive.losses_fn import make_sac_loss
from rlhive.policy_fn.actor import actor_critic
from tests.helpers import make_sac_inputs, make_spec

spec, opt = make_spec(21, (-1.0,) * 5, (1.0,) * 5), adam(1e-3)

def compare(**settings):
    network = actor_critic(spec, **settings)
    states, batch, noise = make_sac_inputs(network, opt, range(5), 100)
    own_inputs = [make_sac_inputs(network, opt, [seed], 100) for seed in range(5)]
    step = vmap(make_train_step(make_sac_loss(network), opt))
    together, alone = trace(step, states, batch, noise), trace(step, *own_inputs[0])
    for _ in range(3):
        states, metrics = together(states, batch, noise)
    for k, (state, own_batch, own_noise) in enumerate(own_inputs):
        for _ in range(3):
            state, own_metrics = alone(state, own_batch, own_noise)
        assert (states[k : k + 1] == state).all() and (metrics[k : k + 1] == own_metrics).all(), (settings, k)
"""
TWO_CRITICS = """
compare(hidden_sizes=(100, 64))
"""
ONE_CRITIC_AND_THREE = """
compare(hidden_sizes=(100, 64), num_critics=1)
compare(hidden_sizes=(100,), num_critics=3)
"""
ALL = TWO_CRITICS + ONE_CRITIC_AND_THREE


@pytest.mark.parametrize(
    ("num_threads", "networks"),
    [
        *[(1, TWO_CRITICS), (2, ALL), (4, TWO_CRITICS)],
        *(pytest.param(num_threads, ALL, marks=pytest.mark.slow) for num_threads in (1, 3, 4)),
    ],
    ids=["1", "2", "4", "1-all", "3-all", "4-all"],
)
def test_nothing_depends_on_how_many_seeds_there_are(num_threads, networks):
    # Passive: threads that wait leave the cores to other tests.
    threads = {"OMP_NUM_THREADS": str(num_threads), "MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", COMPARE_PRODUCTS + COMPARE_UPDATES + networks, str(num_threads)]
    subprocess.run(command, env=os.environ | threads, check=True)


@pytest.mark.parametrize("shape", [(6, 5, 7), (3, 5, 6), (20, 8, 18)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_widened_product_has_the_size_and_the_values_of_the_original(shape, with_bias):
    rows, inner, columns = shape
    draw = torch.Generator().manual_seed(0)
    a, b, bias = (torch.randn(size, generator=draw) for size in ((rows, inner), (inner, columns), (columns,)))

    def product(a, b, bias):
        return torch.addmm(bias, a, b) if with_bias else a @ b

    graph = make_fx(product)(a, b, bias)
    align_products(graph.graph, num_threads=4)
    graph.recompile()
    assert "constant_pad_nd" in graph.code
    result = graph(a, b, bias)
    assert result.is_contiguous()
    torch.testing.assert_close(result, product(a, b, bias))


def test_a_product_of_whole_blocks_stays_as_it_is():
    a, b = torch.randn(256, 28), torch.randn(28, 256)
    graph = make_fx(torch.mm)(a, b)
    align_products(graph.graph, num_threads=16)
    assert "constant_pad_nd" not in graph.code
    assert torch.equal(trace(torch.mm, a, b)(a, b), a @ b)
