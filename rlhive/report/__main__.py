"""Writes a report on one run, or on several side by side, as one self-contained HTML file.

    python -m rlhive.report runs/…
    python -m rlhive.report runs/sac runs/sac_ou --out=compare.html

A RUN is a run directory, or a directory of run directories with one configuration, which count as one run with the
seeds of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rlhive.command import start
from rlhive.command_line import check_encoding, command_line
from rlhive.core.files import check_writable
from rlhive.report.write import write
from rlhive.runs.run_files import REPORT_FILE

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "The .html file to write; by default report.html in the first RUN.")


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    paths = [Path(name) for name in argv[1:]]
    out = check_input(paths, FLAGS.out)
    write(paths, out)
    sys.stdout.write(f"{out}\n")
    return 0


def check_input(paths: Sequence[Path], out: str | None) -> Path:
    """The path to write the report to; refuses input that cannot work before anything slow is imported.

    Raises:
        ValueError: no run, a directory that is missing, repeated or not UTF-8, or a report that could not be written.
    """
    if not paths:
        raise ValueError(
            f"no run is given: name one, as in {command_line('rlhive.report runs/reach')}; see --help"
        )
    for path in paths:
        check_encoding(path)
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
        check_writable(target.parent)
    except OSError as error:
        return error.strerror or str(error)
    return ""


if __name__ == "__main__":
    start("rlhive.report", main, define_flags, sys.argv)
