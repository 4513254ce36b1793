"""The picture of a run's curves."""

import csv

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from rlhive.curves import plot_curves

NAMES = ("eval/success", "eval/return", "loss/actor")


def write_metrics(run_dir, num_seeds, steps=(10, 20)):
    with (run_dir / "metrics.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seed", "wall_time", *NAMES])
        writer.writerows(
            [step, seed, 1.0, 0.5, step + seed, 0.1] for seed in range(num_seeds) for step in steps
        )


@pytest.fixture
def figures(monkeypatch):
    """Those that are drawn, as they are saved."""
    found, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: found.append(self) or save(self, *args, **kw)
    )
    return found


@pytest.mark.parametrize(
    ("num_seeds", "labels"),
    [(1, ["seed 0"]), (2, ["seed 0", "seed 1", "IQM of 2 seeds"]), (40, ["IQM of 40 seeds"])],
)
def test_one_legend_names_the_seeds_or_where_they_are_many_their_mean(tmp_path, figures, num_seeds, labels):
    write_metrics(tmp_path, num_seeds)
    path = plot_curves(tmp_path)
    [figure] = figures
    assert [axes.get_title() for axes in figure.axes] == list(NAMES)
    assert all(axes.get_legend() is None for axes in figure.axes)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    top = max(axes.get_tightbbox().y1 for axes in figure.axes)  # of their titles
    assert top <= legend.get_window_extent().y0
    assert imread(path).ndim == 3


def test_a_single_evaluation_is_seen(tmp_path, figures):
    write_metrics(tmp_path, 2, steps=(10,))
    plot_curves(tmp_path)
    [figure] = figures
    markers = [line.get_marker() for axes in figure.axes for line in axes.lines]
    assert markers == ["o"] * 3 * len(NAMES)  # of each seed and their mean


def test_there_is_no_picture_of_nothing(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,seed,wall_time\n")
    assert plot_curves(tmp_path) is None
