"""Adds seeds to a finished run: they train as a run of their own in a directory inside it, and are merged into it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlhive.core.errors import LoadError
from rlhive.core.files import remove_left_over, write_text
from rlhive.core.replay_file import read_replay, seeds_of, write_replay
from rlhive.metrics import merge_metrics
from rlhive.runs.checkpoint import load_checkpoint, recover_checkpoints, replace_checkpoint, save_checkpoint
from rlhive.runs.gin_text import SEED_SETTINGS, settings
from rlhive.runs.run_files import (
    ADDED,
    MERGED,
    checkpoint_dir,
    checkpoint_steps,
    drop_other_replays,
    earlier_settings_path,
    has_checkpoint,
    replay_path,
    seed_dirs,
    settings_path,
)
from rlhive.training.resume import all_stopped, progress_of

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

LENGTH_SETTINGS = {"TOTAL_STEPS", "train.total_steps"}
OTHER_SETTINGS = {  # that do not change what a seed learns
    "train.loggers",
    "train.wandb",
    "train.num_workers",
    "train.video_every",
    "train.video_cameras",
}


def recover(run_dir: Path) -> None:
    """Repairs what a process killed while saving or merging left behind; `run_dir` must be locked."""
    for directory in (run_dir, run_dir / ADDED):
        recover_checkpoints(directory)
        remove_left_over(directory, ".*.tmp*")
    shutil.rmtree(run_dir / MERGED, ignore_errors=True)


def is_under_way(run_dir: Path) -> bool:
    """Whether seeds are being added and have a checkpoint."""
    return has_checkpoint(run_dir / ADDED)


def seeds_to_add(run_dir: Path, config: TrainConfig) -> tuple[int, ...]:
    """The seeds of the configuration that the run lacks, in their order; none if it is merely resumed.

    A run all of whose seeds have stopped is at its end too.

    Raises:
        LoadError: a seed of the run is not in the configuration, other seeds are being added, or the run is not at
            its end.
    """
    latest = checkpoint_dir(run_dir)
    half_merged = seed_dirs(checkpoint_dir(run_dir / ADDED)) if is_under_way(run_dir) else {}
    there = [seed for seed in seed_dirs(latest) if seed not in half_merged]
    added = tuple(seed for seed in config.seeds if seed not in there)
    if added and (lacking := [seed for seed in there if seed not in config.seeds]):
        raise LoadError(f"{run_dir} has the seeds {lacking} too: name them beside the seeds to add")
    if half_merged and set(added) != set(half_merged):
        both = (*there, *half_merged)
        raise LoadError(
            f"{run_dir}: the seeds {sorted(half_merged)} are being added: continue with --gin.SEEDS='{both}'"
        )
    at_end = 0 <= int(latest.name) - config.total_steps < config.num_envs
    if added and not at_end and not all_stopped(run_dir):
        raise LoadError(
            f"{run_dir} is at step {latest.name}, not at the end of {config.total_steps} steps: resume it without the "
            f"seeds {list(added)} first, or give the TOTAL_STEPS it has"
        )
    return added


def check_settings(run_dir: Path, text: str) -> None:
    """Refuses to add seeds with settings other than the run's: all of its seeds are reported as one run.

    Args:
        run_dir: the run.
        text: the bindings of the seeds to add, as in a config.gin.

    Raises:
        LoadError: naming what differs.
    """
    differing = other_settings(settings_path(run_dir), text)
    if names := [name for name in differing if name not in OTHER_SETTINGS]:
        there, now = differing[names[0]]
        raise LoadError(
            f"{run_dir}: seeds are added with the settings it has, but {', '.join(names)} differ: {names[0]} is "
            f"{there} there, {now} here"
        )
    for path in sorted(run_dir.glob("config-[0-9]*.gin")):
        earlier = other_settings(path, text)
        if names := [name for name in earlier if name not in {*OTHER_SETTINGS, *LENGTH_SETTINGS}]:
            step = path.stem.removeprefix("config-")
            raise LoadError(
                f"{run_dir}: no seeds can be added, it had other settings until step {step}: {', '.join(names)} differ"
            )


def other_settings(path: Path, text: str) -> dict[str, tuple[str, str]]:
    """The settings, except of seeds, that differ between the gin file at `path` and `text`: both values by name."""
    there, now = settings(path.read_text(encoding="utf-8")), settings(text)
    names = sorted({*there, *now} - SEED_SETTINGS)
    pairs = {name: (there.get(name, "not set"), now.get(name, "not set")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def keep_settings(run_dir: Path, text: str) -> str:
    """Keeps the settings that a run had until its latest checkpoint, if it continues with different ones.

    Args:
        run_dir: the run; its checkpoints still hold the old settings.
        text: the bindings that it continues with.

    Returns:
        What differs, in one line; empty if nothing does.
    """
    kept, before = earlier_settings_path(run_dir), settings_path(run_dir)
    differing = other_settings(before, text)
    if not differing:
        return ""
    if before != kept:
        write_text(kept, before.read_text(encoding="utf-8"))
    changes = ", ".join(f"{name} {there} -> {now}" for name, (there, now) in differing.items())
    step = checkpoint_dir(run_dir).name
    return f"continues from step {step} with other settings, those it had are in {kept.name}: {changes}"


def merge_run(run_dir: Path, seeds: Sequence[int], added: Sequence[int]) -> None:
    """Merges the finished run in `run_dir / ADDED` into the run around it, then removes it.

    Each file is replaced in one step; after a crash the same call finishes the work.

    Args:
        run_dir: the run.
        seeds: the seeds of both, in the order wanted.
        added: those of them that are being added.
    """
    added_dir = run_dir / ADDED
    before = [seed for seed in seeds if seed not in added]
    for own, around, others in ((added_dir, run_dir, added), (run_dir, added_dir, before)):
        _carry_on(own, checkpoint_steps(around), others)
    last = int(checkpoint_dir(added_dir).name)
    orders = {run_dir: _training(run_dir, before), added_dir: _training(added_dir, added)}
    training = set().union(*orders.values())
    has_replay = any(replay_path(own, last).exists() for own in orders)  # offline runs have none
    if training and has_replay:
        _merge_replays(run_dir, last, orders, [seed for seed in seeds if seed in training])
        drop_other_replays(run_dir, last)
    for step in checkpoint_steps(added_dir):
        if step in checkpoint_steps(run_dir):
            folders = seed_dirs(checkpoint_dir(run_dir, step)) | seed_dirs(checkpoint_dir(added_dir, step))
            replace_checkpoint(run_dir, step, folders)
    merge_metrics(run_dir, added_dir, seeds)
    for logger in ("tensorboard", "csv"):
        if (added_dir / logger).is_dir():
            shutil.copytree(added_dir / logger, run_dir / logger, dirs_exist_ok=True)
    added_dir.rename(run_dir / MERGED)  # half removed, it would look like seeds being added
    shutil.rmtree(run_dir / MERGED)


def _carry_on(run_dir: Path, steps: Sequence[int], seeds: Sequence[int]) -> None:
    """Saves the seeds at later steps too, as a run does with seeds that have stopped."""
    later = [step for step in steps if step > checkpoint_steps(run_dir)[-1]]
    if not later:
        return
    found = load_checkpoint(run_dir, seeds)
    generators = {
        name: [torch.Generator().set_state(state) for state in states]
        for name, states in found.generators.items()
    }
    for step in later:
        save_checkpoint(
            run_dir,
            step,
            found.state,
            found.spec,
            seeds=seeds,
            rollout=found.rollout,
            generators=generators,
            progress=found.progress,
        )


def _training(run_dir: Path, seeds: Sequence[int]) -> list[int]:
    """The seeds that have not stopped; the replay has their transitions."""
    progress = progress_of(run_dir)
    return [seed for seed in seeds if "stopped_at" not in progress[seed]]


def _merge_replays(run_dir: Path, step: int, orders: dict[Path, list[int]], seeds: list[int]) -> None:
    """Joins the seeds' transitions at a step, and any priorities, in `run_dir`."""
    columns: dict[int, dict[str, torch.Tensor]] = {}
    header: dict[str, str] = {}
    for directory in (directory for directory, own in orders.items() if own):
        tensors, header = read_replay(replay_path(directory, step))
        for index, seed in enumerate(seeds_of(header)):
            columns[seed] = {name: tensor[:, [index]] for name, tensor in tensors.items()}
    names = columns[seeds[0]]
    joined = {name: torch.cat([columns[seed][name] for seed in seeds], dim=1) for name in names}
    write_replay(replay_path(run_dir, step), joined, header, seeds)
