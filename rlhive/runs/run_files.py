"""The files of a run directory: their names, and what can be read from them without torch.

runs/reach/
    config.gin                  the settings; config-<step>.gin has the earlier ones, used until that step
    operative_config.gin        the settings in use, with their defaults
    spec.json                   everything a policy needs except the tensors
    metrics.csv                 a row per seed and step; metrics_over_seeds.csv summarizes the seeds
    usage.json                  the time and memory it took
    curves.png, report.html, evaluations.npz, seen.png
    videos/<step>.mp4           the first seed's policy, filmed in some of the evaluations
    tensorboard/, csv/          what TorchRL's loggers write, each in a directory of its own name
    checkpoints/config.gin      the settings that they were trained with, even if config.gin is edited later
    checkpoints/latest          a relative link to the newest step
    checkpoints/<step>/         for one seed: params.safetensors, env_state.safetensors, train_state.safetensors
    checkpoints/<step>/seed_<seed>/     the same for each of several seeds
    replay/<step>.safetensors   the transitions, at the step of the latest checkpoint
    added_seeds/                a run of the seeds being added; renamed to .added_seeds/ before it is removed
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive.core.errors import LoadError
from rlhive.core.files import write_text
from rlhive.core.tree_header import check_kind, header_json, read_header

PathLike = str | os.PathLike[str]
CONFIG_FILE, OPERATIVE_CONFIG_FILE, SPEC_FILE = "config.gin", "operative_config.gin", "spec.json"
METRICS_FILE, AGGREGATE_FILE, USAGE_FILE = "metrics.csv", "metrics_over_seeds.csv", "usage.json"
CURVES_FILE, REPORT_FILE, ARRAYS_FILE = "curves.png", "report.html", "evaluations.npz"
SEEN_FILE = "seen.png"  # the images that the policy saw in the last evaluation
VIDEOS = "videos"
# What the steps of a run count, by the key of their number in usage.json.
STEP_NAMES = {"environment_steps": "environment steps", "gradient_updates": "gradient updates"}
CHECKPOINTS, LATEST, REPLAY = "checkpoints", "latest", "replay"
ADDED, MERGED = "added_seeds", ".added_seeds"  # while they train, and while they are removed after merging
# Why a seed stopped before the others: it reached train.target_success, or a value of it was not finite.
TARGET_MET, NOT_FINITE = "target met", "not finite"
EVALUATION_SEED = 0  # of the episodes of every evaluation in metrics.csv


def write_settings(run_dir: Path, text: str, operative_text: str) -> None:
    """Writes the settings that a run trains with from now on: all bindings, and those in use with their defaults."""
    (run_dir / CHECKPOINTS).mkdir(exist_ok=True)
    write_text(run_dir / CONFIG_FILE, text)
    write_text(run_dir / OPERATIVE_CONFIG_FILE, operative_text)
    write_text(run_dir / CHECKPOINTS / CONFIG_FILE, text)


def settings_path(run_dir: Path) -> Path:
    """The file of the settings that a run was trained with: config.gin may have been edited since."""
    if has_checkpoint(run_dir) and (kept := earlier_settings_path(run_dir)).exists():
        return kept  # nothing has been trained with the newer ones yet
    written = run_dir / CHECKPOINTS / CONFIG_FILE
    return written if written.exists() else run_dir / CONFIG_FILE  # a copy may lack the checkpoints


def earlier_settings_path(run_dir: Path) -> Path:
    """Where the settings used until the latest checkpoint are kept, if the run continues with others."""
    return run_dir / f"config-{checkpoint_dir(run_dir).name}.gin"


def latest_link(run_dir: PathLike) -> Path:
    """The path of the link to the newest checkpoint, which may not exist."""
    return Path(run_dir) / CHECKPOINTS / LATEST


def has_checkpoint(run_dir: PathLike) -> bool:
    """Whether a run has a latest checkpoint."""
    return latest_link(run_dir).exists()


def checkpoint_dir(run_dir: PathLike, step: int | None = None) -> Path:
    """The directory of one checkpoint, by default the one that `latest` points to.

    Raises:
        LoadError: there is none; the message lists those that exist.
    """
    folder = latest_link(run_dir) if step is None else Path(run_dir) / CHECKPOINTS / str(step)
    if not folder.is_dir():
        there = ", ".join(map(str, checkpoint_steps(run_dir))) or "none"
        raise LoadError(f"{folder}: there is no such checkpoint; complete ones are: {there}")
    return folder.resolve()


def choose_checkpoint(path: PathLike, step: int | None = None) -> Path:
    """The checkpoint of the run in `path`, as `checkpoint_dir` finds it; or `path`, if it is a checkpoint itself.

    Raises:
        LoadError: there is none, or a step is given although `path` is a checkpoint.
    """
    path = Path(path)
    if (path / CHECKPOINTS).is_dir():
        return checkpoint_dir(path, step)
    if not part_path(path, "params").exists() and not dirs_of_several(path):
        raise LoadError(f"{path}: is neither a checkpoint nor the directory of a run that has one")
    if step is not None:
        raise LoadError(f"{path}: is not the directory of a run, so step={step} cannot be chosen there")
    return path


def checkpoint_steps(run_dir: PathLike) -> list[int]:
    """The steps of the complete checkpoints of a run, ascending."""
    folders = (Path(run_dir) / CHECKPOINTS).glob("*")
    names = (folder.name for folder in folders if folder.is_dir() and not folder.is_symlink())
    return sorted(map(int, filter(str.isdecimal, names)))


def seed_dirs(checkpoint: PathLike) -> dict[int, Path]:
    """The folder of each seed of a checkpoint, in ascending order of the seeds.

    Raises:
        LoadError: there is no checkpoint, or the file of a single seed is damaged or of another kind.
    """
    checkpoint = Path(checkpoint)
    alone = part_path(checkpoint, "params")
    if alone.exists():
        header = read_header(alone)
        check_kind(alone, header, "params")
        seed = header.get("seed", "")
        if not seed.isdecimal():
            raise LoadError(f"{alone}: its header names no seed; it is not a file of RLHive's checkpoints")
        return {int(seed): checkpoint}
    folders = dirs_of_several(checkpoint)
    if not folders:
        raise LoadError(
            f"{checkpoint}: is not a checkpoint, it has no params.safetensors and no seed_<seed>/"
        )
    return folders


def dirs_of_several(checkpoint: Path) -> dict[int, Path]:
    """The folders of a checkpoint of several seeds, in ascending order of the seeds; empty for a single seed."""
    numbers = (folder.name.removeprefix("seed_") for folder in checkpoint.glob("seed_*"))
    return {seed: checkpoint / f"seed_{seed}" for seed in sorted(map(int, filter(str.isdecimal, numbers)))}


def part_path(folder: Path, kind: str) -> Path:
    """The file of a seed's "params", "env_state" or "train_state" in its folder of a checkpoint."""
    return folder / f"{kind}.safetensors"


