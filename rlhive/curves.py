"""Draws the curves of a run: success, return and losses over its steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive.core.files import replacing
from rlhive.core.stats import iqm
from rlhive.metrics import read_metrics
from rlhive.runs.run_files import CURVES_FILE, STEP_NAMES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 33
CURVES = ("eval/success", "eval/return", "train/success", "train/return")


def plot_curves(run_dir: str | os.PathLike[str], steps: str = "environment_steps") -> Path | None:
    """Draws success rate, return and losses from metrics.csv into curves.png.

    There is a line per seed and, for several seeds, one of their interquartile mean. `steps` is a key of
    `rlhive.runs.run_files.STEP_NAMES`, which names the axis.

    Returns:
        The picture's path; None if there is nothing to draw yet.

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
    figure = Figure(figsize=(4.2 * num_columns, 3.2 * num_rows))
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(num_rows, num_columns, place)
        axes.set(title=name, xlabel=STEP_NAMES[steps])
        _plot_metric(axes, metrics, name)
    _lay_out(figure, *axes.get_legend_handles_labels())
    path = Path(run_dir) / CURVES_FILE
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)
    return path


def _lay_out(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Leaves room for labels and one shared legend; matplotlib's own layout would take two thirds of the time."""
    if len(labels) > MAX_LABELS:  # colours no longer tell so many seeds apart
        handles, labels = handles[-1:], labels[-1:]  # only the mean over seeds
    width, height = figure.get_size_inches()  # in inches, like all lengths here
    columns = int(width / 1.2)
    for_legend = 0.2 + 0.2 * -(-len(labels) // columns)
    height += for_legend
    figure.set_size_inches(width, height)
    margins = {"left": 0.7 / width, "right": 1 - 0.2 / width, "bottom": 0.6 / height}
    figure.subplots_adjust(**margins, top=1 - (for_legend + 0.3) / height, wspace=0.25, hspace=0.4)
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize="small")


def _plot_metric(axes: Axes, metrics: Mapping[str, np.ndarray], name: str) -> None:
    values = metrics[name]
    by_seed = {}
    for seed in np.unique(metrics["seed"]):
        chosen = (metrics["seed"] == seed) & ~np.isnan(values)
        steps = metrics["step"][chosen]
        _plot_line(axes, steps, values[chosen], linewidth=0.9, alpha=0.7, label=f"seed {seed:.0f}")
        by_seed[seed] = dict(zip(steps, values[chosen], strict=True))
    if len(by_seed) > 1:
        shared = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
        columns = [[curve[step] for curve in by_seed.values()] for step in shared]
        means = [iqm(column) if np.isfinite(column).all() else np.nan for column in columns]
        _plot_line(axes, shared, means, color="black", linewidth=2, label=f"IQM of {len(by_seed)} seeds")
    if name.endswith("/success"):
        axes.set_ylim(-0.03, 1.03)
    axes.locator_params(axis="x", nbins=5)  # with more, the numbers touch
    axes.grid(alpha=0.3)


def _plot_line(axes: Axes, steps: Sequence[float], values: Sequence[float], **style: Any) -> None:
    """Draws a line, or a visible dot for a single point."""
    axes.plot(steps, values, marker="o" if len(steps) == 1 else None, **style)
