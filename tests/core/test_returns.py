import torch

from rlhive.core.returns import n_step_return


def test_n_step_return_by_hand():
    reward = torch.tensor([[1.0, 10.0, 100.0]]).expand(4, 3)
    done = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    newer = torch.tensor([5, 5, 5, 1])
    total, steps = n_step_return(reward, done, newer, 0.5)
    assert total.tolist() == [31.0, 6.0, 1.0, 6.0]
    assert steps.tolist() == [3, 2, 1, 2]


def test_rows_that_are_not_summed_may_hold_anything():
    reward = torch.tensor([1.0, 2.0, torch.nan, torch.inf])
    total, steps = n_step_return(reward, torch.zeros(4, dtype=torch.bool), torch.tensor(1), 0.5)
    assert (total.item(), steps.item()) == (2.0, 2)
