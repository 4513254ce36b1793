"""The atoms of the losses, worked by hand."""

import pytest
import torch

from rlhive.losses_fn.common import distance, td_target


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
