"""Writes what there is to say of a run, or of several beside one another, as one HTML file that needs nothing else.

    python -m rlhive.report runs/…
    python -m rlhive.report runs/sac runs/sac_ou --out=compare.html

A RUN is a run directory, or a directory of run directories of one configuration, which count as one run with all their
seeds.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rlhive.command import start

FLAGS = flags.FLAGS
REPORT_FILE = "report.html"
RENDER_SECONDS = 60  # ten times what it takes


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "The .html file to write; report.html in the first RUN by default.")


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    paths = [Path(name) for name in argv[1:]]
    out = check_input(paths, FLAGS.out)
    write(paths, out)
    sys.stdout.write(f"{out}\n")
    return 0


def check_input(paths: Sequence[Path], out: str | None) -> Path:
    """Where the report is to be written; refuses what cannot work before anything slow is imported.

    Raises:
        ValueError: no run, no such directory, one twice, or a report that could not be written.
    """
    if not paths:
        raise ValueError("which run? Such as python -m rlhive.report runs/reach; see --help")
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: there is no such directory")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("a run is given twice")
    target = Path(out) if out else paths[0] / REPORT_FILE
    if target.suffix != ".html" or not target.resolve().parent.is_dir():
        raise ValueError(f"--out={target}: must be a file ending in .html in a directory that exists")
    if why := _why_not_writable(target):
        raise ValueError(f"--out={target}: cannot be written: {why}; choose another --out")
    return target


def _why_not_writable(target: Path) -> str:
    if target.is_dir():
        return "it is a directory"
    try:
        with tempfile.TemporaryFile(dir=target.parent):  # root may write where os.access says it may, or not
            return ""
    except OSError as error:
        return error.strerror or str(error)


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `report.html` of one run into its directory, without a picture of the environment, in a second or two.

    Raises:
        ValueError: no run, or one without an evaluation.
    """
    path = Path(run_dir)
    return write([path], path / REPORT_FILE, f"`python -m rlhive.report {shlex.quote(str(path))}` draws one.")


def write_arrays(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `evaluations.npz` into the run: `seeds [S]`, `steps [T]`, `return [S, T]` and `success [S, T]`.

    Integers and float64, NaN where a seed has no evaluation; `numpy.load` reads it without pickle.

    Raises:
        ValueError: no run, or one without an evaluation.
    """
    import numpy as np

    from rlhive.core.files import replacing
    from rlhive.report_data import read_run

    run, path = read_run(Path(run_dir)), Path(run_dir) / "evaluations.npz"
    with replacing(path) as beside:
        np.savez(beside, **{"seeds": run.seeds, "steps": run.steps, **run.scores})
    return path


def write(paths: Sequence[Path], out: Path, no_picture: str | None = None) -> Path:
    """Writes the report of some runs to a file; `no_picture` stands in for the picture of the environment.

    Raises:
        ValueError: a run that cannot be read, or runs that cannot be compared.
    """
    from rlhive.core.files import write_text
    from rlhive.report_data import read_runs
    from rlhive.report_page import page

    runs = read_runs(paths)
    write_text(out, page(runs, no_picture or render(runs[0].environment)))
    return out


def render(environment: str) -> bytes | str:
    """A PNG of an environment as it begins, or why there is none.

    In a process of its own: this one may have loaded mujoco without a renderer, and a GL driver can crash it.
    """
    command = [sys.executable, "-m", "rlhive.envs", "--check", environment, "--policy=zero", "--steps=1"]
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
            return f"rendering it took more than {RENDER_SECONDS} s"
        picture = Path(directory) / f"{environment}.png"
        if picture.is_file():
            return picture.read_bytes()
    said = [*finished.stderr.splitlines(), *finished.stdout.splitlines()] or [
        f"exit code {finished.returncode}"
    ]
    return said[-1].removeprefix("no picture: ")


def _import_path() -> str:
    """This process's import path, for one that starts in another directory."""
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)


if __name__ == "__main__":
    start("rlhive.report", main, define_flags, sys.argv)
