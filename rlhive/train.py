"""Trains policies as gin files say, and writes everything about the run into one directory.

python -m rlhive.train --gin_file=gin/sac_gaussian.gin --gin_bindings="ENV_NAME='door-v1'"
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from rlhive.command import INTERRUPTED, reason, refuse_arguments, start
from rlhive.paths import command_line
from rlhive.runs.run_files import (
    ADDED,
    CHECKPOINTS,
    CONFIG_FILE,
    METRICS_FILE,
    OPERATIVE_CONFIG_FILE,
    REPORT_FILE,
    SPEC_FILE,
    checkpoint_dir,
    earlier_settings_path,
    latest_link,
    read_usage,
    seed_dirs,
    write_settings,
)

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig
    from rlhive.runs.run_spec import RunSpec

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
        "--gin.NAME=VALUE says the same.",
    )
    flags.DEFINE_string("run_dir", None, "Directory of the run; a new one in runs/ by default.")
    flags.DEFINE_bool("resume", False, "Go on with the run in --run_dir from its latest checkpoint.")


def expand_gin_flags(argv: Sequence[str]) -> list[str]:
    """The arguments with `--gin.NAME=VALUE` written as `--gin_bindings=NAME=VALUE`."""
    return [f"--gin_bindings={arg[len('--gin.') :]}" if arg.startswith("--gin.") else arg for arg in argv]


def main(argv: Sequence[str]) -> int:
    """Runs the command; the exit code is 0, or 130 where the run was stopped before its end."""
    refuse_arguments(argv, "gin_file")
    check_flags(FLAGS.gin_file, FLAGS.run_dir, FLAGS.resume)
    return run(FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.run_dir, resume=FLAGS.resume)


def check_flags(gin_files: Sequence[str], run_dir: str | None, resume: bool) -> None:
    """Refuses what cannot work before anything slow is imported.

    Raises:
        ValueError: no configuration, a file that is not there, a run directory that does not fit --resume or is
            not UTF-8, or a MUJOCO_GL that nothing knows.
    """
    from rlhive.gl_backend import check_backend
    from rlhive.paths import check_encoding, find_gin_file

    check_backend(draws=False)
    for name in gin_files:
        find_gin_file(name)
    if not gin_files and not resume:
        raise ValueError("which configuration? Such as --gin_file=sac_gaussian.gin; see --help")
    if resume and run_dir is None:
        raise ValueError("--resume needs --run_dir, the directory of the run to go on with")
    if run_dir is not None and (not run_dir or (os.path.lexists(run_dir) and not Path(run_dir).is_dir())):
        raise ValueError(
            f"--run_dir={run_dir} is no directory: choose one that is, or one that is not there yet"
        )
    if run_dir is not None:
        check_encoding(run_dir, "--run_dir=")
        _check_run(Path(run_dir), resume)


def _check_run(run_dir: Path, resume: bool) -> None:
    latest, has_config = latest_link(run_dir), (run_dir / CONFIG_FILE).exists()
    # metrics.csv comes first: a process that was killed soon leaves it alone.
    has_begun = has_config or (run_dir / METRICS_FILE).exists()
    has_checkpoint = os.path.lexists(latest)  # which a killed process may have left dangling
    if resume and not has_checkpoint:
        raise ValueError(
            f"--resume: {run_dir} has no checkpoint to go on from: start it anew, in another directory"
        )
    if resume and not has_config:
        kept = run_dir / CHECKPOINTS / CONFIG_FILE
        kept = kept if kept.exists() else run_dir / OPERATIVE_CONFIG_FILE  # of runs of before
        raise ValueError(
            f"--resume: {run_dir} has no config.gin: copy its {kept.relative_to(run_dir)} to that name"
        )
    if resume and not latest.is_symlink():
        raise ValueError(
            f"--resume: {latest} is a copy, not a link: replace it by one to its step's directory"
        )
    if has_begun and not resume:
        remedy = "add --resume to go on with it"
        if not has_checkpoint:
            remedy = "it has no checkpoint yet, so wait for one if it is training, or else remove it"
        raise ValueError(f"--run_dir={run_dir} holds a run: {remedy}, or choose another")


def run(gin_files: Sequence[str], bindings: Sequence[str], run_dir: str | None, *, resume: bool) -> int:
    """Checks the configuration, prepares the run's directory, and trains."""
    from rlhive.config import configured_seeds, load_config
    from rlhive.report.write import is_current, write_arrays, write_report

    own = [] if run_dir is None else [Path(run_dir) / CONFIG_FILE]
    in_file = configured_seeds(own[0]) if resume else ()
    config = load_config(list(gin_files) or own, bindings)
    directory = Path(run_dir) if run_dir else default_run_dir(config)
    flag = shlex.quote(f"--run_dir={directory}")
    seeds = f" --gin.SEEDS='{config.seeds}'" if resume and config.seeds != in_file else ""
    with alone_in(directory, exist_ok=run_dir is not None):
        sys.stderr.write(f"rlhive.train: {config.env_name}, seeds {list(config.seeds)}, in {directory}\n")
        finished = go_on(config, directory) if resume else train(config, directory, resume=False)
        if not finished:
            sys.stderr.write(f"rlhive.train: stopped and saved; go on with {flag} --resume{seeds}\n")
            return INTERRUPTED
        write_arrays(directory)
        if resume and is_current(directory):
            said = f"nothing was left to train; see {directory / REPORT_FILE}"
        else:
            said = f"done; see {write_report(directory)}"
        sys.stderr.write(f"rlhive.train: {said}, or evaluate it:\n")
    sys.stderr.write(f"    {command_line(f'rlhive.evaluate {flag}')}\n")
    return 0


