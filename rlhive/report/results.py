"""The results of runs that reports show, and comparisons between them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.report.statistics import Estimate, iqm_curve, probability_of_improvement

RNG_SEED = 0  # the same runs give the same intervals


@attrs.frozen
class Process:
    """One training process: its directory's name, its seeds, and the resources it used, None where not recorded.

    `step_name` says what `steps` count: environment steps or gradient updates.
    """

    name: str
    seeds: tuple[int, ...]
    step_name: str | None
    seconds: float | None
    steps: int | None
    peak_memory_bytes: int | None
    gpu_peak_memory_bytes: int | None


@attrs.frozen(eq=False)
class Results:
    """The results of a run of one or several seeds, trained in one process or in several.

    Attributes:
        path: of the run directory, or of the directory that contains several.
        label: its name in the report.
        spec: the (first) run's spec.json.
        config: the text of its config.gin.
        seeds: int64 `[S]`, ascending.
        steps: of all evaluations, per seed, counting what `step_name` says, int64 `[T]`, ascending.
        scores: by name, "success" (rate, 0 to 1) and "return" (mean), float64 `[S, T]`, NaN where missing.
        wall_time: seconds from the start of its process to each seed's last row, float64 `[S]`.
        processes: the training processes.
        seen: a PNG of the images that the first seed's policy saw in the last evaluation; None without images.
        stopped: step and reason for each seed that stopped before the run's end.
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
        """What its steps count: environment steps or gradient updates, or just steps if that is not recorded."""
        return next((process.step_name for process in self.processes if process.step_name), "steps")

    @property
    def complete(self) -> np.ndarray:
        """Steps at which every seed was evaluated, int64 `[t]`; only these have an IQM, a median and an interval."""
        missing = sum(np.isnan(values).any(axis=0) for values in self.scores.values())
        return self.steps[np.asarray(missing) == 0]

    def at(self, name: str, step: int) -> np.ndarray:
        """Each seed's score of that name at the step of an evaluation, `[S]`."""
        return self.scores[name][:, self.steps == step][:, 0]

    def iqm(self, name: str) -> Estimate:
        """IQM over seeds, with its interval, at every evaluation; arrays `[T]`."""
        return iqm_curve(self.scores[name], np.random.default_rng(RNG_SEED))


def shared_step(runs: Sequence[Results]) -> int:
    """The last step at which every seed of every run was evaluated.

    Raises:
        ValueError: there is none.
    """
    shared = reduce(np.intersect1d, [run.complete for run in runs])
    if not len(shared):
        names = " and ".join(str(run.path) for run in runs)
        same_steps = len(reduce(np.intersect1d, [run.steps for run in runs]))
        why = _lacking(runs) if same_steps else "train them with the same train.evaluate_every"
        raise ValueError(f"{names}: no step has an evaluation of every seed; {why}")
    return int(shared[-1])


def _lacking(runs: Sequence[Results]) -> str:
    """Which seeds lack evaluations that other seeds of their run have, and what to do."""
    found = []
    for run in runs:
        missing = np.isnan(list(run.scores.values())).any(axis=0)
        found += [
            f"seed {seed} of {run.label} from step {run.steps[row.argmax()]} on"
            for seed, row in zip(run.seeds, missing, strict=True)
            if row.any()
        ]
    return f"evaluations are missing for {', '.join(found)}: report the runs one by one, or train without such seeds"


Improvement = tuple[Results, Results, Estimate]  # A, B, and the probability that a seed of A beats one of B


def improvements(runs: Sequence[Results], name: str, step: int) -> list[Improvement]:
    """The probability of improvement of every pair of runs, by the score of that name at one step."""
    return [
        (
            a,
            b,
            probability_of_improvement(a.at(name, step), b.at(name, step), np.random.default_rng(RNG_SEED)),
        )
        for index, a in enumerate(runs)
        for b in runs[index + 1 :]
    ]


def step_names(runs: Sequence[Results]) -> str:
    """What the steps of these runs count."""
    return " or ".join(dict.fromkeys(run.step_name for run in runs))
