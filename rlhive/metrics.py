"""Records the metrics of a run: metrics.csv, its summary over seeds, and TorchRL's loggers."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive.core.files import replacing
from rlhive.core.stats import iqm
from rlhive.metrics_table import Table, as_text, damaged, read_table, write_table
from rlhive.runs.run_files import AGGREGATE_FILE, METRICS_FILE
from rlhive.suggest import suggest

if TYPE_CHECKING:
    from torchrl.record.loggers import Logger

COLUMNS, AGGREGATE_COLUMNS = ("step", "seed", "wall_time"), ("step", "wall_time", "num_seeds")
LOGGERS = ("csv", "tensorboard", "wandb")


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Writes metrics to `metrics.csv`, a summary over several seeds, and TorchRL's loggers.

    `metrics.csv` is one wide table: `step` (of the seed, see `write`), `seed`, `wall_time` (seconds
    since the start of the run), then a column for each metric. Numbers read back bit for bit; `wall_time` is
    the only column that differs in a repeated run, unless the metrics given are times themselves.
    `metrics_over_seeds.csv` has a row for each step of several seeds: `step`, `wall_time`, `num_seeds`, and the
    interquartile mean, minimum and maximum of each metric: `eval/return/iqm`, `eval/return/min`, `eval/return/max`.
    They cover the seeds that still train, if two or more: those that stopped no longer count, however good they were.

    Args:
        run_dir: the run's directory, which must exist.
        loggers: TorchRL's loggers to write to besides metrics.csv, from `LOGGERS`; each has a directory of its own
            name in the run's.
        wandb: settings for TorchRL's `WandbLogger`, at least `project`.
        resume_step: continues the run from there and drops later rows; None starts a new run.
        log_common: whether the loggers also get what is computed over several seeds. A run that will be merged into
            another leaves it out, so that it does not mix with that run's curves over seeds.

    Raises:
        ValueError: `check_loggers` refuses the loggers, or metrics.csv exists and `resume_step` is None.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        loggers: Sequence[str] = ("tensorboard",),
        wandb: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        log_common: bool = True,
    ) -> None:
        check_loggers(loggers, wandb)
        run_dir = Path(run_dir)
        if resume_step is None and (run_dir / METRICS_FILE).exists():
            raise ValueError(
                f"{run_dir / METRICS_FILE} exists: resume the run, or choose another run directory"
            )
        last_step = resume_step or 0
        self._log_common = log_common
        self._table = Table(run_dir / METRICS_FILE, COLUMNS, last_step)
        sum_up(run_dir)  # a process that was killed may not have got to it
        self._aggregate = Table(run_dir / AGGREGATE_FILE, AGGREGATE_COLUMNS, last_step)
        self._started = time.monotonic() - self._table.last_wall_time
        self._loggers = [_logger(name, run_dir, wandb or {}, resume_step) for name in loggers]

    def write(self, step: int, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Appends a row for each seed, all or none, and, if there are several, a row over seeds.

        Args:
            step: environment steps of each seed so far; offline, gradient updates.
            rows: for each seed its metrics by `group/name`, such as `"eval/return"` or `"loss/actor"`; a new one gets
                a column of its own.
        """
        index = {"step": step, "wall_time": self._wall_time()}
        self._table.append([({**index, "seed": seed}, metrics) for seed, metrics in rows.items()])
        for seed, metrics in rows.items():
            self._log(step, {f"{name}/seed_{seed}": value for name, value in metrics.items()})
        if len(rows) > 1:
            common = _over_seeds(list(rows.values()))
            self._aggregate.append([({**index, "num_seeds": len(rows)}, common)])
            if self._log_common:
                self._log(step, common)

    def close(self) -> None:
        """Closes the loggers; the recorder cannot be used afterwards."""
        for logger in self._loggers:
            # TensorBoard's logger has `close`, wandb's `finish`, and TorchRL's CSV logger neither.
            for end in ("close", "finish"):
                getattr(logger.experiment, end, lambda: None)()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wall_time(self) -> str:
        return f"{time.monotonic() - self._started:.3f}"

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            for name, value in values.items():
                logger.log_scalar(name, float(value), step=step)


def merge_metrics(run_dir: Path, added_dir: Path, seeds: Sequence[int]) -> None:
    """Adds the rows of another run's metrics.csv, with other seeds, to that of `run_dir`, and rewrites the summary.

    Args:
        run_dir: the run.
        added_dir: the other run.
        seeds: the order of the seeds within a step.
    """
    columns, rows = read_table(run_dir / METRICS_FILE, COLUMNS)
    more_columns, more_rows = read_table(added_dir / METRICS_FILE, COLUMNS)
    added = {row["seed"] for row in more_rows}
    rows = [row for row in rows if row["seed"] not in added] + more_rows
    rows.sort(key=lambda row: (int(row["step"]), _is_evaluation(row), seeds.index(int(row["seed"]))))
    columns += [name for name in more_columns if name not in columns]
    write_table(run_dir / METRICS_FILE, columns, rows)
    (run_dir / AGGREGATE_FILE).unlink(missing_ok=True)
    sum_up(run_dir)