def read_progress(folder: Path) -> dict[str, Any]:
    """What a checkpoint keeps for a seed besides its trees, read from the seed's folder.

    Raises:
        LoadError: the file is missing or damaged.
    """
    path = part_path(folder, "train_state")
    return progress_in(path, read_header(path))


def progress_in(path: PathLike, header: Mapping[str, str]) -> dict[str, Any]:
    """What the header of a seed's file keeps besides the tree: JSON values by name.

    Raises:
        LoadError: it is missing or not a dict, or its "stopped_at" is not an int or has no "reason".
    """
    progress = header_json(path, header, "progress")
    if isinstance(progress, dict):
        stopped = [type(progress.get(name)) for name in ("stopped_at", "reason")]
        if "stopped_at" not in progress or stopped == [int, str]:
            return progress
    raise LoadError(
        f"{path}: its header has no valid 'progress', got {progress}; it is not a file of RLHive's checkpoints"
    )


def replay_path(run_dir: Path, step: int) -> Path:
    """The path of the replay of a step."""
    return run_dir / REPLAY / f"{step}.safetensors"


def drop_other_replays(run_dir: Path, step: int) -> None:
    """Removes the replays of all steps but one."""
    kept = replay_path(run_dir, step)
    for path in set(kept.parent.glob("*.safetensors")) - {kept}:
        path.unlink()


def read_usage(run_dir: PathLike) -> dict[str, float]:
    """The figures of a run by name, at least "seconds"; empty if it has no usage.json yet.

    Raises:
        ValueError: they are damaged.
    """
    path = Path(run_dir) / USAGE_FILE
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        usage = dict(json.loads(text))
        return {name: usage[name] + 0 for name in ("seconds", *usage)}
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f'{path}: is damaged: expected numbers by name, including "seconds", got {text[:80]!r}; '
            "remove it to continue without the time used so far"
        ) from None
