"""Adding seeds to a finished run: they train in a directory inside it, as a run of theirs, and are merged into it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rlhive.core.checkpoint import checkpoint_dir, checkpoint_steps, replace_checkpoint, seed_dirs
from rlhive.core.checkpoint_files import read_part
from rlhive.core.files import replacing
from rlhive.core.tree_file import LoadError
from rlhive.record import merge_metrics

if TYPE_CHECKING:
    from rlhive.config import TrainConfig

ADDED = "added_seeds"


def is_under_way(run_dir: Path) -> bool:
    """Whether seeds are being added that have a checkpoint."""
    return (run_dir / ADDED / "checkpoints" / "latest").exists()


def seeds_to_add(run_dir: Path, config: TrainConfig) -> tuple[int, ...]:
    """The seeds of the configuration that the run has not, in their order; none where it is merely resumed.

    Raises:
        LoadError: a seed of the run is not in the configuration, or the run has not come to its end.
    """
    latest = checkpoint_dir(run_dir)
    half_merged = seed_dirs(checkpoint_dir(run_dir / ADDED)) if is_under_way(run_dir) else {}
    there = [seed for seed in seed_dirs(latest) if seed not in half_merged]
    added = tuple(seed for seed in config.seeds if seed not in there)
    if added and (lacking := [seed for seed in there if seed not in config.seeds]):
        raise LoadError(f"{run_dir} has the seeds {lacking} too: name them beside the seeds to add")
    if added and not 0 <= int(latest.name) - config.total_steps < config.num_envs:
        raise LoadError(
            f"{run_dir} is at step {latest.name}, not at the end of {config.total_steps} steps: resume it without the "
            f"seeds {list(added)} first, or give the TOTAL_STEPS it has"
        )
    return added


def merge_run(run_dir: Path, seeds: Sequence[int], before: Sequence[int]) -> None:
    """Merges the finished run in `run_dir / ADDED` into the run around it, then removes it.

    Each file is replaced in one step; after a crash the same call goes on.

    Args:
        run_dir: the run.
        seeds: the seeds of both, in the order they are to have.
        before: the seeds the run had, in the order it had them.
    """
    added_dir = run_dir / ADDED
    added = [seed for seed in seeds if seed not in before]
    last = checkpoint_dir(added_dir).name
    orders = {run_dir: _training(run_dir, before), added_dir: _training(added_dir, added)}
    replay = run_dir / "replay" / f"{last}.safetensors"
    training = set().union(*orders.values())
    if replay.exists():  # not where the algorithm learns from a data set
        _merge_replays(replay, orders, [seed for seed in seeds if seed in training])
    for step in checkpoint_steps(added_dir):
        if step in checkpoint_steps(run_dir):
            folders = seed_dirs(checkpoint_dir(run_dir, step)) | seed_dirs(checkpoint_dir(added_dir, step))
            replace_checkpoint(run_dir, step, folders)
    merge_metrics(run_dir, added_dir, seeds)
    for logger in ("tensorboard", "csv"):
        if (added_dir / logger).is_dir():
            shutil.copytree(added_dir / logger, run_dir / logger, dirs_exist_ok=True)
    shutil.rmtree(added_dir)


def _training(run_dir: Path, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds that have not stopped, whose transitions the replay has."""
    folders = seed_dirs(checkpoint_dir(run_dir))
    counters = {
        seed: read_part(folders[seed] / "train_state.safetensors", "train_state")[1].counters
        for seed in seeds
    }
    return [seed for seed in seeds if "stopped_at" not in counters[seed]]


def _merge_replays(path: Path, orders: dict[Path, list[int]], seeds: list[int]) -> None:
    """Joins the seeds' transitions, and their priorities where there are some."""
    columns: dict[int, dict[str, torch.Tensor]] = {}
    header: dict[str, str] = {}
    for run_dir, own in orders.items():
        if not own:
            continue
        with safe_open(run_dir / "replay" / path.name, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if int(header["num_seeds"]) == len(seeds) != len(own):
            return  # merged before a crash
        for index, seed in enumerate(own):
            columns[seed] = {
                n: tensor[:, [index]] for n, tensor in tensors.items() if not n.startswith("priorities.")
            }
            for name in ("leaves", "largest") if f"priorities.{index}.leaves" in tensors else ():
                columns[seed][f"priorities.{name}"] = tensors[f"priorities.{index}.{name}"]
    joined: dict[str, torch.Tensor] = {}
    for name in columns[seeds[0]] if seeds else ():
        if name.startswith("priorities."):
            leaf = name.removeprefix("priorities.")
            joined |= {f"priorities.{index}.{leaf}": columns[seed][name] for index, seed in enumerate(seeds)}
        else:
            joined[name] = torch.cat([columns[seed][name] for seed in seeds], dim=1)
    if joined:
        with replacing(path) as beside:
            save_file(joined, beside, metadata=header | {"num_seeds": str(len(seeds))})
