"""Random streams: one generator per seed and purpose, so that no seed's numbers depend on another seed's."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from torch import Generator

# The position is part of a stream's identity: append, never reorder.
STREAMS = ("init", "action", "exploration", "replay", "loss")


def as_generator(key: int | Generator) -> Generator:
    """The generator itself, or a new CPU generator with that seed.

    Raises:
        ValueError: the key is neither.
    """
    if isinstance(key, Generator):
        return key
    if not isinstance(key, Integral):
        raise ValueError(f"the key must be a whole number or a torch.Generator, got {key!r}")
    return Generator().manual_seed(int(key))


def check_draw(generators: Sequence[Generator], batch_size: int) -> None:
    """Refuses arguments with which no minibatch can be drawn.

    Raises:
        ValueError: not one torch.Generator per seed, or `batch_size` is not a whole number above 0.
    """
    plain = isinstance(generators, Sequence) and all(isinstance(one, Generator) for one in generators)
    if not plain or not generators or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(
            "expected a list of torch.Generator, one per seed, and a whole batch_size >= 1, "
            f"got {generators!r} and {batch_size!r}"
        )


def make_generators(seed: int) -> dict[str, Generator]:
    """The CPU generators of one training seed, by the names of `STREAMS`, independent of each other.

    Raises:
        ValueError: if the seed is negative, or 2**32 or more, which SeedSequence would split into two numbers.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed must be from 0 to 2**32 - 1, got {seed}")
    return {
        name: Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))
        for index, name in enumerate(STREAMS)
    }
