"""How well a control loop kept its timing: latency, jitter and overruns, as figures and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlhive.core.files import replacing

OVERRUN = 1.05  # an overrun takes at least this many control periods


def summarize(latency: np.ndarray, period: np.ndarray, dt: float) -> dict[str, Any]:
    """Timing figures of a loop, as plain values for JSON; None if there are no steps.

    Args:
        latency: from the observation to the action being sent, seconds `[T]`.
        period: from one observation to the next, seconds `[T]`.
        dt: the intended control period, seconds.

    Returns:
        "latency_p50", "latency_p99", "latency_max", "jitter_p50", "jitter_p99", "jitter_max" (of |period - dt|), all
        in seconds, and "overruns", the number of periods that were at least 5 % too long.
    """
    jitter = np.abs(period - dt)
    figures: dict[str, Any] = {}
    for name, values in (("latency", latency), ("jitter", jitter)):
        percentiles = np.percentile(values, [50, 99, 100]).tolist() if len(values) else [None] * 3
        figures |= dict(zip((f"{name}_p50", f"{name}_p99", f"{name}_max"), percentiles, strict=True))
    return figures | {"overruns": int((period >= OVERRUN * dt).sum())}


def plot(latency: np.ndarray, period: np.ndarray, dt: float, path: Path) -> None:
    """Draws latency and period of each step as a .png file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, values, label in zip(axes, (latency, period), ("latency", "period"), strict=True):
        axis.plot(1e3 * values, linewidth=0.8)
        axis.set_ylabel(f"{label} (ms)")
    axes[1].axhline(1e3 * dt, color="black", linestyle=":", label=f"dt = {1e3 * dt:.1f} ms")
    axes[1].legend()
    axes[1].set_xlabel("step")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
