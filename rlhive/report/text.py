"""Numbers and names in a report as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhive.report.results import Results
from rlhive.report.statistics import Estimate


def score_text(name: str, value: float) -> str:
    """A success rate in per cent, or a return."""
    if not np.isfinite(value):
        return "-"
    if name == "success":
        return f"{value:.1%}".replace(".0%", "%")
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def score_with_interval(name: str, value: float, low: float, high: float) -> str:
    """A score with its interval, if it has one."""
    return score_text(name, value) + _interval(low, score_text(name, low), score_text(name, high))


def chance_text(chance: Estimate) -> str:
    """A probability with its interval, if it has one."""
    return f"{chance.value:.0%}" + _interval(chance.low, f"{chance.low:.0%}", f"{chance.high:.0%}")


def _interval(end: float | np.ndarray, low: str, high: str) -> str:
    return f" [{low} to {high}]" if np.isfinite(end) else " (no interval)"


def steps_text(value: float, otherwise: str) -> str:
    """A number of steps, or `otherwise` if it is infinite."""
    return f"{value:,.0f}" if np.isfinite(value) else otherwise


def seconds_text(value: float) -> str:
    """A time in a suitable unit."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def list_text(seeds: Sequence[int]) -> str:
    """The seeds, shortened if they are consecutive."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def count_text(run: Results) -> str:
    """How many seeds a run has."""
    return f"{len(run.seeds)} seed{'' if len(run.seeds) == 1 else 's'}"


def encoder_text(run: Results) -> str:
    """The encoder of the run's images, after a comma; untrained weights are named in capitals."""
    encoder = run.spec.get("encoder")
    if not encoder:
        return ""
    weights = encoder.get("weights", "its own" if encoder["kind"] == "cnn" else "none")
    name = encoder.get("name", encoder["kind"])
    return f", encoder {name}, weights: {'RANDOM, untrained' if weights == 'random' else weights}"
