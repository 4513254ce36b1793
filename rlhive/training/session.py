"""What `rlhive.train` does once its configuration is loaded: start a run, continue it, add seeds to it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from rlhive.algorithms import ALGORITHMS, step_key
from rlhive.command import reason
from rlhive.config.record import record_of, with_seeds
from rlhive.curves import plot_curves
from rlhive.envs.vector import worker_count
from rlhive.policy_fn.encoders import describe
from rlhive.runs.checkpoint import load_checkpoint
from rlhive.runs.run_files import (
    ADDED,
    NOT_FINITE,
    OPERATIVE_CONFIG_FILE,
    SPEC_FILE,
    checkpoint_dir,
    earlier_settings_path,
    latest_link,
    read_usage,
    seed_dirs,
    write_settings,
)
from rlhive.runs.run_spec import RunSpec
from rlhive.training import loop
from rlhive.training.merge import (
    check_settings,
    is_under_way,
    keep_settings,
    merge_run,
    recover,
    seeds_to_add,
)
from rlhive.training.resume import all_stopped, check_run_files, check_saved_replay, progress_of
from rlhive.training.run import open_run
from rlhive.training.stop import stopped_text
from rlhive.training.usage import record_usage, write_usage

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig


def go_on(config: TrainConfig, directory: Path) -> bool:
    """Continues the run in `directory`, and adds the seeds it lacks; returns whether it reached its end.

    Raises:
        ValueError: the run is past its end already, or its files are damaged.
    """
    spec = check_run_files(directory)
    recover(directory)
    there = int(checkpoint_dir(directory).name)
    if there >= config.total_steps + config.num_envs:
        raise ValueError(f"{directory} is already at step {there}, beyond TOTAL_STEPS={config.total_steps}")
    check_saved_replay(config, directory, spec, there)
    finished = add_seeds(config, directory)
    reasons = {progress.get("reason") for progress in progress_of(directory).values()}
    # If no seed is finite, `train` says so and fails.
    if finished is None and all_stopped(directory) and reasons != {NOT_FINITE}:
        sys.stderr.write("rlhive.train: all of its seeds have stopped; nothing is left to train\n")
        return True
    return train(config, directory, resume=True) if finished is None else finished


def add_seeds(config: TrainConfig, directory: Path) -> bool | None:
    """Trains the seeds that the finished run in `directory` lacks, and merges them into it.

    Returns:
        Whether they reached their end; None if no seeds are to be added.

    Raises:
        LoadError: the seeds cannot be added to this run, or its latest checkpoint is damaged.
    """
    added = seeds_to_add(directory, config)
    if not added:
        return None
    text = record_of(config).text
    check_settings(directory, text)
    # Read in full: training may take hours, and the checkpoint it is merged into must be intact.
    load_checkpoint(directory, list(seed_dirs(checkpoint_dir(directory))))
    folder, under_way = directory / ADDED, is_under_way(directory)
    if not under_way:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    if not (under_way and all_stopped(folder)):
        spec = RunSpec.from_json((directory / SPEC_FILE).read_text(), directory / SPEC_FILE)
        if not train(with_seeds(config, added), folder, resume=under_way, joins=spec):
            return False
    usage, operative = read_usage(folder), (folder / OPERATIVE_CONFIG_FILE).read_text(encoding="utf-8")
    merge_run(directory, config.seeds, added)
    seconds = sum(of.get("seconds", 0.0) for of in (usage, read_usage(directory)))
    write_usage(directory, {**usage, "seconds": seconds})
    write_settings(directory, text, operative)
    # Of settings that nothing was trained with.
    earlier_settings_path(directory).unlink(missing_ok=True)
    plot_curves(directory, step_key(config.algorithm))
    return True


def train(config: TrainConfig, directory: Path, *, resume: bool, joins: RunSpec | None = None) -> bool:
    """Trains in `directory` and records the configuration there; returns whether the run reached its end.

    Raises:
        ConfigError: the configuration was changed after it was loaded, so the record would not match it.
    """
    record = record_of(config)
    shares = share_cores(config)
    sys.stderr.write(f"rlhive.train: {shares}\nrlhive.train: {config.describe_compiling()}\n")
    if config.video_every:
        from rlhive.video import check_cameras

        check_cameras(config.env_name, config.video_cameras)
    with (
        logging_redirect_tqdm([logging.getLogger("rlhive")]),
        open_run(config, directory, resume=resume, joins=joins) as run,
    ):
        if resume and (changes := keep_settings(directory, record.text)):
            sys.stderr.write(f"rlhive.train: {changes}\n")
        write_settings(directory, record.text, record.operative_text)
        were_compiled = read_usage(directory).get("updates_compiled", config.compiles)
        if resume and run.step < config.total_steps and were_compiled != config.compiles:
            before, now = ("compiled", "not compiled") if were_compiled else ("not compiled", "compiled")
            text = f"so far updates were {before}; from here on they are {now}, so the run rounds differently"
            sys.stderr.write(f"rlhive.train: {text}\n")
        _say_what_it_sees(run.spec)
        began_at = run.step
        with advising_to_resume(directory):
            finished = loop.train(run)
        if run.step > began_at:
            record_usage(run)  # with the last evaluation
    if run.stopped:
        sys.stderr.write(f"rlhive.train: stopped before the others: {stopped_text(run.stopped)}\n")
    return finished


def _say_what_it_sees(spec: RunSpec) -> None:
    """Logs the images and encoder of a run, and its data set, one line each."""
    if (pixels := spec.env.pixels) is not None:
        size = f"{pixels.height}x{pixels.width}, {pixels.quality} quality"
        images = f"images of {', '.join(pixels.cameras)}, {size}" if pixels.cameras else "no images (blind)"
        sys.stderr.write(f"rlhive.train: {images}; {describe(spec.encoder)}\n")
    if spec.dataset is not None:
        sys.stderr.write(f"rlhive.train: {spec.dataset.describe()}\n")


@contextlib.contextmanager
def advising_to_resume(directory: Path) -> Iterator[None]:
    """Adds to system and worker failures in mid-training that the run can be resumed."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError, ImportError) as error:  # loading code takes memory too
        if not os.path.lexists(latest_link(directory)):
            raise
        raise RuntimeError(
            f"{reason(error)}; its latest checkpoint is kept: fix the cause, then --resume continues from there"
        ) from error


def share_cores(config: TrainConfig) -> str:
    """Sets torch's number of threads, unless OMP_NUM_THREADS does.

    Updates get all cores: workers that only step physics are idle during most of an update, and torch's threads sleep
    when they have no work (see `rlhive.command.let_threads_sleep`). Workers that draw images are busy and keep their
    cores.

    Returns:
        How the cores are shared, for the log.
    """
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
    return config.device if config.on_gpu else f"{torch.get_num_threads()} thread(s)"
