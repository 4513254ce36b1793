"""Writes reports, with or without a picture of the environment, and the arrays they are made from."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhive.runs.run_files import ARRAYS_FILE, METRICS_FILE, REPORT_FILE

RENDER_SECONDS = 60  # ten times as long as usual


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `report.html` of one run into its directory, without the environment's picture, in a second or two.

    Raises:
        ValueError: there is no run, or it has no evaluation.
    """
    path = Path(run_dir)
    return write([path], path / REPORT_FILE, f"`python -m rlhive.report {shlex.quote(str(path))}` draws one.")


def is_current(run_dir: str | os.PathLike[str]) -> bool:
    """Whether a run's `report.html` exists and is newer than its metrics, so that it covers all of them."""
    report, metrics = Path(run_dir) / REPORT_FILE, Path(run_dir) / METRICS_FILE
    return report.exists() and metrics.exists() and report.stat().st_mtime_ns >= metrics.stat().st_mtime_ns


def write_arrays(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `evaluations.npz` into the run: `seeds [S]`, `steps [T]`, `return [S, T]` and `success [S, T]`.

    Integers and float64, NaN where a seed has no evaluation; `numpy.load` reads it without pickle.

    Raises:
        ValueError: there is no run, or it has no evaluation.
    """
    import numpy as np

    from rlhive.core.files import replacing
    from rlhive.report.read import read_run

    run, path = read_run(Path(run_dir)), Path(run_dir) / ARRAYS_FILE
    with replacing(path) as beside:
        np.savez(beside, **{"seeds": run.seeds, "steps": run.steps, **run.scores})
    return path


def write(paths: Sequence[Path], out: Path, no_picture: str | None = None) -> Path:
    """Writes the report of some runs to a file; `no_picture` replaces the picture of the environment.

    Raises:
        ValueError: a run cannot be read, or the runs cannot be compared.
    """
    from rlhive.core.files import write_text
    from rlhive.report.page import page
    from rlhive.report.read import read_runs

    runs = read_runs(paths)
    write_text(out, page(runs, no_picture or render(runs[0].environment)))
    return out


def render(environment: str) -> bytes | str:
    """A PNG of an environment's first state, or the reason why there is none.

    Drawn in a process of its own: this one may have loaded mujoco without a renderer, and a GL driver can crash it.
    """
    name = "picture.png"
    command = [sys.executable, "-m", "rlhive.envs", "--check", environment, "--policy=zero", "--steps=1"]
    command.append(f"--picture={name}")
    with tempfile.TemporaryDirectory() as directory:
        try:
            finished = subprocess.run(
                command,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": _import_path()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=RENDER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"rendering took more than {RENDER_SECONDS} s"
        picture = Path(directory) / name
        if picture.is_file():
            return picture.read_bytes()
    said = [*finished.stderr.splitlines(), *finished.stdout.splitlines()] or [
        f"exit code {finished.returncode}"
    ]
    return said[-1].removeprefix("no picture: ")


def _import_path() -> str:
    """This process's import path, for a process that starts in another directory."""
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
