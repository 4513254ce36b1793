"""Reads the results of runs from their directories: evaluations, settings and usage. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.metrics import read_metrics
from rlhive.report.results import Process, Results, shared_step
from rlhive.runs.gin_text import SEED_SETTINGS, settings
from rlhive.runs.run_files import (
    CONFIG_FILE,
    METRICS_FILE,
    SEEN_FILE,
    SPEC_FILE,
    STEP_NAMES,
    checkpoint_dir,
    dirs_of_several,
    has_checkpoint,
    part_path,
    read_progress,
    read_usage,
    settings_path,
)

SCORES = {"success": "eval/success", "return": "eval/return"}  # columns of metrics.csv


def member_dirs(path: Path) -> list[Path]:
    """The run directories that `path` stands for: itself, or the ones in it.

    Raises:
        ValueError: there is none.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such directory")
    if (path / METRICS_FILE).is_file():
        return [path]
    members = sorted(file.parent for file in path.glob(f"*/{METRICS_FILE}"))
    if not members:
        raise ValueError(
            f"{path}: neither it nor a directory in it has a {METRICS_FILE}; give a run directory of rlhive.train"
        )
    return members


def read_run(path: Path, label: str | None = None) -> Results:
    """Reads a run directory, or a directory of run directories that count as one run with all their seeds.

    Raises:
        ValueError: there is no evaluation, files do not fit, or the runs in it do not belong together.
    """
    members = [_read_member(directory) for directory in member_dirs(path)]
    first = members[0]
    for other in members[1:]:
        _check_same_configuration(first, other)
    order = np.argsort(np.concatenate([member.seeds for member in members]))
    seeds = np.concatenate([member.seeds for member in members])[order]
    if len(np.unique(seeds)) < len(seeds):
        twice = seeds[:-1][np.diff(seeds) == 0][0]
        raise ValueError(
            f"{path}: two runs in it have seed {twice}; to compare the runs, give them one by one"
        )
    steps = reduce(np.union1d, [member.steps for member in members])
    scores = {
        name: np.concatenate([_spread(member, name, steps) for member in members])[order] for name in SCORES
    }
    return attrs.evolve(
        first,
        path=path,
        label=label or path.resolve().name,
        seeds=seeds,
        steps=steps,
        scores=scores,
        wall_time=np.concatenate([member.wall_time for member in members])[order],
        processes=tuple(process for member in members for process in member.processes),
        stopped={seed: how for member in members for seed, how in member.stopped.items()},
    )


def read_runs(paths: Sequence[Path]) -> list[Results]:
    """Reads runs to compare, each with its own label.

    Raises:
        ValueError: `read_run` refuses a run, or the runs cannot be compared.
    """
    names = [path.resolve().name for path in paths]
    unique = len(set(names)) == len(names)
    runs = [read_run(path, name if unique else str(path)) for path, name in zip(paths, names, strict=True)]
    for other in runs[1:]:
        _check_same_environment(runs[0], other)
    if len(runs) > 1:
        shared_step(runs)
    return runs


