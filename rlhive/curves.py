"""The picture of a run: success, return and losses over its steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhive.core.files import replacing
from rlhive.core.stats import iqm
from rlhive.record import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"
CURVES = ("eval/success", "eval/return", "train/success", "train/return")


def plot_curves(run_dir: str | os.PathLike[str], steps: str = "environment steps") -> Path | None:
    """Draws success rate, return and losses from metrics.csv into curves.png, over what `steps` says.

    A line per seed, and their interquartile mean where there are several.

    Returns:
        The picture's path; None when there is nothing to draw yet.

    Raises:
        FileNotFoundError: there is no metrics.csv.
    """
    from matplotlib.figure import Figure

    metrics = read_metrics(run_dir)
    names = [name for name in CURVES if name in metrics]
    names += [name for name in metrics if name.startswith("loss/")]
    if not names:
        return None
    num_columns = min(len(names), 4)
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(4.2 * num_columns, 3.2 * num_rows), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(num_rows, num_columns, place)
        axes.set(title=name, xlabel=steps)
        _plot_metric(axes, metrics, name)
    path = Path(run_dir) / CURVES_FILE
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)
    return path


def _plot_metric(axes: Axes, metrics: Mapping[str, np.ndarray], name: str) -> None:
    values = metrics[name]
    by_seed = {}
    for seed in np.unique(metrics["seed"]):
        chosen = (metrics["seed"] == seed) & ~np.isnan(values)
        steps = metrics["step"][chosen]
        axes.plot(steps, values[chosen], linewidth=0.9, alpha=0.7, label=f"seed {seed:.0f}")
        by_seed[seed] = dict(zip(steps, values[chosen], strict=True))
    if len(by_seed) > 1:
        shared = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
        columns = [[curve[step] for curve in by_seed.values()] for step in shared]
        means = [iqm(column) if np.isfinite(column).all() else np.nan for column in columns]
        axes.plot(shared, means, color="black", linewidth=2, label=f"IQM of {len(by_seed)} seeds")
    if name.endswith("/success"):
        axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
