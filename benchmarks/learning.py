"""The learning table: trains the shipped defaults for some environments and seeds, then prints and draws the results.

    python benchmarks/learning.py --out=runs/learning
    python benchmarks/learning.py --out=runs/learning --env=FK1_LightOnRandom-v4 --steps=40000

The seeds of an environment are one `python -m rlhive.train` in `<out>/<env>`; `train.log` there has its messages. The
same command again continues a run that was stopped and leaves one that is done as it is.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from absl import flags

from rlhive.command import start
from rlhive.core.files import replacing, write_text
from rlhive.metrics import read_metrics
from rlhive.runs.run_files import METRICS_FILE, checkpoint_dir, has_checkpoint

FLAGS = flags.FLAGS
THRESHOLD = 0.9
MARK = 10_000  # a column of the table for each so many steps
# RoboHive's published NPG runs: final success, mean of the seeds' final returns, environment steps.
NPG = {
    "FrankaReachRandom-v0": (1.0, 184.9, 303_000),
    "FK1_LightOnRandom-v4": (1.0, 4.9, 5_000_000),
    "FetchReachRandom-v0": (0.0, -8.2, 170_000),
}


class Curve(NamedTuple):
    """The evaluations of one seed: environment steps, success rate (0 to 1) and mean return, each `[n]`."""

    steps: np.ndarray
    success: np.ndarray
    returns: np.ndarray


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_multi_string("env", ["FrankaReachRandom-v0"], "RoboHive id; repeatable.")
    flags.DEFINE_list("seeds", ["1", "2", "3", "4", "5"], "The seeds, such as 1,2,3.")
    flags.DEFINE_integer("steps", 30_000, "Environment steps of each run.", lower_bound=1)
    flags.DEFINE_string("out", "runs/learning", "Directory of the runs, of learning.md and of learning.png.")


def main(argv: Sequence[str]) -> int:
    """Trains what is not yet trained, then writes the table and the picture; the exit code is 1 where a run failed."""
    if len(argv) > 1 or not all(seed.isdecimal() for seed in FLAGS.seeds):
        wrong = argv[1] if len(argv) > 1 else f"--seeds={','.join(FLAGS.seeds)}"
        raise ValueError(f"{wrong!r} is not understood; see --help")
    out, seeds = Path(FLAGS.out), [int(seed) for seed in FLAGS.seeds]
    complete = [train(out / env, env, seeds, FLAGS.steps) for env in FLAGS.env]
    report(out, FLAGS.env, seeds, FLAGS.steps)
    return 0 if all(complete) else 1


def train(directory: Path, env: str, seeds: Sequence[int], steps: int) -> bool:
    """Trains the seeds side by side, unless they are done; whether the run came to its end."""
    evaluated = all(len(curve.steps) for curve in read_curves(directory, seeds).values())
    if steps_done(directory) >= steps and evaluated:
        return True
    arguments = ["--gin_file=sac_gaussian.gin", f"--gin.ENV_NAME='{env}'"]
    arguments += [f"--gin.SEEDS={tuple(seeds)}", f"--gin.TOTAL_STEPS={steps}"]
    return start_run(directory, env, arguments)


def start_run(directory: Path, name: str, arguments: Sequence[str], *, jobs: int = 1) -> bool:
    """A `python -m rlhive.train` with these arguments, which continues where it stopped; whether it came to its end.

    Args:
        directory: of the run; `train.log` there has its messages.
        name: what it is called in messages here.
        arguments: of the command, but for those of the directory.
        jobs: how many of them run at a time.
    """
    resume = steps_done(directory) > 0
    if directory.exists() and not resume:
        # Stopped before its first checkpoint: there is nothing to continue.
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rlhive.train", f"--run_dir={directory}", *arguments]
    sys.stderr.write(f"{name}: {'continues' if resume else 'starts'}, see {directory}/train.log\n")
    with (directory / "train.log").open("a") as log:
        code = run_to_end(command + ["--resume"] * resume, log, environment(jobs))
    sys.stderr.write(f"{name}: {'done' if code == 0 else f'exit code {code}'}\n")
    return code == 0


def run_to_end(command: Sequence[str], log: TextIO, env: Mapping[str, str]) -> int:
    """The exit code of a command that writes into `log`; where this process is interrupted, it may save first."""
    process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        return process.wait()
    except KeyboardInterrupt:  # at which `subprocess.run` would kill it
        process.terminate()
        process.wait()
        raise


def environment(jobs: int) -> dict[str, str]:
    """The variables of a run's process; several at a time have an even share of the cores for torch's threads."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return {**({"OMP_NUM_THREADS": str(threads)} if jobs > 1 else {}), **os.environ}


