"""Trains policies as gin files configure them, and writes everything about the run into one directory.

python -m rlhive.train --gin_file=gin/sac_gaussian.gin --gin_bindings="ENV_NAME='door-v1'"
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from rlhive.command import INTERRUPTED, refuse_arguments, start
from rlhive.command_line import command_line
from rlhive.own_modules import import_flags
from rlhive.runs.run_files import (
    CHECKPOINTS,
    CONFIG_FILE,
    METRICS_FILE,
    OPERATIVE_CONFIG_FILE,
    REPORT_FILE,
    latest_link,
)

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_multi_string(
        "gin_file", [], "A gin file, by path or by the name of a shipped one; repeatable, later ones win."
    )
    flags.DEFINE_multi_string(
        "gin_bindings",
        [],
        "A gin binding such as \"ENV_NAME='door-v1'\" or adam.learning_rate=3e-4; repeatable, and wins over files. "
        "--gin.NAME=VALUE is short for it.",
    )
    flags.DEFINE_string("run_dir", None, "Directory of the run; by default a new one in runs/.")
    flags.DEFINE_bool("resume", False, "Continue the run in --run_dir from its latest checkpoint.")


def expand_gin_flags(argv: Sequence[str]) -> list[str]:
    """The arguments with `--gin.NAME=VALUE` written as `--gin_bindings=NAME=VALUE`."""
    return [f"--gin_bindings={arg[len('--gin.') :]}" if arg.startswith("--gin.") else arg for arg in argv]


def main(argv: Sequence[str]) -> int:
    """Runs the command; the exit code is 0, or 130 if the run was stopped before its end."""
    refuse_arguments(argv, "gin_file")
    check_flags(FLAGS.gin_file, FLAGS.run_dir, FLAGS.resume)
    return run(FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.run_dir, resume=FLAGS.resume)


def check_flags(gin_files: Sequence[str], run_dir: str | None, resume: bool) -> None:
    """Refuses flags that cannot work, before anything slow is imported.

    Raises:
        ValueError: no configuration, a missing file, a run directory that does not fit --resume or is not UTF-8, or
            an unknown MUJOCO_GL.
    """
    from rlhive.command_line import check_encoding
    from rlhive.gl_backend import check_backend
    from rlhive.paths import find_gin_file

    check_backend(draws=False)
    for name in gin_files:
        find_gin_file(name)
    if not gin_files and not resume:
        raise ValueError(
            "no configuration is given: name one, such as --gin_file=sac_gaussian.gin; see --help"
        )
    if resume and run_dir is None:
        raise ValueError("--resume needs --run_dir, the directory of the run to continue")
    if run_dir is not None and (not run_dir or (os.path.lexists(run_dir) and not Path(run_dir).is_dir())):
        raise ValueError(f"--run_dir={run_dir} is not a directory: choose an existing or a new one")
    if run_dir is not None:
        check_encoding(run_dir, "--run_dir=")
        _check_run(Path(run_dir), resume)


def _check_run(run_dir: Path, resume: bool) -> None:
    latest, has_config = latest_link(run_dir), (run_dir / CONFIG_FILE).exists()
    # metrics.csv is written first, so it is all that a process killed early leaves.
    has_begun = has_config or (run_dir / METRICS_FILE).exists()
    has_checkpoint = os.path.lexists(latest)  # a killed process may have left it dangling
    if resume and not has_checkpoint:
        raise ValueError(
            f"--resume: {run_dir} has no checkpoint to continue from: start a new run in another directory"
        )
    if resume and not has_config:
        kept = run_dir / CHECKPOINTS / CONFIG_FILE
        kept = kept if kept.exists() else run_dir / OPERATIVE_CONFIG_FILE
        raise ValueError(
            f"--resume: {run_dir} has no config.gin: copy its {kept.relative_to(run_dir)} to that name"
        )
    if resume and not latest.is_symlink():
        raise ValueError(
            f"--resume: {latest} is a copy, not a link: replace it with a link to its step's directory"
        )
    if has_begun and not resume:
        remedy = "add --resume to continue it"
        if not has_checkpoint:
            remedy = "it has no checkpoint yet; wait for one if it is still training, or remove it"
        raise ValueError(f"--run_dir={run_dir} holds a run: {remedy}, or choose another directory")


def run(gin_files: Sequence[str], bindings: Sequence[str], run_dir: str | None, *, resume: bool) -> int:
    """Checks the configuration, prepares the run's directory, and trains."""
    from rlhive.config import configured_seeds, load_config
    from rlhive.config.record import record_of
    from rlhive.report.write import is_current, write_arrays, write_report

    own = [] if run_dir is None else [Path(run_dir) / CONFIG_FILE]
    in_file = configured_seeds(own[0]) if resume else ()
    config = load_config(list(gin_files) or own, bindings)
    # Imported here because it takes seconds, which a wrong configuration need not wait for.
    from rlhive.training import session

    directory = Path(run_dir) if run_dir else default_run_dir(config)
    flag = shlex.quote(f"--run_dir={directory}")
    seeds = f" --gin.SEEDS='{config.seeds}'" if resume and config.seeds != in_file else ""
    with alone_in(directory, exist_ok=run_dir is not None):
        sys.stderr.write(f"rlhive.train: {config.env_name}, seeds {list(config.seeds)}, in {directory}\n")
        finished = (
            session.go_on(config, directory) if resume else session.train(config, directory, resume=False)
        )
        if not finished:
            sys.stderr.write(f"rlhive.train: stopped and saved; continue with {flag} --resume{seeds}\n")
            return INTERRUPTED
        write_arrays(directory)
        if resume and is_current(directory):
            said = f"nothing was left to train; see {directory / REPORT_FILE}"
        else:
            said = f"done; see {write_report(directory)}"
        sys.stderr.write(f"rlhive.train: {said}, or evaluate it:\n")
    sys.stderr.write(f"    {command_line(f'rlhive.evaluate {flag}{import_flags(record_of(config).text)}')}\n")
    return 0


@contextlib.contextmanager
def alone_in(directory: Path, *, exist_ok: bool = True) -> Iterator[None]:
    """Creates the directory if it does not exist, and keeps other processes from training in it.

    Raises:
        OSError: it cannot be written to, or exists although `exist_ok` is false.
        RuntimeError: another process is training in it.
    """
    from rlhive.core.files import check_writable, lock_file

    try:
        directory.mkdir(parents=True, exist_ok=exist_ok)
        check_writable(directory)
        lock = lock_file(directory / ".lock")
    except OSError as error:
        raise OSError(f"{error}: give a --run_dir that can be written to") from None
    if lock is None:
        raise RuntimeError(
            f"another process is training in {directory}: wait for it, or choose another --run_dir"
        )
    try:
        yield
    finally:
        lock.release()


def default_run_dir(config: TrainConfig) -> Path:
    """A directory that does not exist yet, named by environment, algorithm and time."""
    name = f"{config.env_name}-{config.algorithm}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (Path("runs") / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(path for path in tries if not path.exists())


if __name__ == "__main__":
    start("rlhive.train", main, define_flags, expand_gin_flags(sys.argv))
