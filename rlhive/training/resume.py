"""Resuming a run: the state of its seeds in the checkpoint, and checks that it is the run that is configured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.algorithms import ALGORITHMS
from rlhive.core.errors import LoadError
from rlhive.core.replay import ReplayBuffer
from rlhive.core.replay_file import read_header
from rlhive.core.tree_file import named_leaves
from rlhive.metrics import read_metrics
from rlhive.runs.checkpoint import Checkpoint
from rlhive.runs.run_files import (
    METRICS_FILE,
    SPEC_FILE,
    checkpoint_dir,
    read_progress,
    read_usage,
    replay_path,
    seed_dirs,
)
from rlhive.runs.run_spec import RunSpec
from rlhive.training.stop import Stopped

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

LOG = logging.getLogger(__name__)


def restore_stopped(
    config: TrainConfig, checkpoint: Checkpoint, generators: Sequence[dict[str, torch.Generator]]
) -> dict[int, Stopped]:
    """Sets all generators to their saved states; returns the seeds that stopped before the checkpoint."""
    stopped = {}
    for index, (seed, progress) in enumerate(zip(config.seeds, checkpoint.progress, strict=True)):
        for name, states in checkpoint.generators.items():
            generators[index][name].set_state(states[index])
        if "stopped_at" in progress:
            stopped[seed] = Stopped(
                checkpoint.state[index],
                checkpoint.rollout[index],
                generators[index],
                progress["stopped_at"],
                progress["reason"],
            )
    return stopped


def restore_metrics(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The metrics `[S]` of the latest update of the seeds that train; empty before the first update."""
    rows = [own["metrics"] for own in checkpoint.progress if "stopped_at" not in own]
    names = rows[0] if rows else {}
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in names}


def check_same(run_dir: Path, saved: RunSpec, now: RunSpec) -> RunSpec:
    """The spec of a run that continues with the present configuration.

    Raises:
        LoadError: naming what differs.
    """
    for name in ("algorithm", "env", "encoder", "network", "dataset"):
        if getattr(saved, name) != getattr(now, name):
            difference = _difference(getattr(saved, name), getattr(now, name))
            raise LoadError(f"{run_dir}: cannot be resumed with another {name}: {difference}")
    return saved


def _difference(saved: Any, now: Any) -> str:
    if type(saved) is not type(now) or not attrs.has(type(saved)):
        return f"{saved!r} there, {now!r} in the configuration"
    names = [field.name for field in attrs.fields(type(saved)) if field.eq]
    pairs = {name: (getattr(saved, name), getattr(now, name)) for name in names}
    return "; ".join(f"{name} is {_difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1])


def check_state(run_dir: Path, setting: str, saved: TensorDict, now: TensorDict) -> None:
    """Refuses to resume if the saved state of a part, such as the optimizer, is not like that of the configured one.

    Args:
        run_dir: the run.
        setting: which part, such as "train.optimizer".
        saved: the state in the checkpoint.
        now: a fresh one of the same batch size.

    Raises:
        LoadError: with the first leaf that differs.
    """
    there, here = (
        {name: list(leaf.shape) for name, leaf in named_leaves(state).items()} for state in (saved, now)
    )
    for name in (*there, *here):
        if there.get(name) != here.get(name):
            raise LoadError(
                f"{run_dir}: cannot be resumed with another {setting}: {name} of its state is "
                f"{there.get(name, 'missing')} there, {here.get(name, 'missing')} in the configuration"
            )


def check_run_files(run_dir: Path) -> RunSpec:
    """The spec of a run, after a check of its files beside the checkpoints.

    Raises:
        LoadError: spec.json is missing or damaged.
        ValueError: usage.json or metrics.csv is damaged.
    """
    path = run_dir / SPEC_FILE
    if not path.exists():
        raise LoadError(f"{path}: is missing; copy it from the header of a params.safetensors of this run")
    spec = RunSpec.from_json(path.read_text(errors="replace"), path)
    read_usage(run_dir)
    if (run_dir / METRICS_FILE).exists():
        read_metrics(run_dir)
    else:
        LOG.warning("%s has no %s: its rows so far are lost, a new one begins", run_dir, METRICS_FILE)
    return spec


def progress_of(run_dir: Path) -> dict[int, Mapping[str, Any]]:
    """What the latest checkpoint of a run records of each seed beside its trees."""
    folders = seed_dirs(checkpoint_dir(run_dir))
    return {seed: read_progress(folder) for seed, folder in folders.items()}


def all_stopped(run_dir: Path) -> bool:
    """Whether no seed of a run is left to train: each met its target or is not finite."""
    return all("stopped_at" in progress for progress in progress_of(run_dir).values())


def replay_origin(spec: RunSpec, step: int) -> dict[str, str]:
    """What the header of a replay says of its origin."""
    return {"run_id": spec.run_id, "step": str(step)}


def check_saved_replay(config: TrainConfig, run_dir: Path, spec: RunSpec, step: int) -> None:
    """Refuses to resume if the replay of `step` is missing, of another run, or of other settings than configured.

    Raises:
        LoadError: naming the setting, or the remedy.
    """
    path = replay_path(run_dir, step)
    has_replay = not (ALGORITHMS[spec.algorithm].offline or all_stopped(run_dir))
    if not has_replay and not path.exists():
        return
    header = _replay_header(run_dir, spec, step)
    now = config.make_replay(num_envs=config.num_envs, total_steps=config.total_steps)
    capacity = int(header.get("max_rows", 0)) * now.num_envs
    for name, there, here in (
        ("NUM_ENVS", header.get("num_envs"), now.num_envs),
        ("replay.capacity", capacity, now.capacity // now.num_envs * now.num_envs),
        ("replay.prioritized", header.get("prioritized"), now.prioritized),
    ):
        if str(there) != str(here):
            raise LoadError(
                f"{run_dir}: cannot be resumed with {name}={here}, its replay is of {there}: leave it as it was"
            )


def load_replay(replay: ReplayBuffer, run_dir: Path, checkpoint: Checkpoint, seeds: Sequence[int]) -> None:
    """Fills a replay of these seeds with what was saved with a checkpoint.

    Raises:
        LoadError: it is missing, of another run, or cannot be read.
    """
    _replay_header(run_dir, checkpoint.spec, checkpoint.step)
    try:
        replay.load(replay_path(run_dir, checkpoint.step), seeds)
    except (ValueError, OSError) as error:
        raise LoadError(f"{run_dir}: its replay cannot be read: {error}") from None


def _replay_header(run_dir: Path, spec: RunSpec, step: int) -> dict[str, str]:
    """The header of the replay of a run at a step."""
    path = replay_path(run_dir, step)
    if not path.exists():
        raise LoadError(
            f"{path}: is missing, without which training cannot continue: copy it from where the run was; evaluating "
            "and exporting do without"
        )
    try:
        header = read_header(path)
    except (ValueError, OSError) as error:
        raise LoadError(f"{run_dir}: its replay cannot be read: {error}") from None
    for name, expected in replay_origin(spec, step).items():
        if (there := header.get(name)) != expected:
            raise LoadError(
                f"{path}: is of another run or step, {name} {there} instead of {expected}: copy it again"
            )
    return header
