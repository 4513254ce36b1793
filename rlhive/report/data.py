"""What a report is made of: the runs' evaluations, settings and usage as they lie on disk. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.metrics import read_metrics
from rlhive.report.statistics import Estimate, iqm_curve
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

SCORES = {"success": "eval/success", "return": "eval/return"}
RNG_SEED = 0  # the same runs give the same intervals


@attrs.frozen
class Process:
    """One training process: its directory's name, its seeds, and what it took; None where that is not recorded.

    `steps` are of what `step_name` says: environment steps or gradient updates.
    """

    name: str
    seeds: tuple[int, ...]
    step_name: str | None
    seconds: float | None
    steps: int | None
    peak_memory_bytes: int | None
    gpu_peak_memory_bytes: int | None


@attrs.frozen(eq=False)
class Run:
    """A run of one or several seeds, trained in one process or in several.

    Attributes:
        path: of the run directory, or of the directory that contains one for each seed.
        label: what the report calls it.
        spec: the (first) run's spec.json.
        config: the text of its config.gin.
        seeds: int64 `[S]`, ascending.
        steps: steps per seed of all evaluations, of what `step_name` says, int64 `[T]`, ascending.
        scores: success rate (0 to 1) and mean return by the names of `SCORES`, float64 `[S, T]`, NaN where missing.
        wall_time: seconds from the start of its process to each seed's last row, float64 `[S]`.
        processes: that trained it.
        seen: a PNG of the images that the first seed's policy saw in the last evaluation; None without images.
        stopped: of each seed that stopped before the run's end, the step and the reason.
    """

    path: Path
    label: str
    spec: dict[str, Any]
    config: str
    seeds: np.ndarray
    steps: np.ndarray
    scores: dict[str, np.ndarray]
    wall_time: np.ndarray
    processes: tuple[Process, ...]
    seen: bytes | None = None
    stopped: Mapping[int, tuple[int, str]] = attrs.field(factory=dict)

    @property
    def environment(self) -> str:
        """RoboHive id."""
        return str(self.spec["env"]["name"])

    @property
    def step_name(self) -> str:
        """What its steps count: environment steps or gradient updates, or just steps where none is recorded."""
        return next((process.step_name for process in self.processes if process.step_name), "steps")

    @property
    def complete(self) -> np.ndarray:
        """Steps at which every seed was evaluated, int64 `[t]`; only those have an IQM, a median and an interval."""
        missing = sum(np.isnan(values).any(axis=0) for values in self.scores.values())
        return self.steps[np.asarray(missing) == 0]

    def at(self, name: str, step: int) -> np.ndarray:
        """Each seed's score of that name at an evaluation's step, `[S]`."""
        return self.scores[name][:, self.steps == step][:, 0]

    def iqm(self, name: str) -> Estimate:
        """IQM over seeds of every evaluation with its interval, arrays `[T]`."""
        return iqm_curve(self.scores[name], np.random.default_rng(RNG_SEED))


def member_dirs(path: Path) -> list[Path]:
    """The run directories that `path` stands for: itself, or those in it.

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
            f"{path}: neither it nor a directory in it has a {METRICS_FILE}; give a run of rlhive.train"
        )
    return members


def read_run(path: Path, label: str | None = None) -> Run:
    """A run directory, or a directory of run directories that counts as one run with all their seeds.

    Raises:
        ValueError: no evaluations or files that do not fit, or runs in it that do not belong together.
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
            f"{path}: two runs in it have seed {twice}; give the runs one by one to compare them"
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


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Runs to be compared, each with a label of its own.

    Raises:
        ValueError: what `read_run` refuses, or runs that cannot be compared.
    """
    names = [path.resolve().name for path in paths]
    unique = len(set(names)) == len(names)
    runs = [read_run(path, name if unique else str(path)) for path, name in zip(paths, names, strict=True)]
    for other in runs[1:]:
        _check_same_environment(runs[0], other)
    if len(runs) > 1:
        shared_step(runs)
    return runs


def shared_step(runs: Sequence[Run]) -> int:
    """The last step at which every seed of every run was evaluated.

    Raises:
        ValueError: there is none.
    """
    shared = reduce(np.intersect1d, [run.complete for run in runs])
    if not len(shared):
        names = " and ".join(str(run.path) for run in runs)
        same_steps = len(reduce(np.intersect1d, [run.steps for run in runs]))
        why = _lacking(runs) if same_steps else "train with one train.evaluate_every"
        raise ValueError(f"{names}: no step has an evaluation of every seed; {why}")
    return int(shared[-1])


