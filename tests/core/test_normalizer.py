"""The running statistics against NumPy's, in any split; and what applying them does."""

import numpy as np
import pytest
import torch
from torch.func import vmap

from rlhive.core.normalizer import CLIP, init_normalizer, normalize, update_normalizer


@pytest.mark.parametrize("split", [[1] * 50, [7, 1, 42], [50]])
def test_statistics_equal_numpy_whatever_the_split(split):
    data = (
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 1e-2])
        + 5.0
    )
    normalizer = init_normalizer(3).lock_()
    for part in data.split(split):
        normalizer = update_normalizer(normalizer, part).lock_()
    np.testing.assert_allclose(normalizer["loc"], data.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer["scale"], data.numpy().std(0), rtol=1e-4)
    assert normalizer["count"].item() == 50


def test_seeds_are_independent_and_equal_to_solo():
    data = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))  # [S, E, O]
    stacked = torch.stack([init_normalizer(2)] * 3)
    together = update_normalizer(stacked, data)
    mapped = vmap(update_normalizer)(stacked, data)
    for seed in range(3):
        alone = update_normalizer(init_normalizer(2), data[seed])
        assert (together[seed] == alone).all()
        torch.testing.assert_close(mapped[seed]["scale"], alone["scale"])


def test_normalize_worked_by_hand_with_clip_and_constant_entry():
    normalizer = init_normalizer(3)
    normalizer["loc"] = torch.tensor([1.0, 0.0, 2.0])
    normalizer["scale"] = torch.tensor([2.0, 1.0, 0.0])
    result = normalize(normalizer.lock_(), torch.tensor([5.0, -1e6, 2.005]))
    assert result.tolist() == pytest.approx([2.0, -CLIP, 5.0], rel=1e-3)  # (2.005 - 2) / 0.001


def test_the_deviation_does_not_grow_beyond_what_a_float32_counts():
    normalizer, generator = init_normalizer(1000), torch.Generator().manual_seed(0)
    normalizer["count"] = torch.tensor(2.0**24)
    for _ in range(5_000):
        normalizer = update_normalizer(normalizer, torch.randn(1, 1000, generator=generator))
    # Were every observation to add its share and the older ones to keep theirs: 1 + 5000 / 2**24 = 1.0003.
    assert normalizer["scale"].square().mean().item() == pytest.approx(1.0, abs=5e-5)
    assert normalizer["count"].item() == 2.0**24


def test_double_precision_counts_beyond_what_a_float32_does():
    normalizer = init_normalizer(1).double()
    normalizer["count"] = torch.tensor(2.0**25, dtype=torch.float64)
    normalizer = update_normalizer(normalizer, torch.ones(1, 1, dtype=torch.float64))
    assert normalizer["count"].item() == 2.0**25 + 1
    assert normalizer["loc"].item() == pytest.approx(1 / (2.0**25 + 1), rel=1e-12)


def test_a_million_steps_keep_their_digits():
    normalizer = init_normalizer(1)
    normalizer["count"] = torch.tensor(1e6)
    normalizer["loc"], normalizer["scale"] = torch.tensor([3.0]), torch.tensor([0.5])
    normalizer = update_normalizer(normalizer, torch.tensor([[3.5]]))
    assert normalizer["count"].item() == 1e6 + 1
    assert normalizer["scale"].item() == pytest.approx(0.5, rel=1e-6)
