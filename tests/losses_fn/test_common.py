"""The atoms of the losses, worked by hand."""

import pytest
import torch

from rlhive.algorithms import ALGORITHMS
from rlhive.losses_fn.common import distance, td_target
from tests.helpers import make_batch, make_spec


def test_td_target_cuts_the_bootstrap_where_terminated_only():
    target = td_target(
        reward=torch.tensor([1.0, 1.0]),
        terminated=torch.tensor([False, True]),
        next_value=torch.tensor([10.0, 10.0]),
        discount=0.9,
    )
    assert target.tolist() == [10.0, 1.0]  # 1 + 0.9 * 10, and 1


def test_td_target_takes_a_discount_per_transition():
    target = td_target(torch.zeros(2), torch.tensor([False, False]), torch.ones(2), torch.tensor([0.9, 0.81]))
    assert target.tolist() == pytest.approx([0.9, 0.81])


def test_a_terminated_transition_ignores_even_an_infinite_value():
    target = td_target(torch.ones(1), torch.tensor([True]), torch.tensor([float("inf")]), 0.9)
    assert target.tolist() == [1.0]


def test_distances_worked_by_hand():
    prediction, target = torch.tensor([3.0, 0.5]), torch.tensor([0.0, 0.0])
    assert distance(prediction, target, "l2").tolist() == [9.0, 0.25]
    assert distance(prediction, target, "smooth_l1").tolist() == [2.5, 0.125]  # |d| - 0.5, and d^2 / 2


@pytest.mark.parametrize("name", ["sac", "iql", "td3_bc"])
@pytest.mark.parametrize(
    ("key", "shape"), [("_weight", (8, 1)), ("next_action", (1, 2)), ("next_action", (8, 1))]
)
def test_weights_and_noise_are_never_broadcast(name, key, shape):
    algorithm, generator = ALGORITHMS[name], torch.Generator().manual_seed(0)
    network = algorithm.make_network(make_spec(), hidden_sizes=(16,))
    params, batch = network.init(generator), make_batch(generator, 8)
    noise = algorithm.draw_noise(generator, network, 8)
    (batch if key == "_weight" else noise)[key] = torch.ones(shape)
    expected = [8] if key == "_weight" else [8, 2]
    with pytest.raises(ValueError) as caught:
        algorithm.make_loss(network)(params, params, batch, noise)
    assert str(caught.value) == f"'{key}' must have shape {expected}, got {list(shape)}"
