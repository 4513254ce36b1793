"""Random numbers as a pure function of a key and a counter, so that a GPU draws for all seeds in one kernel.

A generator holds a state, so each draw of each seed is a separate launch: as many launches as an update has kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import torch
from torch import Generator, Tensor

MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS, WORD = 10, 0xFFFFFFFF


@attrs.define(eq=False)
class Key:
    """Determines draws: the same seed and step give the same sequence of draws, any other pair gives another one.

    Attributes:
        seed: seed of the stream, int64 `[]`, 0 to 2**32 - 1.
        step: such as the number of the update, int64 `[]`.
        draws: number of draws made; `uniform` and `normal` count them, so that no two draws of a key are the same.
    """

    seed: Tensor
    step: Tensor
    draws: int = 0

    def words(self, count: int) -> tuple[Tensor, ...]:
        """The next draw: four tensors of random words, each int64 `[count]`, 0 to 2**32 - 1."""
        block = torch.arange(count, device=self.seed.device)
        zero = torch.zeros_like(block)
        draw = torch.full_like(block, self.draws)
        self.draws += 1
        # The block is second, since Inductor multiplies an index in first or third place in 32 bits.
        counter = zero + (self.step & WORD), block, zero + (self.step >> 32), draw
        return philox(counter, (self.seed, torch.zeros_like(self.seed)))


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
        # The low 64 bits of each product; int64 stores the top bit as its sign, which does no harm.
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


def uniform(source: Source, *shape: int) -> Tensor:
    """Numbers uniform in [0, 1), float32 `[*shape]`; from the generators of S seeds `[S, *shape]`."""
    if isinstance(source, Generator):
        return torch.rand(shape, generator=source, dtype=torch.float32)
    if not isinstance(source, Key):
        return torch.stack([torch.rand(shape, generator=one, dtype=torch.float32) for one in source])
    size = math.prod(shape)
    # 24 bits, as many as float32 holds: with more, some values would round to 1.
    fractions = [(word >> 8).float() * 2.0**-24 for word in source.words(-(-size // 4))]
    return torch.stack(fractions, dim=-1).flatten()[:size].view(shape)


def normal(source: Source, *shape: int) -> Tensor:
    """Standard normal numbers, float32 `[*shape]`; from the generators of S seeds `[S, *shape]`.

    Those of a key are on its device. Two words give two numbers (Box and Muller 1958), of absolute value below 6.8.
    """
    if isinstance(source, Generator):
        return torch.randn(shape, generator=source, dtype=torch.float32)
    if not isinstance(source, Key):
        return torch.stack([torch.randn(shape, generator=one, dtype=torch.float32) for one in source])
    size = math.prod(shape)
    # The middle of each of 2**32 intervals, so never 0, which has no logarithm.
    fractions = [(word.double() + 0.5) * 2.0**-32 for word in source.words(-(-size // 4))]
    pairs = []
    for first, second in ((fractions[0], fractions[1]), (fractions[2], fractions[3])):
        radius = (-2.0 * first.log()).sqrt().float()
        angle = (2.0 * math.pi * second).float()
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, dim=-1).flatten()[:size].view(shape)
