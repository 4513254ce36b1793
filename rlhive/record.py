"""What there is to see of a run: metrics.csv, TorchRL's loggers, curves.png, progress on the terminal."""

from __future__ import annotations

import csv
import difflib
import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from tqdm import tqdm

from rlhive.core.files import replacing
from rlhive.core.stats import iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torchrl.record.loggers import Logger

METRICS_FILE, CURVES_FILE = "metrics.csv", "curves.png"
LOGGERS = ("csv", "tensorboard", "wandb")
INDEX_COLUMNS = ("step", "seed", "wall_time")
CURVES = ("eval/success", "eval/return", "train/success", "train/return")


class Recorder:
    """Writes metrics to `metrics.csv` and to TorchRL's loggers.

    `metrics.csv` is one wide table: `step` (environment steps of the seed), `seed`, `wall_time` (seconds
    since the start of the run), then a column for each metric. Numbers read back bit for bit; `wall_time` is
    the only column that differs in a repeated run, unless the metrics given are times themselves.

    Args:
        run_dir: the run's directory, which exists.
        loggers: TorchRL's loggers to write to beside metrics.csv, from `LOGGERS`; each has a directory of its
            name in the run's.
        wandb: settings for TorchRL's `WandbLogger`, at least `project`.
        resume_step: continues the run there: later rows are dropped. None starts a run.

    Raises:
        ValueError: what `check_loggers` refuses, or there is a metrics.csv and `resume_step` is None.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        loggers: Sequence[str] = ("tensorboard",),
        wandb: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
    ) -> None:
        check_loggers(loggers, wandb)
        self._path = Path(run_dir) / METRICS_FILE
        if resume_step is None and self._path.exists():
            raise ValueError(f"{self._path} exists: resume the run, or choose another run directory")
        self._columns, rows = _read(self._path) if self._path.exists() else (list(INDEX_COLUMNS), [])
        rows = [row for row in rows if int(row["step"]) <= (resume_step or 0)]
        self._rewrite(rows)
        self._started = time.monotonic() - max((float(row["wall_time"]) for row in rows), default=0.0)
        self._loggers = [_logger(name, Path(run_dir), wandb or {}, resume_step) for name in loggers]

    def write(self, step: int, seed: int, metrics: Mapping[str, float]) -> None:
        """Appends one row; a metric that was not there before gets a column of its own.

        Args:
            step: environment steps of the seed so far.
            seed: the seed's number.
            metrics: values by `group/name`, such as `"eval/return"` or `"loss/actor"`.
        """
        row = {"step": str(step), "seed": str(seed), "wall_time": f"{time.monotonic() - self._started:.3f}"}
        row |= {name: repr(float(value)) for name, value in metrics.items()}
        if new := [name for name in metrics if name not in self._columns]:
            self._columns += new
            self._rewrite(_read(self._path)[1])
        with self._path.open("a", newline="") as file:
            _writer(file, self._columns).writerow(row)
        for logger in self._loggers:
            for name, value in metrics.items():
                logger.log_scalar(f"{name}/seed_{seed}", float(value), step=step)

    def close(self) -> None:
        """Closes the loggers; the recorder is of no use afterwards."""
        for logger in self._loggers:
            # TorchRL's CSV logger has nothing to close, TensorBoard's `close`, wandb's `finish`.
            for end in ("close", "finish"):
                getattr(logger.experiment, end, lambda: None)()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as beside, beside.open("w", newline="") as file:
            writer = _writer(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def check_loggers(loggers: Sequence[str], wandb: Mapping[str, Any] | None) -> None:
    """Refuses what `Recorder` could not log to, before anything is started.

    Raises:
        ValueError: an unknown logger, or wandb without its package or its project.
    """
    for name in loggers:
        if name not in LOGGERS:
            near = difflib.get_close_matches(name, LOGGERS, n=1, cutoff=0)[0]
            raise ValueError(
                f"unknown logger {name!r}: did you mean {near!r}? There are {', '.join(LOGGERS)}"
            )
    if "wandb" in loggers and not (wandb or {}).get("project"):
        raise ValueError('logging to wandb needs its project, such as wandb = {"project": "robots"}')
    if "wandb" in loggers and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "logging to wandb needs the package wandb: `uv sync --extra wandb`, or remove the logger"
        )


def read_metrics(run_dir: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.csv by name, each float64 `[rows]`, NaN where a row has no such metric.

    Raises:
        FileNotFoundError: there is no metrics.csv.
    """
    columns, rows = _read(Path(run_dir) / METRICS_FILE)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}