def _read_member(directory: Path) -> Results:
    for name in (SPEC_FILE, CONFIG_FILE):
        if not (directory / name).is_file():
            raise ValueError(f"{directory}: has no {name}; give a run directory of rlhive.train")
    metrics, spec = _read_files(directory)
    columns = [metrics.get(column, np.full(len(metrics["step"]), np.nan)) for column in SCORES.values()]
    evaluated = np.isfinite(columns).any(axis=0)
    if not evaluated.any():
        raise ValueError(
            f"{directory}: has no evaluation yet: resume it until train.evaluate_every steps, or start anew if no seed "
            "is left"
        )
    of_row = metrics["seed"].astype(np.int64)
    # A seed that broke before its first row is only in the checkpoints, but counts as well.
    folders = _seed_dirs(directory, of_row)
    seeds = np.union1d(of_row, np.array(list(folders), np.int64))
    stopped = {seed: how for seed, folder in folders.items() if (how := _read_stopped(folder))}
    row = np.searchsorted(seeds, of_row)
    steps, column = np.unique(metrics["step"][evaluated].astype(np.int64), return_inverse=True)
    scores = {name: np.full((len(seeds), len(steps)), np.nan) for name in SCORES}
    for name, values in zip(SCORES, columns, strict=True):
        scores[name][row[evaluated], column] = np.where(np.isfinite(values), values, np.nan)[evaluated]
    wall_time = np.array(
        [metrics["wall_time"][row == index].max(initial=-np.inf) for index in range(len(seeds))]
    )
    process = _read_process(directory, tuple(seeds.tolist()))
    config = settings_path(directory).read_text(encoding="utf-8")
    strip = directory / SEEN_FILE
    seen = strip.read_bytes() if strip.exists() else None
    return Results(
        directory, directory.name, spec, config, seeds, steps, scores, wall_time, (process,), seen, stopped
    )


def _seed_dirs(directory: Path, of_row: np.ndarray) -> dict[int, Path]:
    """The folder of each seed in the latest checkpoint, if any; a single seed is the one in the metrics' rows."""
    if not has_checkpoint(directory):
        return {}
    latest = checkpoint_dir(directory)
    return dirs_of_several(latest) or {int(of_row[0]): latest}


def _read_stopped(folder: Path) -> tuple[int, str] | None:
    """When and why a seed stopped, read from its folder in a checkpoint; None if it did not."""
    if not part_path(folder, "train_state").exists():  # a copied policy may lack it
        return None
    progress = read_progress(folder)
    return (int(progress["stopped_at"]), str(progress["reason"])) if "stopped_at" in progress else None


def _read_files(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads metrics.csv by column, and spec.json; both have at least what a report needs."""
    try:
        metrics, spec = read_metrics(directory), json.loads((directory / SPEC_FILE).read_text())
        missing = [
            name for name in ("name", "observation_dim", "action_dim", "dt") if name not in spec["env"]
        ]
        if missing or "algorithm" not in spec:
            raise ValueError(f"it lacks {', '.join(missing) or 'algorithm'}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory}: its {METRICS_FILE} or {SPEC_FILE} is damaged: {error}") from None
    return metrics, spec


def _read_process(directory: Path, seeds: tuple[int, ...]) -> Process:
    usage = read_usage(directory)
    counted = next((key for key in STEP_NAMES if key in usage), "")
    keys = ("seconds", counted, "peak_memory_bytes", "gpu_peak_memory_bytes")
    figures: list[Any] = [usage.get(key) for key in keys]
    return Process(directory.resolve().name, seeds, STEP_NAMES.get(counted), *figures)


def _spread(run: Results, name: str, steps: np.ndarray) -> np.ndarray:
    """The run's scores `[S, T]` at the steps of several runs, NaN where it has none."""
    spread = np.full((len(run.seeds), len(steps)), np.nan)
    spread[:, np.searchsorted(steps, run.steps)] = run.scores[name]
    return spread


def _check_same_configuration(first: Results, other: Results) -> None:
    _check_same_environment(first, other)
    a, b = (
        {k: v for k, v in settings(run.config).items() if k not in SEED_SETTINGS} for run in (first, other)
    )
    if differing := _differing(a, b):
        raise ValueError(
            f"{first.path} and {other.path} differ in {', '.join(differing)}, so they are not seeds of one run; "
            "to compare the runs, give them one by one"
        )


def _check_same_environment(first: Results, other: Results) -> None:
    if first.environment != other.environment:
        raise ValueError(
            f"{first.path} is of {first.environment} and {other.path} of {other.environment}: "
            "only runs of one environment can be compared"
        )
    if differing := _differing(first.spec["env"], other.spec["env"]):
        raise ValueError(
            f"{first.path} and {other.path} are of {first.environment} with different "
            f"{', '.join(differing)}: only runs of one environment can be compared"
        )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]
