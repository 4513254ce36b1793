"""Random streams: one generator per seed and purpose, so that no seed's numbers depend on another seed's."""

from __future__ import annotations

import numpy as np
from torch import Generator

# The position is part of a stream's identity: append, never reorder.
STREAMS = ("init", "action", "exploration", "replay", "loss")


def as_generator(key: int | Generator) -> Generator:
    """The generator itself, which draws from it advance, or a new one of that seed on the CPU."""
    return Generator().manual_seed(key) if isinstance(key, int) else key


def make_generators(seed: int) -> dict[str, Generator]:
    """The CPU generators of one training seed, by the names of `STREAMS`, independent of each other.

    Raises:
        ValueError: if the seed is negative, or too large: SeedSequence takes a larger one for two numbers.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed must be from 0 to 2**32 - 1, got {seed}")
    return {
        name: Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))
        for index, name in enumerate(STREAMS)
    }