def plot_curves(run_dir: str | os.PathLike[str]) -> Path | None:
    """Draws success rate, return and losses over environment steps from metrics.csv into curves.png.

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
        _plot_metric(figure.add_subplot(num_rows, num_columns, place), metrics, name)
    path = Path(run_dir) / CURVES_FILE
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)
    return path


class Progress:
    """Steps, their rate, return, success rate, time left: a bar on a terminal, else a line now and then.

    Args:
        total_steps: environment steps of the whole run, per seed.
        initial_step: where a resumed run begins.
        interval: seconds between two lines where the stream is no terminal.
        stream: where to write; None is stderr.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        initial_step: int = 0,
        interval: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        plain = not self._stream.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=initial_step,
            unit="step",
            file=self._stream,
            disable=plain,
            dynamic_ncols=True,
        )
        self._meter = tqdm.format_meter
        self._plain, self._interval = plain, interval
        self._total, self._initial, self._step = total_steps, initial_step, initial_step
        self._started = self._last_line = time.monotonic()
        self._shown: int | None = None
        self._values: dict[str, str] = {}

    def update(
        self, step: int, *, episode_return: float | None = None, success_rate: float | None = None
    ) -> None:
        """Shows that `step` is reached; the return and success rate (0 to 1) last given stay on show."""
        if episode_return is not None:
            self._values["return"] = f"{episode_return:.1f}"
        if success_rate is not None:
            self._values["success"] = f"{success_rate:.0%}"
        if not self._plain:
            self._bar.set_postfix(self._values, refresh=False)
            self._bar.update(step - self._step)
        self._step = step
        if self._plain and time.monotonic() - self._last_line >= self._interval:
            self._line()

    def close(self) -> None:
        """Ends the bar, or writes a last line."""
        if self._plain and self._shown != self._step:
            self._line()
        self._bar.close()

    def _line(self) -> None:
        self._last_line, self._shown = time.monotonic(), self._step
        text = self._meter(
            self._step,
            self._total,
            self._last_line - self._started,
            unit="step",
            initial=self._initial,
            postfix=", ".join(f"{name} {value}" for name, value in self._values.items()),
            bar_format="{n_fmt}/{total_fmt} steps ({percentage:.0f}%), {rate_fmt}{postfix}, {remaining} left",
        )
        self._stream.write(text + "\n")
        self._stream.flush()


def _writer(file: TextIO, columns: Sequence[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(file, columns, restval="", lineterminator="\n")


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    # A row cut short by a crash has fewer fields than the header.
    return header, [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def _logger(name: str, run_dir: Path, wandb: Mapping[str, Any], resume_step: int | None) -> Logger:
    from torchrl.record.loggers import csv as csv_logger
    from torchrl.record.loggers import tensorboard
    from torchrl.record.loggers import wandb as wandb_logger

    if name == "wandb":
        return wandb_logger.WandbLogger(exp_name=run_dir.resolve().name, log_dir=str(run_dir), **wandb)
    if name == "csv":
        _drop_later_scalars(run_dir / name, resume_step)
        return csv_logger.CSVLogger(exp_name=name, log_dir=str(run_dir))
    logger = tensorboard.TensorboardLogger(exp_name=name, log_dir=str(run_dir))
    if resume_step is not None:
        # A writer opened with a purge step tells TensorBoard to forget the steps that are done again.
        logger.experiment.close()
        logger.experiment.purge_step = resume_step + 1
    return logger


def _drop_later_scalars(directory: Path, resume_step: int | None) -> None:
    for path in sorted(directory.glob("scalars/**/*.csv")):
        lines = path.read_text().splitlines(keepends=True)
        with replacing(path) as beside:
            beside.write_text(
                "".join(line for line in lines if int(line.split(",")[0]) <= (resume_step or 0))
            )


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
    axes.set(title=name, xlabel="environment steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