def steps_done(directory: Path) -> int:
    """Environment steps of the run's latest checkpoint; 0 without one."""
    return int(checkpoint_dir(directory).name) if has_checkpoint(directory) else 0


def read_curves(directory: Path, seeds: Sequence[int]) -> dict[int, Curve]:
    """The evaluations of each of the seeds in a run's metrics.csv, empty where a seed has none."""
    metrics = read_metrics(directory) if (directory / METRICS_FILE).exists() else {}
    if "eval/success" not in metrics:
        return {seed: Curve(*np.empty((3, 0))) for seed in seeds}
    evaluated = ~np.isnan(metrics["eval/success"])
    columns = [metrics[name] for name in ("step", "eval/success", "eval/return")]
    return {
        seed: Curve(*(column[evaluated & (metrics["seed"] == seed)] for column in columns)) for seed in seeds
    }


def steps_to(curve: Curve, threshold: float) -> float:
    """Environment steps of the first evaluation with at least that success rate; infinite without one."""
    reached = curve.steps[curve.success >= threshold]
    return float(reached[0]) if len(reached) else math.inf


def at_step(values: np.ndarray, steps: np.ndarray, step: int) -> float:
    """The value of the evaluation at `step`, NaN where there was none."""
    found = values[steps == step]
    return float(found[0]) if len(found) else math.nan


def report(out: Path, envs: Sequence[str], seeds: Sequence[int], steps: int) -> None:
    """Prints the tables, and writes them to learning.md and the picture to learning.png."""
    curves = {env: read_curves(out / env, seeds) for env in envs}
    text = "\n".join(format_table(env, of_env, steps) for env, of_env in curves.items())
    write_text(out / "learning.md", text)
    plot(out / "learning.png", curves)
    sys.stdout.write(text)


def format_table(env: str, curves: dict[int, Curve], steps: int) -> str:
    """A Markdown table of one environment: a row per seed, and the median over seeds."""
    marks = list(range(MARK, steps + 1, MARK)) or [steps]
    first = {seed: steps_to(curve, THRESHOLD) for seed, curve in curves.items()}
    success = np.array([[at_step(c.success, c.steps, mark) for mark in marks] for c in curves.values()])
    returns = np.array([[at_step(c.returns, c.steps, mark) for mark in marks] for c in curves.values()])
    head = ["seed", f"steps to {THRESHOLD:.0%}", *(f"success, return at {mark:,}" for mark in marks)]
    rows = [
        [str(seed), _steps(first[seed]), *map(_cell, success[i], returns[i])] for i, seed in enumerate(first)
    ]
    medians = map(_cell, np.median(success, axis=0), np.median(returns, axis=0))
    rows.append(["median", _steps(float(np.median(list(first.values())))), *medians])
    lines = [" | ".join(cells) for cells in [head, ["---"] * len(head), *rows]]
    table = f"{env}\n\n" + "".join(f"| {line} |\n" for line in lines)
    if env in NPG:
        rate, total, samples = NPG[env]
        table += f"\nPublished NPG: {rate:.0%}, return {total}, at {samples:,} steps.\n"
    return table


def plot(path: Path, curves: dict[str, dict[int, Curve]]) -> None:
    """Draws success and return over environment steps, a row per environment and a line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), 2, squeeze=False)
    for (env, of_env), row in zip(curves.items(), panels, strict=True):
        for column, (axes, name) in enumerate(zip(row, ("success", "return"), strict=True)):
            for seed, curve in of_env.items():
                axes.plot(curve.steps, curve[1 + column], marker=".", linewidth=1, label=f"seed {seed}")
            if env in NPG:
                samples = f"NPG at {NPG[env][2]:,} steps"
                axes.axhline(NPG[env][column], color="black", linestyle="--", linewidth=1, label=samples)
            axes.set(title=env, xlabel="environment steps", ylabel=name)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="x-small")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


def _steps(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not reached"


def _cell(success: float, returns: float) -> str:
    return "-" if math.isnan(success) else f"{success:.0%}, {returns:.1f}"


if __name__ == "__main__":
    start("learning", main, define_flags, sys.argv)
