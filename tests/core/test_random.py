"""Random numbers that follow from a key and a counter."""

import pytest
import torch
from scipy import stats
from torch.func import vmap

from rlhive.core.compile import trace
from rlhive.core.random import WORD, Key, normal, philox, uniform

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


def make_key(seed, count=0):
    return Key(torch.tensor(seed), torch.tensor(count))


def draws(seed, count):
    """As an update draws them."""
    return normal(Key(seed, count), 2, 9, 256)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI[:4], PI[4:], (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_words_are_those_of_the_authors(counter, key, words):
    """The known answers of Random123, the library of the paper's authors."""
    found = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(map(int, found)) == words


def test_numbers_are_standard_normal_and_independent():
    first, second = (normal(make_key(3, count), 200_000) for count in (5, 6))
    other = normal(make_key(4, 5), 200_000)
    for one in (first, second, other):
        assert stats.kstest(one.double().numpy(), "norm").pvalue > 1e-3
    for one in (second, other, first.roll(1), first.roll(2)):
        assert abs(torch.corrcoef(torch.stack([first, one]))[0, 1]) < 0.01


def test_uniform_numbers_of_a_key_are_uniform_and_those_of_their_shape():
    found = uniform(make_key(3, 5), 10, 20_000)
    assert found.shape == (10, 20_000) and found.dtype == torch.float32
    assert found.min() >= 0.0 and found.max() < 1.0
    assert stats.kstest(found.flatten().double().numpy(), "uniform").pvalue > 1e-3
    assert found.equal(uniform(make_key(3, 5), 10, 20_000)) and not found.equal(
        uniform(make_key(3, 6), 10, 20_000)
    )


def draws_after_draws(seed, count):
    key = Key(seed, count)
    return torch.stack([normal(key, 50_000), normal(key, 50_000), uniform(key, 50_000), uniform(key, 50_000)])


def test_draws_from_one_key_are_independent_and_the_same_again():
    found = draws_after_draws(torch.tensor(3), torch.tensor(5))
    assert (torch.corrcoef(found) - torch.eye(4)).abs().max() < 0.02
    assert found.equal(draws_after_draws(torch.tensor(3), torch.tensor(5)))
    assert found[0].equal(normal(make_key(3, 5), 50_000))
    together = vmap(draws_after_draws)(torch.tensor([3, 4]), torch.tensor([5, 5]))
    assert together[0].equal(found) and not (together[0] == together[1]).all(-1).any()


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 9, 256)])
def test_a_key_gives_the_same_numbers_of_any_shape(shape):
    found = normal(make_key(7, 2**33 + 1), *shape)
    assert found.shape == shape and found.dtype == torch.float32
    assert found.flatten().equal(normal(make_key(7, 2**33 + 1), 10_000)[: found.numel()])
    assert not found.equal(normal(make_key(7, 1), *shape))  # both words of the count matter


def test_a_seed_draws_the_same_alone_and_among_others():
    seeds, counts = torch.tensor([3, 11, 4_000_000_000]), torch.tensor([0, 100, 100])
    together = vmap(draws)(seeds, counts)
    for index, own in enumerate(together):
        assert own.equal(draws(seeds[index], counts[index]))


def test_compiled_draws_are_the_same_to_rounding():
    seeds, counts = torch.tensor([3, 11]), torch.tensor([7, 8])
    compiled = trace(vmap(draws), seeds, counts, compile=True)
    torch.testing.assert_close(compiled(seeds, counts), vmap(draws)(seeds, counts), rtol=1e-5, atol=1e-6)


def test_generators_draw_their_own_alone_and_together():
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = normal(streams, 2, 3)
    for seed, own in zip((1, 2), together, strict=True):
        assert own.equal(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)))
        assert own.equal(normal(torch.Generator().manual_seed(seed), 2, 3))