@contextlib.contextmanager
def alone_in(directory: Path, *, exist_ok: bool = True) -> Iterator[None]:
    """Makes the directory where it is not there, and keeps other processes from training in it meanwhile.

    Raises:
        OSError: it cannot be written to, or is there and may not be.
        RuntimeError: another process trains in it.
    """
    from rlhive.core.files import check_writable, lock_file

    try:
        directory.mkdir(parents=True, exist_ok=exist_ok)
        check_writable(directory)
        lock = lock_file(directory / ".lock")
    except OSError as error:
        raise OSError(f"{error}: give a --run_dir that can be written to") from None
    if lock is None:
        raise RuntimeError(f"another process trains in {directory}: wait for it, or choose another --run_dir")
    try:
        yield
    finally:
        lock.release()


def go_on(config: TrainConfig, directory: Path) -> bool:
    """Goes on with the run in `directory`; whether it came to its end.

    Raises:
        ValueError: it is beyond that already, or its files are damaged.
    """
    from rlhive.training.merge import recover
    from rlhive.training.resume import check_run_files, check_saved_replay, has_met_its_targets

    spec = check_run_files(directory)
    recover(directory)
    there = int(checkpoint_dir(directory).name)
    if there >= config.total_steps + config.num_envs:
        raise ValueError(f"{directory} is at step {there} already, beyond TOTAL_STEPS={config.total_steps}")
    check_saved_replay(config, directory, spec, there)
    finished = add_seeds(config, directory)
    if finished is None and has_met_its_targets(directory):
        sys.stderr.write("rlhive.train: all of its seeds have met their target, nothing is left to train\n")
        return True
    return train(config, directory, resume=True) if finished is None else finished


def add_seeds(config: TrainConfig, directory: Path) -> bool | None:
    """Trains the seeds that the finished run in `directory` has not and merges them into it.

    Returns:
        Whether they came to their end; None where there are none.

    Raises:
        LoadError: the seeds cannot be added to this run, or its latest checkpoint is damaged.
    """
    from rlhive.algorithms import step_key
    from rlhive.config.record import record_of, with_seeds
    from rlhive.curves import plot_curves
    from rlhive.runs.checkpoint import load_checkpoint
    from rlhive.runs.run_spec import RunSpec
    from rlhive.training.merge import check_settings, is_under_way, merge_run, seeds_to_add
    from rlhive.training.resume import progress_of
    from rlhive.training.usage import write_usage

    added = seeds_to_add(directory, config)
    if not added:
        return None
    text = record_of(config).text
    check_settings(directory, text)
    # In full: the training may take hours, and what it is merged into must be whole.
    load_checkpoint(directory, list(seed_dirs(checkpoint_dir(directory))))
    folder, under_way = directory / ADDED, is_under_way(directory)
    if not under_way:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    if not (under_way and all("stopped_at" in of_seed for of_seed in progress_of(folder).values())):
        spec = RunSpec.from_json((directory / SPEC_FILE).read_text(), directory / SPEC_FILE)
        if not train(with_seeds(config, added), folder, resume=under_way, joins=spec):
            return False
    usage, operative = read_usage(folder), (folder / OPERATIVE_CONFIG_FILE).read_text(encoding="utf-8")
    merge_run(directory, config.seeds, added)
    seconds = sum(of.get("seconds", 0.0) for of in (usage, read_usage(directory)))
    write_usage(directory, {**usage, "seconds": seconds})
    write_settings(directory, text, operative)
    # Others followed it with which nothing was trained.
    earlier_settings_path(directory).unlink(missing_ok=True)
    plot_curves(directory, step_key(config.algorithm))
    return True


