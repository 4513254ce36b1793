"""Random numbers as a pure function of a key and a counter, so that a GPU draws those of all seeds in one kernel.

A generator holds a state, and each draw of each seed is a launch of its own: as many as an update has kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS, WORD = 10, 0xFFFFFFFF


class Key(NamedTuple):
    """What a draw follows from; the same two numbers give the same draw, and any others another.

    Attributes:
        seed: int64 `[]`, 0 to 2**32 - 1, of the stream.
        step: int64 `[]`, number of the draw.
    """

    seed: Tensor
    step: Tensor


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four random words for each counter: Philox4x32-10 (Salmon 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
        counter: four words, int64 of one shape, 0 to 2**32 - 1.
        key: two words, likewise.

    Returns:
        The four words, likewise.
    """
    (a, b, c, d), (low_key, high_key) = counter, key
    for _ in range(ROUNDS):
        # 64 bits of a product, whose sign is as good as any other of them.
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32 & WORD) ^ b ^ low_key,
            right & WORD,
            (left >> 32 & WORD) ^ d ^ high_key,
            left & WORD,
        )
        low_key, high_key = low_key + WEYL[0] & WORD, high_key + WEYL[1] & WORD
    return a, b, c, d


Streams: TypeAlias = Generator | Sequence[Generator]  # of one seed, or of S
Source: TypeAlias = Streams | Key


def uniform(source: Streams, *shape: int) -> Tensor:
    """Numbers uniform in [0, 1), float32 `[*shape]`; from the generators of S seeds `[S, *shape]`."""
    if isinstance(source, Generator):
        return torch.rand(shape, generator=source, dtype=torch.float32)
    return torch.stack([torch.rand(shape, generator=one, dtype=torch.float32) for one in source])


def normal(source: Source, *shape: int) -> Tensor:
    """Standard normal numbers, float32 `[*shape]`; from the generators of S seeds `[S, *shape]`.

    A key's come where it is, two of them of two words (Box and Muller 1958), so that their size is less than 6.8.
    """
    if isinstance(source, Generator):
        return torch.randn(shape, generator=source, dtype=torch.float32)
    if not isinstance(source, Key):
        return torch.stack([torch.randn(shape, generator=one, dtype=torch.float32) for one in source])
    size = math.prod(shape)
    block = torch.arange(-(-size // 4), device=source.seed.device)
    zero = torch.zeros_like(block)
    # The block second: Inductor multiplies an index by the first and the third in 32 bits.
    counter = zero + (source.step & WORD), block, zero + (source.step >> 32), zero
    words = philox(counter, (source.seed, torch.zeros_like(source.seed)))
    # The middle of each of 2**32 intervals: never 0, whose logarithm is none.
    fractions = [(word.double() + 0.5) * 2.0**-32 for word in words]
    pairs = []
    for first, second in ((fractions[0], fractions[1]), (fractions[2], fractions[3])):
        radius = (-2.0 * first.log()).sqrt().float()
        angle = (2.0 * math.pi * second).float()
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, dim=-1).flatten()[:size].view(shape)
