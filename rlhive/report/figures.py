"""The pictures of a report as SVG text: success and return over steps, and comparisons of several runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from rlhive.report.results import RNG_SEED, Improvement, Results, step_names
from rlhive.report.statistics import Estimate, performance_profile, steps_to_threshold
from rlhive.report.text import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart. Combined with the line styles they distinguish 28
# runs, and some in black and white too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
LINES = ("-", "--", "-.", ":")
LABELS = {"success": "success rate", "return": "mean return"}
NAMED_SEEDS = 10  # more would crowd the legend
LONGEST = 30  # characters of a run's label in a picture
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "rlhive",  # the same runs give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def seeds_figure(run: Results, runs: Sequence[Results], name: str) -> str:
    """Each seed's score over steps, and of several seeds their IQM with its interval and their median.

    Args:
        run: the run.
        runs: all runs of the report, whose figures have the same axes.
        name: of the score.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(runs, name)
        shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(run.seeds)))
        alone, few = len(run.seeds) == 1, len(run.seeds) <= NAMED_SEEDS
        for seed, values, shade in zip(run.seeds, run.scores[name], shades, strict=True):
            there = np.isfinite(values)
            marker = "." if there.sum() <= 30 else ""
            label = f"seed {seed}" if few else f"each of {len(run.seeds)} seeds" * (seed == run.seeds[0])
            axes.plot(
                run.steps[there],
                values[there],
                color=COLOURS[0] if alone else shade,
                linewidth=1.8 if alone else 0.9,
                marker=marker,
                markersize=4,
                label=label or "_",
            )
        if not alone:
            _band(axes, run.steps, run.iqm(name), "black", "IQM, 95 % interval")
            there = np.isin(run.steps, run.complete)
            median = np.median(run.scores[name][:, there], axis=0)
            axes.plot(
                run.steps[there], median, color=COLOURS[1], linewidth=1.4, linestyle="--", label="median"
            )
        return _svg(figure)


def runs_figure(runs: Sequence[Results], name: str) -> str:
    """Each run's IQM over steps with its interval; for a run with one seed, that seed."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(runs, name)
        for index, run in enumerate(runs):
            colour, line = _style(index)
            _band(axes, run.steps, run.iqm(name), colour, _label(run), linestyle=line)
        return _svg(figure)


def profile_figure(runs: Sequence[Results], name: str, step: int) -> str:
    """Performance profile: the fraction of each run's seeds with a score above the threshold, at one step."""
    finals = [run.at(name, step) for run in runs]
    low, high = (0.0, 1.0) if name == "success" else (min(map(np.min, finals)), max(map(np.max, finals)))
    margin = 0.03 * (high - low or 1.0)
    thresholds = np.linspace(low - margin, high + margin, 201)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = figure.subplots()
        for index, (run, scores) in enumerate(zip(runs, finals, strict=True)):
            profile = performance_profile(scores, thresholds, np.random.default_rng(RNG_SEED))
            colour, line = _style(index)
            _band(axes, thresholds, profile, colour, _label(run), linestyle=line, steps=True)
        axes.set(xlabel=f"{LABELS[name]} above", ylabel="fraction of seeds", ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if name == "success":
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        return _svg(figure)


def improvement_figure(pairs: Sequence[Improvement], name: str) -> str:
    """Probability of improvement of every pair, for the score of that name: a row each, with its interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 0.9 + 0.5 * len(pairs)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0.5, color="black", linewidth=1, linestyle="--")
        for row, (_, _, chance) in enumerate(pairs):
            if np.isfinite(chance.low):
                axes.barh(row, chance.high - chance.low, 0.5, left=chance.low, color=COLOURS[0], alpha=0.3)
            axes.plot([chance.value] * 2, [row - 0.25, row + 0.25], color=COLOURS[0], linewidth=2.5)
        axes.set_yticks(range(len(pairs)), [f"{_short(a)}\n> {_short(b)}" for a, b, _ in pairs])
        axes.set(xlim=(-0.02, 1.02), ylim=(len(pairs) - 0.5, -0.5), xlabel=f"P(higher {LABELS[name]})")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def reached_figure(runs: Sequence[Results], threshold: float) -> str:
    """The fraction of each run's seeds that have reached a success rate, over steps."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new(runs, "success")
        for index, run in enumerate(runs):
            reached = steps_to_threshold(run.steps, run.scores["success"], threshold)
            fraction = (reached[:, None] <= run.steps).mean(axis=0)
            ends = np.append(0, run.steps), np.append(0.0, fraction)
            colour, line = _style(index)
            axes.step(*ends, where="post", color=colour, linestyle=line, linewidth=1.8, label=_label(run))
        axes.set(ylabel=f"seeds that reached {threshold:.0%}")
        return _svg(figure)


def _style(index: int) -> tuple[str, str]:
    """Colour and line style of the run at that index, the same in every picture."""
    return COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]


def _new(runs: Sequence[Results], name: str) -> tuple[Figure, Axes]:
    """Axes for a score over steps, with room for all runs."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=f"{step_names(runs)} per seed", ylabel=LABELS[name])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(0, 1.02 * max(run.steps[-1] for run in runs))
    low, high = 0.0, 1.0
    if name == "success":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        scores = np.concatenate([run.scores[name].ravel() for run in runs])
        low, high = np.nanmin(scores), np.nanmax(scores)
    margin = 0.03 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
    return figure, axes


def _band(
    axes: Axes,
    x: np.ndarray,
    estimate: Estimate,
    colour: str,
    label: str,
    *,
    linestyle: str = "-",
    steps: bool = False,
) -> None:
    """Draws a line, with its interval where it has one."""
    there = np.isfinite(estimate.value)
    x, (value, low, high) = x[there], (part[there] for part in estimate)
    drawing: dict[str, Any] = {"drawstyle": "steps-post"} if steps else {}
    axes.plot(x, value, color=colour, linewidth=2, linestyle=linestyle, label=label, zorder=3, **drawing)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, step="post" if steps else None)


def _short(run: Results) -> str:
    """The run's label, shortened in the middle if it would not fit beside a picture."""
    label = run.label
    return label if len(label) <= LONGEST else f"{label[: LONGEST // 3]}…{label[-(LONGEST * 2 // 3 - 1) :]}"


def _label(run: Results) -> str:
    return f"{_short(run)} ({count_text(run)})"


def _svg(figure: Figure) -> str:
    """The figure as SVG text, with a legend below it if anything has a label."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    if labels:
        figure.legend(loc="outside lower center", ncols=min(4, 80 // (8 + max(map(len, labels)))))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