def _lacking(runs: Sequence[Run]) -> str:
    """Which seeds lack evaluations that others of their run have, and what to do."""
    found = []
    for run in runs:
        missing = np.isnan(list(run.scores.values())).any(axis=0)
        found += [
            f"seed {seed} of {run.label} from step {run.steps[row.argmax()]} on"
            for seed, row in zip(run.seeds, missing, strict=True)
            if row.any()
        ]
    return f"there is none of {', '.join(found)}: report the runs one by one, or train without such seeds"


def _read_member(directory: Path) -> Run:
    for name in (SPEC_FILE, CONFIG_FILE):
        if not (directory / name).is_file():
            raise ValueError(f"{directory}: has no {name}; give a run directory of rlhive.train")
    metrics, spec = _read_files(directory)
    columns = [metrics.get(column, np.full(len(metrics["step"]), np.nan)) for column in SCORES.values()]
    evaluated = np.isfinite(columns).any(axis=0)
    if not evaluated.any():
        raise ValueError(
            f"{directory}: has no evaluation yet: train on to train.evaluate_every steps, or anew where no seed is left"
        )
    of_row = metrics["seed"].astype(np.int64)
    # A seed that broke before its first row is in the checkpoints alone, and counts all the same.
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
    return Run(
        directory, directory.name, spec, config, seeds, steps, scores, wall_time, (process,), seen, stopped
    )


def _seed_dirs(directory: Path, of_row: np.ndarray) -> dict[int, Path]:
    """Where the files of each seed lie in the latest checkpoint, if any; a seed alone is that of the metrics' rows."""
    if not has_checkpoint(directory):
        return {}
    latest = checkpoint_dir(directory)
    return dirs_of_several(latest) or {int(of_row[0]): latest}


def _read_stopped(folder: Path) -> tuple[int, str] | None:
    """When and why a seed stopped, by its folder in a checkpoint; None where it did not."""
    if not part_path(folder, "train_state").exists():  # a policy alone needs none
        return None
    progress = read_progress(folder)
    return (int(progress["stopped_at"]), str(progress["reason"])) if "stopped_at" in progress else None


def _read_files(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """metrics.csv by column, and spec.json, with at least what a report needs of them."""
    try:
        metrics, spec = read_metrics(directory), json.loads((directory / SPEC_FILE).read_text())
        missing = [name for name in ("step", "seed", "wall_time") if name not in metrics]
        missing += [
            name for name in ("name", "observation_dim", "action_dim", "dt") if name not in spec["env"]
        ]
        if missing or "algorithm" not in spec:
            raise ValueError(f"without {', '.join(missing) or 'algorithm'}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory}: its {METRICS_FILE} or {SPEC_FILE} is damaged: {error}") from None
    return metrics, spec


def _read_process(directory: Path, seeds: tuple[int, ...]) -> Process:
    usage = read_usage(directory)
    counted = next((key for key in STEP_NAMES if key in usage), "")
    keys = ("seconds", counted, "peak_memory_bytes", "gpu_peak_memory_bytes")
    figures: list[Any] = [usage.get(key) for key in keys]
    return Process(directory.resolve().name, seeds, STEP_NAMES.get(counted), *figures)


def _spread(run: Run, name: str, steps: np.ndarray) -> np.ndarray:
    """The run's scores `[S, T]` on the steps of several runs, NaN where it has none."""
    spread = np.full((len(run.seeds), len(steps)), np.nan)
    spread[:, np.searchsorted(steps, run.steps)] = run.scores[name]
    return spread


def _check_same_configuration(first: Run, other: Run) -> None:
    _check_same_environment(first, other)
    a, b = (
        {k: v for k, v in settings(run.config).items() if k not in SEED_SETTINGS} for run in (first, other)
    )
    if differing := _differing(a, b):
        raise ValueError(
            f"{first.path} and {other.path} differ in {', '.join(differing)}, so are not seeds of one run; "
            "give the runs one by one to compare them"
        )


def _check_same_environment(first: Run, other: Run) -> None:
    if first.environment != other.environment:
        raise ValueError(
            f"{first.path} is of {first.environment} and {other.path} of {other.environment}: "
            "only runs of one environment can be compared"
        )
    if differing := _differing(first.spec["env"], other.spec["env"]):
        raise ValueError(
            f"{first.path} and {other.path} are of {first.environment} with another "
            f"{', '.join(differing)}: only runs of one environment can be compared"
        )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]
