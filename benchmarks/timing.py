"""How the sides of a comparison are timed."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def in_turns(sides: Mapping[Name, Callable[[], object]], *, rounds: int, calls: int = 1) -> dict[Name, float]:
    """Median seconds of a call of each side, over rounds in which all take turns; one more round before warms up.

    Args:
        sides: by name, in their order.
        rounds: that count.
        calls: of each side in its turn.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in sides}
    for _ in range(1 + rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            for _ in range(calls):
                side()
            seconds[name].append((time.perf_counter() - started) / calls)
    return {name: statistics.median(of_side[1:]) for name, of_side in seconds.items()}