def train(config: TrainConfig, directory: Path, *, resume: bool, joins: RunSpec | None = None) -> bool:
    """Trains in `directory` and records the configuration there; whether the run came to its end.

    Raises:
        ConfigError: the configuration is not as it was loaded, so that the record would be of another.
    """
    import logging

    from tqdm.contrib.logging import logging_redirect_tqdm

    from rlhive.config.record import record_of
    from rlhive.policy_fn.encoders import describe
    from rlhive.training import loop
    from rlhive.training.merge import keep_settings
    from rlhive.training.run import open_run
    from rlhive.training.stop import stopped_text
    from rlhive.training.usage import record_usage

    record = record_of(config)
    shares = share_cores(config)
    sys.stderr.write(f"rlhive.train: {shares}\nrlhive.train: {config.describe_compiling()}\n")
    if config.video_every:
        from rlhive.video import check_cameras

        check_cameras(config.env_name, config.video_cameras)
    with (
        logging_redirect_tqdm([logging.getLogger("rlhive")]),
        open_run(config, directory, resume=resume, joins=joins) as session,
    ):
        if resume and (changes := keep_settings(directory, record.text)):
            sys.stderr.write(f"rlhive.train: {changes}\n")
        write_settings(directory, record.text, record.operative_text)
        were_compiled = read_usage(directory).get("updates_compiled", config.compiles)
        if resume and session.step < config.total_steps and were_compiled != config.compiles:
            before = "compiled" if were_compiled else "not compiled"
            sys.stderr.write(
                f"rlhive.train: until now updates were {before}: from here on the run rounds otherwise\n"
            )
        if (pixels := session.spec.env.pixels) is not None:
            size = f"{pixels.height}x{pixels.width}, {pixels.quality} quality"
            images = (
                f"images of {', '.join(pixels.cameras)}, {size}" if pixels.cameras else "no images (blind)"
            )
            sys.stderr.write(f"rlhive.train: {images}; {describe(session.spec.encoder)}\n")
        if session.spec.dataset is not None:
            sys.stderr.write(f"rlhive.train: {session.spec.dataset.describe()}\n")
        began_at = session.step
        with advising_to_resume(directory):
            finished = loop.train(session)
        if session.step > began_at:
            record_usage(session)  # with the last evaluation
    if session.stopped:
        sys.stderr.write(f"rlhive.train: stopped before the others: {stopped_text(session.stopped)}\n")
    return finished


@contextlib.contextmanager
def advising_to_resume(directory: Path) -> Iterator[None]:
    """Says of failures of the system and of workers in mid-training what is left of the run."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError, ImportError) as error:  # loading code takes memory, too
        if not os.path.lexists(latest_link(directory)):
            raise
        raise RuntimeError(
            f"{reason(error)}; its latest checkpoint is kept: once that is mended, --resume goes on from there"
        ) from error


def share_cores(config: TrainConfig) -> str:
    """Gives torch its threads, unless OMP_NUM_THREADS says how many.

    All cores: workers that step physics are idle most of the time that an update takes, and the threads of
    `rlhive.command` do not get in their way. Those that draw images are not idle; they keep their cores.

    Returns:
        Who gets which, for the log.
    """
    import torch

    from rlhive.algorithms import ALGORITHMS
    from rlhive.envs.vector import worker_count

    cores = len(os.sched_getaffinity(0))
    if ALGORITHMS[config.algorithm].offline:
        return f"{cores} core(s): updates on {_learner(config)}, evaluations between them"
    draws = config.pixels is not None
    workers = worker_count(config.num_workers, len(config.seeds) * config.num_envs, draws=draws)
    if "OMP_NUM_THREADS" not in os.environ and draws:
        torch.set_num_threads(max(1, cores - workers))
    where = f"in {workers} worker(s)" if workers else "in this process"
    return f"{cores} core(s): environments step {where}, updates on {_learner(config)}"


def _learner(config: TrainConfig) -> str:
    import torch

    return config.device if config.on_gpu else f"{torch.get_num_threads()} thread(s)"


def default_run_dir(config: TrainConfig) -> Path:
    """A directory that is not there yet, named by environment, algorithm and time."""
    name = f"{config.env_name}-{config.algorithm}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (Path("runs") / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(path for path in tries if not path.exists())


if __name__ == "__main__":
    start("rlhive.train", main, define_flags, expand_gin_flags(sys.argv))