def sum_up(run_dir: Path) -> None:
    """Rewrites metrics_over_seeds.csv from metrics.csv; rows of steps before the first in metrics.csv are kept."""
    _, rows = read_table(run_dir / METRICS_FILE, COLUMNS)
    groups: dict[tuple[int, bool], dict[str, dict[str, str]]] = {}
    for row in rows:  # if a step has a seed twice, the last row counts
        groups.setdefault((int(row["step"]), _is_evaluation(row)), {})[row["seed"]] = row
    if not groups:
        return
    path = run_dir / AGGREGATE_FILE
    columns, before = read_table(path, AGGREGATE_COLUMNS) if path.exists() else (list(AGGREGATE_COLUMNS), [])
    summed = [row for row in before if int(row["step"]) < min(groups)[0]]
    for (step, _), by_seed in groups.items():
        of_seeds = list(by_seed.values())
        if len(of_seeds) > 1:
            index = {"step": step, "wall_time": of_seeds[-1]["wall_time"], "num_seeds": len(of_seeds)}
            summed.append(as_text(index, _over_seeds([_metrics(row) for row in of_seeds])))
    columns += [name for name in dict.fromkeys(itertools.chain(*summed)) if name not in columns]
    if before or summed:
        write_table(path, columns, summed)


def drop_evaluation(run_dir: Path, step: int, seeds: Sequence[int]) -> None:
    """Drops the rows of both tables for these seeds' evaluation at a step, before it is written again."""
    again = {None, *map(str, seeds)}  # rows over seeds name no seed
    for name, index in ((METRICS_FILE, COLUMNS), (AGGREGATE_FILE, AGGREGATE_COLUMNS)):
        if not (path := run_dir / name).exists():
            continue
        columns, rows = read_table(path, index)
        kept = [
            row
            for row in rows
            if int(row["step"]) != step or row.get("seed") not in again or not _is_evaluation(row)
        ]
        if len(kept) < len(rows):
            write_table(path, columns, kept)


def check_loggers(loggers: Sequence[str], wandb: Mapping[str, Any] | None) -> None:
    """Refuses loggers that `Recorder` could not use, before anything is started.

    Raises:
        ValueError: an unknown logger, or wandb without its package or its project.
    """
    for name in loggers:
        if name not in LOGGERS:
            raise ValueError(f"there is no logger {name!r}: {suggest(name, LOGGERS)}")
    if "wandb" in loggers and not (wandb or {}).get("project"):
        raise ValueError('logging to wandb needs its project, such as wandb = {"project": "robots"}')
    if "wandb" in loggers and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "logging to wandb needs the package wandb: `uv sync --extra wandb`, or remove the logger"
        )


def read_metrics(run_dir: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.csv by name, each float64 `[rows]`, NaN where a row lacks the metric.

    Raises:
        FileNotFoundError: there is no metrics.csv.
        ValueError: it is damaged.
    """
    path = Path(run_dir) / METRICS_FILE
    columns, rows = read_table(path, COLUMNS)
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}
    except ValueError as error:
        raise damaged(path, error) from None


def has_evaluation(run_dir: str | os.PathLike[str], step: int, seeds: Sequence[int]) -> bool:
    """Whether metrics.csv has an evaluation of each of these seeds at `step`; raises as `read_metrics` does."""
    metrics = read_metrics(run_dir)
    if "eval/return" not in metrics:
        return False
    here = (metrics["step"] == step) & ~np.isnan(metrics["eval/return"])
    return set(seeds) <= set(metrics["seed"][here].tolist())


def _metrics(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in row if name not in COLUMNS and row[name]}


def _is_evaluation(row: Mapping[str, str]) -> bool:
    """Whether a row of metrics.csv is of an evaluation; evaluations have their own rows, after those of updates."""
    return any(row[name] for name in row if name.startswith("eval/"))


def _over_seeds(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Interquartile mean, minimum and maximum of each metric that is present and finite in every row."""
    values = {name: [row[name] for row in rows] for name in rows[0] if all(name in row for row in rows)}
    kinds: dict[str, Callable[[list[float]], float]] = {"iqm": iqm, "min": min, "max": max}
    return {
        f"{name}/{kind}": float(of(column))
        for name, column in values.items()
        if np.isfinite(column).all()
        for kind, of in kinds.items()
    }


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
        # Opened with a purge step, the writer makes TensorBoard drop the steps that are repeated.
        logger.experiment.close()
        logger.experiment.purge_step = resume_step + 1
    return logger


def _drop_later_scalars(directory: Path, resume_step: int | None) -> None:
    for path in sorted(directory.glob("scalars/**/*.csv")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        with replacing(path) as beside:
            beside.write_text(
                "".join(line for line in lines if int(line.split(",")[0]) <= (resume_step or 0))
            )
